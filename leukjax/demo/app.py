"""The routes: the page, its style and script, and answers as a page, a part of one, or JSON."""

import asyncio
import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import jinja2
from absl import logging
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from leukjax.data import image_limits
from leukjax.data.decode import decode
from leukjax.data.image_file import FORMATS, SUFFIXES
from leukjax.demo.model_info import Card
from leukjax.demo.options import Options
from leukjax.demo.predictors import Answer, Judges, Prepared
from leukjax.demo.request_queue import Desk
from leukjax.demo.security import Guard
from leukjax.demo.upload import Bytes, Refused, Upload, check_is_no_zip, drain
from leukjax.demo.view_model import Shown, as_json, percent, shown
from leukjax.errors import UserError

FOLDER = Path(__file__).resolve().parent


class Page:
    """The application, in `app`; who answers it, at `desk`."""

    def __init__(
        self,
        judges: Judges,
        desk: Desk[Prepared, Answer],
        cards: Sequence[Card],
        pool: ThreadPoolExecutor,
        options: Options,
    ) -> None:
        """Make the application.

        Args:
          judges: who answer.
          desk: where they are asked.
          cards: one a run.
          pool: its threads read images and draw pictures.
          options: bounds.
        """
        self.desk = desk
        self._judges, self._pool, self._options = judges, pool, options
        self._uploads = 0
        self._bytes = Bytes(options.max_bytes_at_once)
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(FOLDER),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.globals |= {
            "cards": cards,
            "formats": FORMATS,
            "suffixes": SUFFIXES,
            "judges": judges,
            "options": options,
            "percent": percent,
            "version": metadata.version("leukjax"),
        }
        self._whole = environment.get_template("page.html.jinja")
        self._part = environment.get_template("answers.html.jinja")
        pages = Starlette(
            routes=[
                Route("/", self._page, methods=["GET"]),
                Route("/", self._ask_for_page, methods=["POST"]),
                Route("/answers", self._ask_for_part, methods=["POST"]),
                Route("/answers.json", self._ask_for_json, methods=["POST"]),
                _file("style.css", "text/css"),
                _file("page.js", "text/javascript"),
                _file("icon.svg", "image/svg+xml"),
            ]
        )
        self.app = Guard(pages, options.host)

    def _page(self, request: Request) -> Response:
        return HTMLResponse(self._whole.render(images=(), refused=""))

    async def _ask_for_page(self, request: Request) -> Response:
        images, refused = await self._ask(request)
        html = self._whole.render(images=images, refused=refused.line if refused else "")
        return HTMLResponse(html, *_status(refused))

    async def _ask_for_part(self, request: Request) -> Response:
        images, refused = await self._ask(request)
        html = self._part.render(images=images, refused=refused.line if refused else "")
        return HTMLResponse(html, *_status(refused))

    async def _ask_for_json(self, request: Request) -> Response:
        images, refused = await self._ask(request)
        if refused:
            return JSONResponse({"error": refused.line}, *_status(refused))
        return Response(as_json(images), media_type="application/json")

    async def _ask(self, request: Request) -> tuple[list[Shown], Refused | None]:
        """What is to be shown of a request's images, or why there is nothing."""
        if self._uploads == self._options.max_uploads:
            return [], Refused(503, "too many uploads at once; nothing was looked at; try again")
        self._uploads += 1
        upload = Upload(self._bytes)
        try:
            await upload.read(request, self._options)
            return await self._answers(upload.files), None
        except Refused as refused:
            await upload.close()
            if refused.status != 408:
                await drain(request, self._options)
            return [], refused
        except Exception:  # a bug is ours to read; the person gets a line
            logging.exception("a request failed")
            return [], Refused(500, "the page failed; its log has the cause")
        finally:
            await upload.close()
            self._uploads -= 1

    async def _answers(self, sent: Sequence[UploadFile]) -> list[Shown]:
        if not self.desk.reserve(len(sent)):
            raise Refused(
                503, "too many images wait for an answer; none of yours was looked at; try again"
            )
        try:
            # One file after the other, so that a request holds the pixels of one; what is read
            # is asked about at once.
            asked = [await self._read(one) for one in sent]
            return [await self._show(*one) for one in asked]
        finally:
            self.desk.release(len(sent))

    async def _read(self, sent: UploadFile) -> tuple[Shown, "_Asked | None"]:
        name = sent.filename or ""
        try:
            prepared, conversions = await self._in_thread(self._prepare, sent, name)
        except UserError as error:
            return Shown(name, error=_line(error)), None
        future = asyncio.wrap_future(self.desk.ask(prepared))
        return Shown(name, conversions=conversions), _Asked(prepared, future)

    async def _show(self, row: Shown, asked: "_Asked | None") -> Shown:
        if asked is None:
            return row
        try:
            answer = await asked.answer
        except Exception as error:  # the log has it whole
            line = (
                f"{row.name}: the models failed ({type(error).__name__}); the page's log says more"
            )
            return dataclasses.replace(row, error=line)
        return await self._in_thread(
            shown, row.name, asked.prepared, row.conversions, answer, self._judges
        )

    def _prepare(self, sent: UploadFile, name: str) -> tuple[Prepared, tuple[str, ...]]:
        # Read here, so that memory holds the bytes of one file per thread.
        data = sent.file.read()
        check_is_no_zip(data, name)
        with image_limits.one_image():
            pixels, conversions = decode(data, name, self._options.max_pixels)
            return self._judges.prepare(pixels), conversions

    async def _in_thread(self, function, *arguments):
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)


@dataclasses.dataclass(frozen=True)
class _Asked:
    """An image that waits for its answer."""

    prepared: Prepared
    answer: "asyncio.Future[Answer]"


def _file(name: str, kind: str) -> Route:
    content = (FOLDER / name).read_bytes()

    def respond(request: Request) -> Response:
        return Response(content, media_type=kind)

    return Route(f"/{name}", respond, methods=["GET"])


def _status(refused: Refused | None) -> tuple[int, dict[str, str]]:
    if refused is None:
        return 200, {}
    return refused.status, {"Retry-After": "5"} if refused.status == 503 else {}


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return "".join(letter if letter.isprintable() else "?" for letter in text)
