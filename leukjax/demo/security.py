"""Security of the server: checked requests, headers of every response, limited connections."""

import asyncio
import ipaddress
import socket
from typing import Any, ClassVar
from urllib.parse import urlsplit

import h11
from absl import logging
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from leukjax.demo.options import Options

HEADERS = {
    # No resources from elsewhere and no inline scripts; pictures are data URIs.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    # Not "no-referrer", with which browsers send forms with the origin "null".
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}

# A client must read at least this many bytes of a response in `seconds_to_head`.
_LEAST_READ = 16 << 10


def is_local(host: str) -> bool:
    """Returns whether only this machine can reach a server that listens on `host`."""
    address = _address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


class SecurityMiddleware:
    """Rejects requests that other web pages make in the user's browser, and handles errors.

    It is the outermost layer, so that errors are logged and their responses have the headers.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        """Wraps an application that listens on `host`.

        A page elsewhere can point a host name of its own at this machine (DNS rebinding), so only
        known names are accepted: the local ones if the server is local, else the given name, or
        any address if an address was given, because no such page can have an address as its name.
        """
        self._app = app
        self._is_local = is_local(host)
        self._names = {"localhost", host.lower()}
        if _address(host) is not None and not self._is_local:  # 0.0.0.0 is every address
            self._names.add(socket.gethostname().lower())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        message = self._rejection(scope["method"], Headers(scope=scope))
        app = PlainTextResponse(message + "\n", 403) if message else self._app
        try:
            await app(scope, receive, with_headers)
        except Exception:  # a bug; only the log has the details
            logging.exception("a request failed")
            if started:
                raise  # closes the connection
            failed = PlainTextResponse("internal error; see the log of the server\n", 500)
            await failed(scope, receive, with_headers)

    def _rejection(self, method: str, headers: Headers) -> str:
        host = headers.get("host", "")
        if not self._is_known(_name(host)):
            return "rejected: unknown host name; use the address that the server printed"
        origin = headers.get("origin")
        if method == "POST" and origin is not None and _host_of(origin) != host.lower():
            return "rejected: sent by another web page"
        return ""

    def _is_known(self, name: str) -> bool:
        address = _address(name)
        if address is None:
            return name in self._names
        return address.is_loopback or not self._is_local


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None


def _name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _host_of(origin: str) -> str:
    return origin.partition("://")[2].lower()


class LimitedConnection(H11Protocol):
    """A connection of uvicorn with limits on time and number.

    - The head of each request must arrive within `seconds_to_head`.
    - With more than `max_connections` the one that has waited longest for a request is closed; if
      all are busy, the new one.
    - A client that does not read its response is disconnected.

    Made by `limited_connections`, which creates a class for each server.
    """

    seconds_to_head: ClassVar[float]
    max_connections: ClassVar[int]
    # Connections that wait for a request, the longest first, with their timeouts.
    waiting: ClassVar[dict["LimitedConnection", asyncio.TimerHandle]]

    def connection_made(self, transport: Any) -> None:
        """Accepts a connection; at the limit it closes another."""
        self._stalled: asyncio.TimerHandle | None = None
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            surplus = next(iter(self.waiting), self)
            surplus.transport.abort()
            if surplus is self:
                return
            surplus._not_waiting()
        self._update_timeout()

    def connection_lost(self, exc: Exception | None) -> None:
        """Removes the connection."""
        self._not_waiting()
        if self._stalled is not None:
            self._stalled.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Receives bytes; a complete head ends the timeout."""
        super().data_received(data)
        self._update_timeout()

    def on_response_complete(self) -> None:
        """Starts the timeout of the next request."""
        super().on_response_complete()
        self._update_timeout()

    def pause_writing(self) -> None:
        """Starts the timeout of a client that does not read."""
        super().pause_writing()
        left = self.transport.get_write_buffer_size()
        self._stalled = self.loop.call_later(self.seconds_to_head, self._check_reading, left)

    def resume_writing(self) -> None:
        """Ends the timeout: the client has read."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def send_400_response(self, msg: str) -> None:
        """Responds to invalid HTTP, with the headers of every response."""
        headers = [*HEADERS.items(), ("content-type", "text/plain; charset=utf-8")]
        response = h11.Response(
            status_code=400, headers=[*headers, ("connection", "close")], reason=b"Bad Request"
        )
        for event in (response, h11.Data(data=msg.encode("ascii")), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _update_timeout(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._not_waiting()
        elif self not in self.waiting and not self.transport.is_closing():
            self.waiting[self] = self.loop.call_later(self.seconds_to_head, self.transport.abort)

    def _not_waiting(self) -> None:
        timer = self.waiting.pop(self, None)
        if timer is not None:
            timer.cancel()

    def _check_reading(self, before: int) -> None:
        left = self.transport.get_write_buffer_size()
        if before - left < _LEAST_READ:
            self.transport.abort()
        else:
            self._stalled = self.loop.call_later(self.seconds_to_head, self._check_reading, left)


def limited_connections(options: Options) -> type[LimitedConnection]:
    """Returns the connection class of one server."""

    class Connection(LimitedConnection):
        seconds_to_head = options.seconds_to_head
        max_connections = options.max_connections
        waiting: ClassVar[dict[LimitedConnection, asyncio.TimerHandle]] = {}

    return Connection
