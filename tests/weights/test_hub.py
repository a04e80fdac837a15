"""Files of the hub are downloaded once, checked and cached; offline an error says what to do."""

import contextlib
import hashlib
import http.server
import threading
from typing import ClassVar

import pytest

from leukjax.errors import UserError
from leukjax.weights import hub

CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Hub(http.server.BaseHTTPRequestHandler):
    """Leads to another address, as the hub does, and states the checksum before."""

    requests: ClassVar[list[str]] = []
    etag: str | None = f'"{SHA256}"'
    linked_size: str | None = str(len(CONTENT))
    size: str | None = str(len(CONTENT))
    body = CONTENT
    refused = 0  # status of the answer, if not the file

    def _answer(self, body: bool) -> None:
        token = self.headers.get("Authorization", "")
        type(self).requests.append(f"{self.command} {self.path} {token}")
        if self.refused:
            self.send_error(self.refused)
            return
        if self.path == "/timm/x/resolve/main/model.safetensors":
            self.send_response(302)
            self._header("X-Linked-Etag", self.etag)
            self._header("X-Linked-Size", self.linked_size)
            self.send_header("Location", "/cdn")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path == "/timm/renamed/resolve/main/model.safetensors":
            self.send_response(307)
            self.send_header("Location", "/timm/x/resolve/main/model.safetensors")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path == "/timm/circle/resolve/main/model.safetensors":
            self.send_response(307)
            self.send_header("Location", self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path == "/cdn":
            self.send_response(200)
            self._header("Content-Length", self.size)
            self.end_headers()
            if body:
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(self.body)
        else:
            self.send_error(404)

    def _header(self, name: str, value: str | None) -> None:
        if value is not None:
            self.send_header(name, value)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    handler = type("Once", (Hub,), {"requests": []})
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
    requests = len(server.requests)
    assert hub.fetch("hf://timm/x", str(tmp_path)) == path
    assert len(server.requests) == requests
    path.write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(UserError, match=r"is damaged .*: remove it and start again"):
        hub.fetch("hf://timm/x", str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"etag": '"' + "0" * 64 + '"'}, "another checksum than the hub states"),
        ({"etag": None}, "states no SHA-256 of it"),
        ({"etag": f'W/"{SHA256}"'}, "where the SHA-256 is expected"),
        ({"etag": f'"{SHA256.upper()}"'}, "where the SHA-256 is expected"),
        (
            {"etag": '"' + "ab" * 20 + '"'},
            "where the SHA-256 is expected",
        ),  # git's, of a small file
        ({"etag": ""}, "where the SHA-256 is expected"),
        ({"body": CONTENT[:-9]}, "6,991 of 7,000 bytes were sent"),
        ({"body": CONTENT[:-9], "size": None}, "only 6,991 of 7,000 bytes were sent"),
        ({"body": CONTENT + b"!", "size": None}, "more than 7,000 bytes were sent"),
        ({"size": "-5"}, "Content-Length is '-5', not a size"),
        ({"size": "9" * 30}, "not a size"),
        ({"linked_size": "6999"}, "two sizes are stated"),
        ({"linked_size": str(2**40), "size": None}, "the largest accepted"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_damaged_download_is_not_kept(server, tmp_path, changes, message):
    for name, value in changes.items():
        setattr(server, name, value)
    with pytest.raises(UserError, match=message) as caught:
        hub.fetch("hf://timm/x", str(tmp_path))
    assert str(caught.value).endswith("model.safetensors")  # where to put it by hand
    assert "\n" not in str(caught.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_download_that_states_no_size_is_bounded(server, tmp_path, monkeypatch):
    server.linked_size = server.size = None
    path = hub.fetch("hf://timm/x", str(tmp_path / "one"))
    assert path.read_bytes() == CONTENT
    monkeypatch.setattr(hub, "MAX_BYTES", len(CONTENT) - 1)
    with pytest.raises(UserError, match="more than 6,999 bytes were sent"):
        hub.fetch("hf://timm/x", str(tmp_path / "two"))


def test_a_repository_that_was_renamed(server, tmp_path):
    assert hub.fetch("hf://timm/renamed", str(tmp_path)).read_bytes() == CONTENT
    with pytest.raises(UserError, match="too many redirections"):
        hub.fetch("hf://timm/circle", str(tmp_path))


def test_a_cache_that_cannot_be_written_is_named(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^data\.cache_dir: .*LEUKJAX_CACHE"):
        hub.fetch("hf://timm/x", str(tmp_path / "file"))


def test_offline_the_error_says_where_to_put_a_copy(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # no server
    with pytest.raises(UserError) as error:
        hub.fetch("hf://timm/x@v2/a/b.safetensors", str(tmp_path))
    expected = tmp_path / "weights" / "timm" / "x" / "v2" / "a" / "b.safetensors"
    url = "http://127.0.0.1:9/timm/x/resolve/v2/a/b.safetensors"
    assert f"cannot download {url} (" in str(error.value)
    assert str(error.value).endswith(f"download it elsewhere and put it at {expected}")
    expected.write_bytes(CONTENT)
    assert hub.fetch("hf://timm/x@v2/a/b.safetensors", str(tmp_path)) == expected


@pytest.mark.parametrize(
    "text", ["hf://timm", "hf://timm/../x", "hf://timm/x/../../y", "hf://a/b@", "hf://a/b//c"]
)
def test_addresses_of_another_form_are_refused(text, tmp_path):
    with pytest.raises(UserError, match="must read hf://OWNER/NAME"):
        hub.fetch(text, str(tmp_path))


def test_a_missing_file_is_an_error(server, tmp_path):
    with pytest.raises(UserError, match=r"cannot download .*Not Found"):
        hub.fetch("hf://timm/other", str(tmp_path))


def test_a_token_is_sent_to_the_hub_and_not_beyond(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret\n")
    hub.fetch("hf://timm/renamed", str(tmp_path))
    sent = {line.split()[1] for line in server.requests if "Bearer hf_secret" in line}
    bare = {line.split()[1] for line in server.requests if "Bearer" not in line}
    assert sent == {
        "/timm/renamed/resolve/main/model.safetensors",
        "/timm/x/resolve/main/model.safetensors",
    }
    assert bare == {"/cdn"}


@pytest.mark.parametrize("code", [401, 403])
def test_a_gated_repository_says_what_to_do(server, tmp_path, code):
    server.refused = code
    with pytest.raises(UserError) as error:
        hub.fetch("hf://timm/x", str(tmp_path))
    page = f"{hub.parse('hf://timm/x').page}"
    assert str(error.value).endswith(f"(HTTP {code}): accept the terms at {page} and set HF_TOKEN")
    assert "\n" not in str(error.value)


def test_a_token_that_is_none_is_refused_and_not_shown(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf secret\r\nX: y")
    with pytest.raises(UserError, match=r"^HF_TOKEN: is not a token") as error:
        hub.fetch("hf://timm/x", str(tmp_path))
    assert "secret" not in str(error.value)
    assert not server.requests
