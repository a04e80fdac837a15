"""What every request must pass, and the headers that every answer carries."""

from urllib.parse import urlsplit

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
LOCAL = ("localhost", "127.0.0.1", "::1")


class Guard:
    """Refuses requests that other web pages make in the person's browser."""

    def __init__(self, app: ASGIApp, host: str) -> None:
        """Guard an application that listens on `host`.

        A page elsewhere can name this machine by a host name of its own (DNS rebinding), so where
        only this machine may ask, only its own names are taken.
        """
        self._app = app
        self._names = {*LOCAL, host.lower()} if host in LOCAL else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        line = self._refusal(scope["method"], Headers(scope=scope))
        answer = PlainTextResponse(line + "\n", 403) if line else self._app
        await answer(scope, receive, with_headers)

    def _refusal(self, method: str, headers: Headers) -> str:
        host = headers.get("host", "")
        if self._names is not None and _name(host) not in self._names:
            return "refused: this page answers under localhost and 127.0.0.1 only"
        origin = headers.get("origin")
        if method == "POST" and origin is not None and _place(origin) != host.lower():
            return "refused: another web page sent this"
        return ""


def _name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _place(origin: str) -> str:
    return origin.partition("://")[2].lower()
