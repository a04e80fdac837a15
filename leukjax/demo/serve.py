"""Loads runs and serves the page until it is interrupted."""

import contextlib
import errno
import signal
import socket
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import uvicorn
from absl import logging

from leukjax import runtime
from leukjax.demo.app import Page
from leukjax.demo.model_info import model_info
from leukjax.demo.options import Options
from leukjax.demo.predictors import PagePredictor, load_predictor
from leukjax.demo.request_queue import RequestQueue
from leukjax.demo.security import is_local, limited_connections
from leukjax.errors import UserError


def serve(runs: Sequence[str], options: Options) -> None:
    """Loads the runs, serves requests until Ctrl-C or SIGTERM, and cleans up.

    Raises:
      UserError: an invalid run, option, address or port.
    """
    with _listener(options) as listener, _temporary_folder(), application(runs, options) as page:
        host, port = listener.getsockname()[:2]
        if not is_local(host):
            logging.warning(
                "every machine that can reach %s can send images to this page, without a password",
                host,
            )
        server = make_server(page, options)
        shown = f"[{host}]" if ":" in host else host
        logging.info("ready: http://%s:%d/ (Ctrl-C stops it)", shown, port)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listener])
    logging.info("stopped")


def make_server(page: Page, options: Options) -> uvicorn.Server:
    """Returns a server of the page, not started."""
    return uvicorn.Server(
        uvicorn.Config(
            page.app,
            log_config=None,
            access_log=False,  # names of images are private
            server_header=False,
            lifespan="off",
            ws="none",
            http=limited_connections(options),
            loop="asyncio",
            proxy_headers=False,
            timeout_graceful_shutdown=10,
        )
    )


@contextlib.contextmanager
def application(runs: Sequence[str], options: Options) -> Iterator[Page]:
    """Yields the application of the page, compiled and ready.

    Raises:
      UserError: an invalid run or option.
    """
    # JAX must not write to disk.
    jax.config.update("jax_enable_compilation_cache", False)
    runtime.set_numerics()
    runtime.hold_memory()
    predictor = load_predictor(runs, options)
    runs_shown = [model_info(member) for member in predictor.predictor.members]
    for run in runs_shown:
        logging.info("%s: %s%s", run.name, run.line, ", SYNTHETIC data" if run.synthetic else "")
    if predictor.threshold:
        logging.info(
            "abstaining below a confidence of %.4g, which %.1f %% of the validation images reached",
            predictor.threshold.confidence,
            100 * predictor.threshold.answered,
        )
    _compile(predictor)
    queue = RequestQueue(predictor.predict, predictor.predictor.batch_size, options.max_waiting)
    with ThreadPoolExecutor(options.threads, thread_name_prefix="images") as pool:
        try:
            yield Page(predictor, queue, runs_shown, pool, options)
        finally:
            queue.close()


def _compile(predictor: PagePredictor) -> None:
    logging.info("compiling")
    blank = np.zeros((predictor.predictor.image_size,) * 2 + (3,), np.uint8)
    predictor.predict([predictor.prepare(blank)])


@contextlib.contextmanager
def _listener(options: Options) -> Iterator[socket.socket]:
    """Yields a socket bound to the port, before the runs are loaded."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise UserError(
            f"--host={options.host}: is not an address of this machine ({error.strerror or error})"
        ) from error
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen(2048)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise UserError(
                    f"--port={options.port}: is in use; give another, or --port=0 for any free one"
                ) from error
            if error.errno == errno.EADDRNOTAVAIL:
                raise UserError(
                    f"--host={options.host}: is not an address of this machine"
                ) from error
            raise UserError(
                f"--port={options.port}: cannot be used ({error.strerror}); give one above 1023"
            ) from error
        yield listener


@contextlib.contextmanager
def _temporary_folder() -> Iterator[None]:
    """A temporary folder for uploads above 1 MiB; removed at the end."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="leukjax-demo-") as folder:
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = before
