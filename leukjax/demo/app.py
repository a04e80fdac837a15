"""The routes: the page, its style and script, and results as a page, as HTML of a part, or JSON."""

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
from leukjax.demo.model_info import ModelInfo
from leukjax.demo.options import Options
from leukjax.demo.predictors import PagePredictor, Prediction, Prepared
from leukjax.demo.request_queue import RequestQueue
from leukjax.demo.security import SecurityMiddleware
from leukjax.demo.upload import ByteBudget, RequestError, Upload, check_not_zip, drain
from leukjax.demo.view_model import ImageView, as_json, image_view, percent
from leukjax.errors import UserError

FOLDER = Path(__file__).resolve().parent


class Page:
    """The page.

    Attributes:
      app: the ASGI application.
      queue: the images that wait for a prediction.
    """

    def __init__(
        self,
        predictor: PagePredictor,
        queue: RequestQueue[Prepared, Prediction],
        runs: Sequence[ModelInfo],
        pool: ThreadPoolExecutor,
        options: Options,
    ) -> None:
        """Makes the application.

        Args:
          predictor: makes the predictions.
          queue: passes images to the predictor.
          runs: one per run.
          pool: its threads read images and draw pictures.
          options: limits.
        """
        self.queue = queue
        self._predictor, self._pool, self._options = predictor, pool, options
        self._uploads = 0
        self._budget = ByteBudget(options.max_bytes_at_once)
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(FOLDER),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.globals |= {
            "formats": FORMATS,
            "suffixes": SUFFIXES,
            "options": options,
            "percent": percent,
            "predictor": predictor,
            "runs": runs,
            "version": metadata.version("leukjax"),
        }
        self._full_page = environment.get_template("page.html.jinja")
        self._results = environment.get_template("results.html.jinja")
        pages = Starlette(
            routes=[
                Route("/", self._page, methods=["GET"]),
                Route("/", self._post_page, methods=["POST"]),
                Route("/answers", self._post_part, methods=["POST"]),
                Route("/answers.json", self._post_json, methods=["POST"]),
                _file("style.css", "text/css"),
                _file("page.js", "text/javascript"),
                _file("icon.svg", "image/svg+xml"),
            ]
        )
        self.app = SecurityMiddleware(pages, options.host)

    def _page(self, request: Request) -> Response:
        return HTMLResponse(self._full_page.render(images=(), error=""))

    async def _post_page(self, request: Request) -> Response:
        images, error = await self._process(request)
        html = self._full_page.render(images=images, error=error.line if error else "")
        return HTMLResponse(html, *_status(error))

    async def _post_part(self, request: Request) -> Response:
        images, error = await self._process(request)
        html = self._results.render(images=images, error=error.line if error else "")
        return HTMLResponse(html, *_status(error))

    async def _post_json(self, request: Request) -> Response:
        images, error = await self._process(request)
        if error:
            return JSONResponse({"error": error.line}, *_status(error))
        return Response(as_json(images), media_type="application/json")

    async def _process(self, request: Request) -> tuple[list[ImageView], RequestError | None]:
        """Returns the views of a request's images, or why it is rejected."""
        if self._uploads == self._options.max_uploads:
            return [], RequestError(503, "too many uploads; no image was classified; try again")
        self._uploads += 1
        upload = Upload(self._budget)
        try:
            await upload.read(request, self._options)
            return await self._classify(upload.files), None
        except RequestError as error:
            await upload.close()
            if error.status != 408:
                await drain(request, self._options)
            return [], error
        except Exception:  # a bug; only the log has the details
            logging.exception("a request failed")
            return [], RequestError(500, "internal error; see the log of the server")
        finally:
            await upload.close()
            self._uploads -= 1

    async def _classify(self, files: Sequence[UploadFile]) -> list[ImageView]:
        if not self.queue.reserve(len(files)):
            raise RequestError(
                503, "too many images are waiting; none of yours was classified; try again"
            )
        try:
            # Files are decoded one by one, so that a request holds one decoded image; each is
            # submitted at once.
            submitted = [await self._submit(file) for file in files]
            return [await self._view(*pair) for pair in submitted]
        finally:
            self.queue.release(len(files))

    async def _submit(self, file: UploadFile) -> tuple[ImageView, "_Submitted | None"]:
        name = file.filename or ""
        try:
            prepared, conversions = await self._in_thread(self._prepare, file, name)
        except UserError as error:
            return ImageView(name, error=_line(error)), None
        future = asyncio.wrap_future(self.queue.submit(prepared))
        return ImageView(name, conversions=conversions), _Submitted(prepared, future)

    async def _view(self, image: ImageView, submitted: "_Submitted | None") -> ImageView:
        if submitted is None:
            return image
        try:
            prediction = await submitted.prediction
        except Exception as error:  # the log has the details
            line = f"{image.name}: the models failed ({type(error).__name__}); see the server's log"
            return dataclasses.replace(image, error=line)
        return await self._in_thread(
            image_view,
            image.name,
            submitted.prepared,
            image.conversions,
            prediction,
            self._predictor,
        )

    def _prepare(self, file: UploadFile, name: str) -> tuple[Prepared, tuple[str, ...]]:
        # Read here, so that memory holds the bytes of one file per thread.
        data = file.file.read()
        check_not_zip(data, name)
        with image_limits.one_image():
            rgb, conversions = decode(data, name, self._options.max_pixels)
            return self._predictor.prepare(rgb), conversions

    async def _in_thread(self, function, *arguments):
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)


@dataclasses.dataclass(frozen=True)
class _Submitted:
    """An image that waits for its prediction."""

    prepared: Prepared
    prediction: "asyncio.Future[Prediction]"


def _file(name: str, kind: str) -> Route:
    content = (FOLDER / name).read_bytes()

    def respond(request: Request) -> Response:
        return Response(content, media_type=kind)

    return Route(f"/{name}", respond, methods=["GET"])


def _status(error: RequestError | None) -> tuple[int, dict[str, str]]:
    if error is None:
        return 200, {}
    return error.status, {"Retry-After": "5"} if error.status == 503 else {}


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return "".join(letter if letter.isprintable() else "?" for letter in text)
