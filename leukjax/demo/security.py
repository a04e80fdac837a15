"""What every request must pass, and the headers that every answer carries."""

import ipaddress
import socket
from urllib.parse import urlsplit

from absl import logging
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    # Nothing from anywhere else, and nothing written into the page runs. Pictures are inside it.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    # Not "no-referrer": browsers would then send forms with the origin "null".
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def is_local(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    address = _address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


class Guard:
    """Refuses requests that other web pages make in the person's browser; answers failures.

    It is outermost, so that an error inside is logged and answered with the headers, too.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        """Guard an application that listens on `host`.

        A page elsewhere can name this machine by a host name of its own (DNS rebinding), so only
        the machine's own names are taken: those of this machine alone where only it can ask, else
        the name that was given, or for an address any address, which no such page can be under.
        """
        self._app = app
        self._is_local = is_local(host)
        self._names = {"localhost", host.lower()}
        if _address(host) is not None and not self._is_local:  # 0.0.0.0 is all of its addresses
            self._names.add(socket.gethostname().lower())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
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

        line = self._refusal(scope["method"], Headers(scope=scope))
        answer = PlainTextResponse(line + "\n", 403) if line else self._app
        try:
            await answer(scope, receive, with_headers)
        except Exception:  # a bug; what it is stays in the log
            logging.exception("a request failed")
            if started:
                raise  # the connection breaks off
            failed = PlainTextResponse("the page failed; its log has the cause\n", 500)
            await failed(scope, receive, with_headers)

    def _refusal(self, method: str, headers: Headers) -> str:
        host = headers.get("host", "")
        if not self._is_ours(_name(host)):
            return "refused: this page does not answer under this name; use the address it printed"
        origin = headers.get("origin")
        if method == "POST" and origin is not None and _place(origin) != host.lower():
            return "refused: another web page sent this"
        return ""

    def _is_ours(self, name: str) -> bool:
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


def _place(origin: str) -> str:
    return origin.partition("://")[2].lower()
