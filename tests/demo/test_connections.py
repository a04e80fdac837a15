"""Connections that are silent, slow, malformed or not read, over raw sockets."""

import asyncio
import contextlib
import logging
import socket
import threading
import time
from types import SimpleNamespace

import pytest
from absl import logging as absl_logging
from form import Client, cell, encoded, form
from starlette.datastructures import UploadFile

from leukjax import command, terminal
from leukjax.demo.security import HEADERS, SecurityMiddleware, is_local
from leukjax.demo.upload import printable


@contextlib.contextmanager
def connections(port: int, count: int, data: bytes = b""):
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(count):
            opened.append(stack.enter_context(socket.create_connection(("127.0.0.1", port), 30)))
            opened[-1].sendall(data)
        yield opened


def rest(connection: socket.socket) -> bytes:
    """Returns what arrives until the other side closes."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            received += part
    return received


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def assert_headers(response: bytes) -> None:
    head = response.partition(b"\r\n\r\n")[0].decode().lower()
    for name, value in HEADERS.items():
        assert f"{name}: {value}".lower() in head, response


@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: "])
def test_silent_connections_do_not_block_others(other_page, data):
    _, client = other_page(max_uploads=8, seconds_to_head=600.0)
    with connections(client.port, 64, data) as opened:  # twice its limit
        for _ in range(3):
            assert client.request("GET", "/style.css")[0] == 200
        assert len(client.rows(("a.png", encoded(cell(1))))) == 1
        for connection in opened:
            connection.setblocking(False)
        assert sum(map(is_closed, opened)) >= 32


def test_a_missing_head_closes_the_connection(other_page):
    _, client = other_page(seconds_to_head=0.5)
    beginning = b"GET /style.css HTTP/1.1\r\nHost: localhost\r\n"
    started = time.monotonic()
    with connections(client.port, 1) as (silent,), connections(client.port, 1) as (slow,):
        with contextlib.suppress(OSError):
            for byte in beginning * 100:  # single bytes do not extend the timeout
                slow.send(bytes([byte]))
                time.sleep(0.05)
        assert rest(silent) == b""
        assert 0.4 < time.monotonic() - started < 20
    with connections(client.port, 1, beginning + b"\r\n") as (further,):
        assert b" 200 OK" in rest(further)  # and closed, because no second request came


def test_a_slow_response_does_not_time_out(other_page, monkeypatch):
    page, client = other_page(seconds_to_head=0.3)
    prepare = page._prepare

    def slow(*arguments):
        time.sleep(1)
        return prepare(*arguments)

    monkeypatch.setattr(page, "_prepare", slow)
    assert client.rows(("a.png", encoded(cell(1))))[0]["predicted"]


def test_a_missing_body_is_rejected(other_page):
    _, client = other_page(seconds_to_head=0.5)
    content_type, body = form([("a.png", bytes(100_000))])
    head = f"POST /answers.json HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    with connections(client.port, 2, head.encode() + body[:500]) as (silent, slow):
        for byte in body[500:700]:
            with contextlib.suppress(OSError):
                slow.send(bytes([byte]))
            time.sleep(0.01)
        for connection in (silent, slow):
            response = rest(connection)
            assert response.startswith(b"HTTP/1.1 408"), response
            assert b"too slow" in response
            assert_headers(response)
    assert len(client.rows(("a.png", encoded(cell(1))))) == 1


def test_an_unread_response_closes_the_connection(other_page):
    page, client = other_page(seconds_to_head=0.3)

    async def large(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(32 << 20)})

    page.app._app = large
    with connections(client.port, 1, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n") as (unread,):
        time.sleep(2)
        assert len(rest(unread)) < 32 << 20


def test_an_upload_is_read_in_the_thread_that_decodes_it(other_page, monkeypatch):
    """Reading it earlier held every waiting file in memory."""
    page, client = other_page()
    reading = []

    class Watched(UploadFile):
        async def read(self, size=-1):
            raise AssertionError("read in the event loop")

    prepare = page._prepare

    def record(file, name):
        reading.append(threading.current_thread().name)
        return prepare(file, name)

    monkeypatch.setattr(page, "_prepare", record)
    monkeypatch.setattr("starlette.formparsers.UploadFile", Watched)
    assert client.rows(("a.png", encoded(cell(1))))[0]["predicted"]
    assert len(reading) == 1
    assert reading[0].startswith("images")


def test_the_bytes_of_all_uploads_are_limited(other_page):
    page, client = other_page()
    page._budget._left = 200_000
    content_type, body = form([("a.png", bytes(150_000))])
    head = f"POST /answers.json HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    with connections(client.port, 1, head.encode() + body[:-100]):
        until = time.monotonic() + 20
        while page._budget._left > 60_000:
            assert time.monotonic() < until
            time.sleep(0.01)
        status, headers, text = client.send(("b.png", bytes(100_000)))
        assert (status, headers["retry-after"]) == (503, "5")
        assert "too many uploads" in text
    until = time.monotonic() + 20
    while page._budget._left != 200_000:  # also returned after a closed connection
        assert time.monotonic() < until, page._budget._left
        time.sleep(0.01)
    assert len(client.rows(("a.png", encoded(cell(1))))) == 1
    assert page._budget._left == 200_000


@pytest.mark.parametrize(
    "request_line",
    ["GET / HTTP/1.1\r\nHost: elsewhere.example", "GET /none HTTP/1.1\r\nHost: localhost",
     "DELETE / HTTP/1.1\r\nHost: localhost", "no request", "GET / HTTP/1.1",
     "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: x",
     "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: upgrade"],
)  # fmt: skip
def test_every_response_has_the_headers(client, request_line):
    with connections(client.port, 1, f"{request_line}\r\n\r\n".encode()) as (connection,):
        assert_headers(connection.recv(65536))


def test_an_error_has_headers_and_is_logged(other_page, monkeypatch, caplog):
    page, client = other_page()

    def fail(**names):
        raise RuntimeError("secret")

    monkeypatch.setattr(page, "_full_page", SimpleNamespace(render=fail))
    status, headers, text = client.request("GET", "/")
    assert status == 500
    assert "secret" not in text
    assert headers["content-security-policy"] == HEADERS["Content-Security-Policy"]
    until = time.monotonic() + 20
    while not (logged := [x for x in caplog.records if x.name == "absl" and x.exc_info]):
        assert time.monotonic() < until
        time.sleep(0.01)
    assert str(logged[0].exc_info[1]) == "secret"


def test_the_log_of_a_failure_has_its_traceback():
    """The record of another library has not: its errors are reported in other ways."""
    terminal.quiet_logging()
    texts = []
    for path in (command.__file__, logging.__file__):
        record = logging.LogRecord("x", logging.ERROR, path, 1, "failed", (), None)
        try:
            raise ValueError("why")
        except ValueError as error:
            record.exc_info = (type(error), error, error.__traceback__)
        texts.append(absl_logging.get_absl_handler().format(record))
    assert texts[0].startswith("error: failed\nTraceback (most recent call last):\n")
    assert texts[0].endswith("ValueError: why")
    assert texts[1] == "error: failed"


@pytest.mark.parametrize(
    ("kind", "name"),
    [("; charset=utf-7", b"a+2AA-.png"), ("; charset=raw_unicode_escape", rb"a\ud800.png"),
     ("; charset=undefined", b"a.png"), ("", b"\xed\xa0\x80.png"), ("", b"\x1b[2J\xff.png")],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/", "/answers", "/answers.json"])
def test_no_file_name_causes_an_error(client, kind, name, path):
    head = b'--edge\r\nContent-Disposition: form-data; name="images"; filename="' + name
    body = head + b'"\r\n\r\n' + encoded(cell(1)) + b"\r\n--edge--\r\n"
    status, headers, text = client.request(
        "POST", path, body, Content_Type=f"multipart/form-data{kind}; boundary=edge"
    )
    assert status in (200, 400), text
    assert status == 200 or "undefined" in kind
    assert "content-security-policy" in headers
    assert "\x1b" not in text


def test_names_are_printable():
    assert printable("Zelle 1\N{NO-BREAK SPACE}ä細胞.png") == "Zelle 1\N{NO-BREAK SPACE}ä細胞.png"
    assert printable("a\ud800\n\x1bb\N{RIGHT-TO-LEFT OVERRIDE}gnp.exe") == "a???b?gnp.exe"
    assert len(printable("x" * 5000)) == 255


def rejected(host: str, name: str) -> bool:
    """Returns whether a page that listens on `host` rejects a request to `name`."""
    status = []

    async def app(scope, receive, send):
        status.append(200)

    async def send(message):
        status.append(message.get("status"))

    scope = {"type": "http", "method": "GET", "headers": [(b"host", name.encode())]}
    asyncio.run(SecurityMiddleware(app, host)(scope, None, send))
    return status[0] == 403


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "127.255.0.1", "::1", "localhost"])
def test_a_page_on_a_loopback_address_accepts_local_names_only(host):
    assert is_local(host)
    for name in ("localhost:8000", "127.0.0.1", "127.0.0.2:80", "[::1]:8000"):
        assert not rejected(host, name)
    for name in ("rebound.example", "192.0.2.1", "", "[", "localhost.example"):
        assert rejected(host, name)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "cells.example"])
def test_a_page_on_other_addresses_accepts_its_name_and_addresses(host):
    assert not is_local(host)
    for name in ("localhost", "192.0.2.1:8000", f"[{host}]" if ":" in host else host):
        assert not rejected(host, name)
    assert rejected(host, "rebound.example")
    assert rejected(host, "")


def test_a_page_accepts_the_name_of_its_machine():
    assert not rejected("0.0.0.0", socket.gethostname())
    assert rejected("127.0.0.1", socket.gethostname()) or socket.gethostname() == "localhost"


def test_the_server_still_works_after_all_this(client: Client):
    assert len(client.rows(("a.png", encoded(cell(1))))) == 1
