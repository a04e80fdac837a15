"""Connections that are silent, slow, malformed or unread, over raw sockets."""

import asyncio
import contextlib
import logging
import socket
import threading
import time
from types import SimpleNamespace

import pytest
from absl import logging as absl_logging
from form import Visitor, cell, encoded, form
from starlette.datastructures import UploadFile

from leukjax import command, terminal
from leukjax.demo.security import HEADERS, Guard, is_local
from leukjax.demo.upload import printable


@contextlib.contextmanager
def connections(port: int, count: int, data: bytes = b""):
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(count):
            made.append(stack.enter_context(socket.create_connection(("127.0.0.1", port), 30)))
            made[-1].sendall(data)
        yield made


def rest(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            found += part
    return found


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def assert_guarded(answer: bytes) -> None:
    head = answer.partition(b"\r\n\r\n")[0].decode().lower()
    for name, value in HEADERS.items():
        assert f"{name}: {value}".lower() in head, answer


@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: "])
def test_silent_connections_block_nobody(other_page, data):
    _, visitor = other_page(max_uploads=8, seconds_to_head=600.0)
    with connections(visitor.port, 64, data) as opened:  # twice as many as it holds
        for _ in range(3):
            assert visitor.ask("GET", "/style.css")[0] == 200
        assert len(visitor.rows(("a.png", encoded(cell(1))))) == 1
        for connection in opened:
            connection.setblocking(False)
        assert sum(map(is_closed, opened)) >= 32


def test_a_head_that_does_not_come_ends_the_connection(other_page):
    _, visitor = other_page(seconds_to_head=0.5)
    beginning = b"GET /style.css HTTP/1.1\r\nHost: localhost\r\n"
    started = time.monotonic()
    with connections(visitor.port, 1) as (silent,), connections(visitor.port, 1) as (slow,):
        with contextlib.suppress(OSError):
            for byte in beginning * 100:  # a byte at a time does not prolong it
                slow.send(bytes([byte]))
                time.sleep(0.05)
        assert rest(silent) == b""
        assert 0.4 < time.monotonic() - started < 20
    with connections(visitor.port, 1, beginning + b"\r\n") as (further,):
        assert b" 200 OK" in rest(further)  # and closed, as no second request came


def test_a_request_that_is_answered_slowly_is_not_ended(other_page, monkeypatch):
    page, visitor = other_page(seconds_to_head=0.3)
    whole = page._judges.prepare
    judges = SimpleNamespace(prepare=lambda pixels: (time.sleep(1), whole(pixels))[1])
    monkeypatch.setattr(page, "_judges", _With(page._judges, judges.prepare))
    assert visitor.rows(("a.png", encoded(cell(1))))[0]["predicted"]


class _With:
    def __init__(self, judges, prepare):
        self._judges, self.prepare = judges, prepare

    def __getattr__(self, name):
        return getattr(self._judges, name)


def test_a_body_that_does_not_come_is_refused(other_page):
    _, visitor = other_page(seconds_to_head=0.5)
    kind, body = form([("a.png", bytes(100_000))])
    head = f"POST /answers.json HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    with connections(visitor.port, 2, head.encode() + body[:500]) as (silent, slow):
        said = b""
        for byte in body[500:700]:
            with contextlib.suppress(OSError):
                slow.send(bytes([byte]))
            time.sleep(0.01)
        for connection in (silent, slow):
            said = rest(connection)
            assert said.startswith(b"HTTP/1.1 408"), said
            assert b"too slow" in said
            assert_guarded(said)
    assert len(visitor.rows(("a.png", encoded(cell(1))))) == 1


def test_an_answer_that_is_not_read_ends_the_connection(other_page):
    page, visitor = other_page(seconds_to_head=0.3)

    async def large(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(32 << 20)})

    page.app._app = large
    with connections(visitor.port, 1, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n") as (unread,):
        time.sleep(2)
        assert len(rest(unread)) < 32 << 20


def test_an_upload_is_read_where_it_is_decoded(other_page, monkeypatch):
    """Not while it waits for its turn: that held every waiting file in memory."""
    page, visitor = other_page()
    reading = []

    class Watched(UploadFile):
        async def read(self, size=-1):
            raise AssertionError("read in the event loop")

    prepare = page._prepare

    def watched(sent, name):
        reading.append(threading.current_thread().name)
        return prepare(sent, name)

    monkeypatch.setattr(page, "_prepare", watched)
    monkeypatch.setattr("starlette.formparsers.UploadFile", Watched)
    assert visitor.rows(("a.png", encoded(cell(1))))[0]["predicted"]
    assert len(reading) == 1
    assert reading[0].startswith("images")


def test_the_bytes_of_all_uploads_are_bounded(other_page):
    page, visitor = other_page()
    page._bytes._left = 200_000
    kind, body = form([("a.png", bytes(150_000))])
    head = f"POST /answers.json HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    with connections(visitor.port, 1, head.encode() + body[:-100]):
        until = time.monotonic() + 20
        while page._bytes._left > 60_000:
            assert time.monotonic() < until
            time.sleep(0.01)
        status, headers, text = visitor.send(("b.png", bytes(100_000)))
        assert (status, headers["retry-after"]) == (503, "5")
        assert "too many uploads at once" in text
    until = time.monotonic() + 20
    while page._bytes._left != 200_000:  # given back, after the break-off as well
        assert time.monotonic() < until, page._bytes._left
        time.sleep(0.01)
    assert len(visitor.rows(("a.png", encoded(cell(1))))) == 1
    assert page._bytes._left == 200_000


@pytest.mark.parametrize(
    "request_line",
    ["GET / HTTP/1.1\r\nHost: elsewhere.example", "GET /none HTTP/1.1\r\nHost: localhost",
     "DELETE / HTTP/1.1\r\nHost: localhost", "no request", "GET / HTTP/1.1",
     "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: x",
     "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: upgrade"],
)  # fmt: skip
def test_every_answer_has_the_headers(visitor, request_line):
    with connections(visitor.port, 1, f"{request_line}\r\n\r\n".encode()) as (connection,):
        assert_guarded(connection.recv(65536))


def test_a_failure_is_answered_with_headers_and_logged(other_page, monkeypatch, caplog):
    page, visitor = other_page()

    def fail(**names):
        raise RuntimeError("secret")

    monkeypatch.setattr(page, "_whole", SimpleNamespace(render=fail))
    status, headers, text = visitor.ask("GET", "/")
    assert status == 500
    assert "secret" not in text
    assert headers["content-security-policy"] == HEADERS["Content-Security-Policy"]
    until = time.monotonic() + 20
    while not (logged := [x for x in caplog.records if x.name == "absl" and x.exc_info]):
        assert time.monotonic() < until
        time.sleep(0.01)
    assert str(logged[0].exc_info[1]) == "secret"


def test_the_log_of_a_failure_has_its_traceback():
    """And that of another library has not: its errors reach people by other ways."""
    terminal.quiet_logging()
    said = []
    for path in (command.__file__, logging.__file__):
        record = logging.LogRecord("x", logging.ERROR, path, 1, "failed", (), None)
        try:
            raise ValueError("why")
        except ValueError as error:
            record.exc_info = (type(error), error, error.__traceback__)
        said.append(absl_logging.get_absl_handler().format(record))
    assert said[0].startswith("error: failed\nTraceback (most recent call last):\n")
    assert said[0].endswith("ValueError: why")
    assert said[1] == "error: failed"


@pytest.mark.parametrize(
    ("kind", "name"),
    [("; charset=utf-7", b"a+2AA-.png"), ("; charset=raw_unicode_escape", rb"a\ud800.png"),
     ("; charset=undefined", b"a.png"), ("", b"\xed\xa0\x80.png"), ("", b"\x1b[2J\xff.png")],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/", "/answers", "/answers.json"])
def test_no_name_of_a_file_makes_it_fail(visitor, kind, name, path):
    head = b'--edge\r\nContent-Disposition: form-data; name="images"; filename="' + name
    body = head + b'"\r\n\r\n' + encoded(cell(1)) + b"\r\n--edge--\r\n"
    status, headers, text = visitor.ask(
        "POST", path, body, Content_Type=f"multipart/form-data{kind}; boundary=edge"
    )
    assert status in (200, 400), text
    assert status == 200 or "undefined" in kind
    assert "content-security-policy" in headers
    assert "\x1b" not in text


def test_names_stay_readable():
    assert printable("Zelle 1\N{NO-BREAK SPACE}ä細胞.png") == "Zelle 1\N{NO-BREAK SPACE}ä細胞.png"
    assert printable("a\ud800\n\x1bb\N{RIGHT-TO-LEFT OVERRIDE}gnp.exe") == "a???b?gnp.exe"
    assert len(printable("x" * 5000)) == 255


def refused(host: str, name: str) -> bool:
    """Whether a guard of a page that listens on `host` refuses a request to `name`."""
    status = []

    async def app(scope, receive, send):
        status.append(200)

    async def send(message):
        status.append(message.get("status"))

    scope = {"type": "http", "method": "GET", "headers": [(b"host", name.encode())]}
    asyncio.run(Guard(app, host)(scope, None, send))
    return status[0] == 403


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "127.255.0.1", "::1", "localhost"])
def test_a_page_on_any_loopback_address_answers_to_this_machine_alone(host):
    assert is_local(host)
    for name in ("localhost:8000", "127.0.0.1", "127.0.0.2:80", "[::1]:8000"):
        assert not refused(host, name)
    for name in ("rebound.example", "192.0.2.1", "", "[", "localhost.example"):
        assert refused(host, name)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "cells.example"])
def test_a_page_elsewhere_answers_to_its_name_and_to_addresses(host):
    assert not is_local(host)
    for name in ("localhost", "192.0.2.1:8000", f"[{host}]" if ":" in host else host):
        assert not refused(host, name)
    assert refused(host, "rebound.example")
    assert refused(host, "")


def test_a_page_is_reached_under_the_name_of_its_machine():
    assert not refused("0.0.0.0", socket.gethostname())
    assert refused("127.0.0.1", socket.gethostname()) or socket.gethostname() == "localhost"


def test_visitors_after_all_this_are_answered(visitor: Visitor):
    assert len(visitor.rows(("a.png", encoded(cell(1))))) == 1
