"""What a browser sends, within bounds: files out, or a refusal that says why."""

import asyncio

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

from leukjax.data.decode import BadImage
from leukjax.page.options import Options

FIELD = "images"
ZIP = b"PK\x03\x04"


class Refused(Exception):
    """A request that gets no answer, with its HTTP status and a line for the person."""

    def __init__(self, status: int, line: str):
        """Keep both."""
        super().__init__(line)
        self.status, self.line = status, line


async def files(request: Request, options: Options) -> list[UploadFile]:
    """The files of a form.

    What is larger than 1 MiB lies in the temporary folder until `UploadFile.close`.

    Raises:
      Refused: too large, too many, too slow, or none.
    """
    most = f"an upload may hold {options.max_bytes >> 20} MiB; send fewer or smaller images"
    if _declared(request) > options.max_bytes:
        raise Refused(413, most)
    got = 0

    async def receive() -> Message:
        nonlocal got
        message = await request.receive()
        got += len(message.get("body", b""))
        request.scope["leukjax.read"] = not message.get("more_body", False)
        if got > options.max_bytes:
            raise Refused(413, most)
        return message

    bounded = Request(request.scope, receive)
    try:
        async with asyncio.timeout(options.seconds_to_upload):
            form = await bounded.form(
                max_files=options.max_files, max_fields=4, max_part_size=1 << 10
            )
    except TimeoutError as error:
        raise Refused(
            408, f"the upload took longer than {options.seconds_to_upload:g} seconds; try again"
        ) from error
    except HTTPException as error:  # of the parser
        if "Too many files" in str(error.detail):
            raise Refused(
                413, f"an upload may hold {options.max_files} images; send fewer at once"
            ) from error
        raise Refused(400, f"the upload is damaged ({error.detail}); send it again") from error
    sent = [one for one in form.getlist(FIELD) if isinstance(one, UploadFile) and one.filename]
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
