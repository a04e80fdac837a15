"""Reads uploads within limits: returns files, or raises the reason for rejecting the request."""

import asyncio
import time
import unicodedata
from collections.abc import Callable

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from leukjax.data.decode import BadImage
from leukjax.demo.options import Options

FIELD = "images"
ZIP = b"PK\x03\x04"
LEAST_RATE = 4 << 10  # bytes per second, after `Options.seconds_to_head`
MAX_NAME = 255
# Characters that change the direction of the surrounding text.
_BIDI = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


class RequestError(Exception):
    """A rejected request, with its HTTP status and a line for the user."""

    def __init__(self, status: int, line: str):
        """Sets status and line."""
        super().__init__(line)
        self.status, self.line = status, line


class ByteBudget:
    """Limits the bytes of all uploads in progress; used by one event loop."""

    def __init__(self, limit: int):
        """Starts with the whole budget."""
        self._left = limit

    def take(self, count: int) -> bool:
        """Takes bytes from the budget; returns False, and takes none, if they exceed it."""
        if count > self._left:
            return False
        self._left -= count
        return True

    def give_back(self, count: int) -> None:
        """Returns bytes to the budget."""
        self._left += count


class Upload:
    """The bytes of one request, taken from a budget until `close`.

    Attributes:
      files: of the form, after `read`.
    """

    def __init__(self, budget: ByteBudget) -> None:
        """Starts without bytes."""
        self._budget, self._taken = budget, 0
        self.files: list[UploadFile] = []

    async def read(self, request: Request, options: Options) -> None:
        """Reads the form.

        A file larger than 1 MiB is in the temporary folder until `close`.

        Raises:
          RequestError: the upload is too large, too slow or empty, has too many files, or there are
            too many uploads.
        """
        self.files = await _files(request, options, self._take)
        for file in self.files:
            file.filename = printable(file.filename or "")

    async def close(self) -> None:
        """Removes the files."""
        for file in self.files:
            await file.close()
        self._budget.give_back(self._taken)
        self._taken = 0

    def _take(self, count: int) -> None:
        if not self._budget.take(count):
            raise RequestError(503, "too many uploads; no image was classified; try again")
        self._taken += count


def printable(name: str) -> str:
    """Returns a file name without control characters and changes of the text direction."""
    shown = "".join(
        "?" if unicodedata.category(letter) in ("Cc", "Cs") or letter in _BIDI else letter
        for letter in name
    )
    return shown if len(shown) <= MAX_NAME else shown[: MAX_NAME - 1] + "…"


async def _files(
    request: Request, options: Options, take: Callable[[int], None]
) -> list[UploadFile]:
    too_large = f"an upload may have {options.max_bytes >> 20} MiB; send fewer or smaller images"
    if _declared(request) > options.max_bytes:
        raise RequestError(413, too_large)
    slow = RequestError(408, "the upload was too slow; try again")
    received, started = 0, time.monotonic()

    async def receive() -> Message:
        nonlocal received
        async with asyncio.timeout(options.seconds_to_head):
            message = await request.receive()
        count = len(message.get("body", b""))
        received += count
        request.scope["leukjax.read"] = not message.get("more_body", False)
        if received > options.max_bytes:
            raise RequestError(413, too_large)
        take(count)
        late = time.monotonic() - started - options.seconds_to_head
        if message.get("more_body", False) and late > 0 and received < LEAST_RATE * late:
            raise slow
        return message

    bounded = Request(request.scope, receive)
    try:
        async with asyncio.timeout(options.seconds_to_upload):
            form = await bounded.form(
                max_files=options.max_files, max_fields=4, max_part_size=1 << 10
            )
    except TimeoutError as error:
        raise slow from error
    except HTTPException as error:  # of the parser
        if "Too many files" in str(error.detail):
            raise RequestError(
                413, f"an upload may have {options.max_files} images; send fewer"
            ) from error
        raise RequestError(400, f"the upload is damaged ({error.detail}); send it again") from error
    except (UnicodeError, ClientDisconnect) as error:  # an unknown charset; a closed connection
        raise RequestError(400, "the upload is damaged; send it again") from error
    images = [f for f in form.getlist(FIELD) if isinstance(f, UploadFile) and f.filename]
    for _, value in form.multi_items():
        if isinstance(value, UploadFile) and value not in images:
            await value.close()
    if not images:
        raise RequestError(400, "no image was sent; choose at least one")
    return images


async def drain(request: Request, options: Options) -> None:
    """Reads and discards the rest: a browser reads no response before it has sent its request.

    Beyond eight times the limit the connection is closed.
    """
    left, more = 8 * options.max_bytes, not request.scope.get("leukjax.read")
    try:
        async with asyncio.timeout(options.seconds_to_upload):
            while more and left > 0:
                message = await request.receive()
                left -= len(message.get("body", b""))
                more = message["type"] == "http.request" and message.get("more_body", False)
    except TimeoutError:
        return


def check_not_zip(data: bytes, name: str) -> None:
    """Raises BadImage for a zip file: its members would not be limited here."""
    if data.startswith(ZIP) or name.lower().endswith(".zip"):
        raise BadImage(
            f"{name}: is a zip file, which the page does not accept; send its images, or use "
            "leukjax.predict"
        )


def _declared(request: Request) -> int:
    text = request.headers.get("content-length", "0")
    return int(text) if text.isdecimal() else 0
