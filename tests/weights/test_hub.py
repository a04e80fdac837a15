"""hf://… is downloaded once, checked, and kept; offline one line says what to put where."""

import hashlib
import http.server
import threading
from typing import ClassVar

import pytest

from leukjax.errors import UserError
from leukjax.weights import hub

CONTENT = b"weights" * 1000


class Hub(http.server.BaseHTTPRequestHandler):
    """Leads to another address, as the hub does, and states the checksum before."""

    asked: ClassVar[list[str]] = []
    etag = hashlib.sha256(CONTENT).hexdigest()
    body = CONTENT

    def _answer(self, body: bool) -> None:
        type(self).asked.append(f"{self.command} {self.path}")
        if self.path == "/timm/x/resolve/main/model.safetensors":
            self.send_response(302)
            self.send_header("X-Linked-Etag", f'"{self.etag}"')
            self.send_header("Location", "/cdn")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path == "/cdn":
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            if body:
                self.wfile.write(self.body)
        else:
            self.send_error(404)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def server(monkeypatch):
    handler = type("Once", (Hub,), {"asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{served.server_port}")
        yield handler
        served.shutdown()
        thread.join()


def test_a_file_is_downloaded_once_and_looked_at_again(server, tmp_path):
    path = hub.fetch("hf://timm/x", str(tmp_path))
    assert path == tmp_path / "weights" / "timm" / "x" / "main" / "model.safetensors"
    assert path.read_bytes() == CONTENT
    asked = len(server.asked)
    assert hub.fetch("hf://timm/x", str(tmp_path)) == path
    assert len(server.asked) == asked
    path.write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(UserError, match=r"is damaged .*: remove it and start again"):
        hub.fetch("hf://timm/x", str(tmp_path))


@pytest.mark.parametrize(
    ("etag", "body", "says"),
    [("0" * 64, CONTENT, "another checksum than the hub states"), (None, CONTENT[:-9], "came")],
)
def test_what_comes_damaged_is_not_kept(server, tmp_path, etag, body, says):
    server.etag, server.body = etag or server.etag, body
    with pytest.raises(UserError, match=says):
        hub.fetch("hf://timm/x", str(tmp_path))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_offline_the_error_says_what_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(UserError) as error:
        hub.fetch("hf://timm/x@v2/a/b.safetensors", str(tmp_path))
    place = tmp_path / "weights" / "timm" / "x" / "v2" / "a" / "b.safetensors"
    url = "http://127.0.0.1:9/timm/x/resolve/v2/a/b.safetensors"
    assert f"cannot download {url} (" in str(error.value)
    assert str(error.value).endswith(f"download it elsewhere and put it at {place}")
    place.write_bytes(CONTENT)
    assert hub.fetch("hf://timm/x@v2/a/b.safetensors", str(tmp_path)) == place


@pytest.mark.parametrize(
    "text", ["hf://timm", "hf://timm/../x", "hf://timm/x/../../y", "hf://a/b@", "hf://a/b//c"]
)
def test_an_address_reads_in_one_way(text, tmp_path):
    with pytest.raises(UserError, match="must read hf://OWNER/NAME"):
        hub.fetch(text, str(tmp_path))


def test_a_missing_file_is_said(server, tmp_path):
    with pytest.raises(UserError, match=r"cannot download .*Not Found"):
        hub.fetch("hf://timm/other", str(tmp_path))
