"""What a browser sends, within bounds: files out, or a refusal that says why."""

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
# Characters that turn the direction of the text around them.
_TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


class Refused(Exception):
    """A request that gets no answer, with its HTTP status and a line for the person."""

    def __init__(self, status: int, line: str):
        """Keep both."""
        super().__init__(line)
        self.status, self.line = status, line


class Bytes:
    """How many bytes all uploads hold at once; used by one event loop."""

    def __init__(self, most: int):
        """Start at none."""
        self._left = most

    def take(self, count: int) -> bool:
        """Count bytes in; False, and none counted, where there are too many."""
        if count > self._left:
            return False
        self._left -= count
        return True

    def give_back(self, count: int) -> None:
        """Count bytes out."""
        self._left += count


class Upload:
    """One request's bytes, counted among those `at_once` until `close`.

    Attributes:
      files: of the form, after `read`.
    """

    def __init__(self, at_once: Bytes) -> None:
        """Hold nothing yet."""
        self._at_once, self._taken = at_once, 0
        self.files: list[UploadFile] = []

    async def read(self, request: Request, options: Options) -> None:
        """Read the form.

        A file larger than 1 MiB is in the temporary folder until `close`.

        Raises:
          Refused: too large, too many, too slow, none, or too much at once.
        """
        self.files = await _files(request, options, self._take)
        for file in self.files:
            file.filename = printable(file.filename or "")

    async def close(self) -> None:
        """Remove the files."""
        for file in self.files:
            await file.close()
        self._at_once.give_back(self._taken)
        self._taken = 0

    def _take(self, count: int) -> None:
        if not self._at_once.take(count):
            raise Refused(503, "too many uploads at once; nothing was looked at; try again")
        self._taken += count


def printable(name: str) -> str:
    """A file's name without what cannot be encoded, moves a cursor or turns the text around it."""
    shown = "".join(
        "?" if unicodedata.category(letter) in ("Cc", "Cs") or letter in _TURNING else letter
        for letter in name
    )
    return shown if len(shown) <= MAX_NAME else shown[: MAX_NAME - 1] + "…"


async def _files(
    request: Request, options: Options, take: Callable[[int], None]
) -> list[UploadFile]:
    most = f"an upload may hold {options.max_bytes >> 20} MiB; send fewer or smaller images"
    if _declared(request) > options.max_bytes:
        raise Refused(413, most)
    slow = Refused(408, "the upload was too slow; try again")
    got, started = 0, time.monotonic()

    async def receive() -> Message:
        nonlocal got
        async with asyncio.timeout(options.seconds_to_head):
            message = await request.receive()
        count = len(message.get("body", b""))
        got += count
        request.scope["leukjax.read"] = not message.get("more_body", False)
        if got > options.max_bytes:
            raise Refused(413, most)
        take(count)
        late = time.monotonic() - started - options.seconds_to_head
        if message.get("more_body", False) and late > 0 and got < LEAST_RATE * late:
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
            raise Refused(
                413, f"an upload may hold {options.max_files} images; send fewer at once"
            ) from error
        raise Refused(400, f"the upload is damaged ({error.detail}); send it again") from error
    except (UnicodeError, ClientDisconnect) as error:  # a codec that it names itself; it is gone
        raise Refused(400, "the upload is damaged; send it again") from error
    sent = [one for one in form.getlist(FIELD) if isinstance(one, UploadFile) and one.filename]
    for _, one in form.multi_items():
        if isinstance(one, UploadFile) and one not in sent:
            await one.close()
    if not sent:
        raise Refused(400, "no image was sent; choose at least one")
    return sent


async def drain(request: Request, options: Options) -> None:
    """Read on and drop what comes, for a while: a browser hears no answer before it has sent all.

    Beyond eight times the bound it has to hear it from the line that breaks off.
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


def check_is_no_zip(data: bytes, name: str) -> None:
    """Raises BadImage for a zip: its members would have no bound of their own here."""
    if data.startswith(ZIP) or name.lower().endswith(".zip"):
        raise BadImage(
            f"{name}: is a zip, which is not taken here: send its images, or use leukjax.predict"
        )


def _declared(request: Request) -> int:
    text = request.headers.get("content-length", "0")
    return int(text) if text.isdecimal() else 0
