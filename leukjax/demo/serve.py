"""The work of `leukjax.demo`: runs in, a page until it is interrupted."""

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
from leukjax.demo.connection import bounded
from leukjax.demo.model_info import card
from leukjax.demo.options import Options
from leukjax.demo.predictors import Judges, appoint
from leukjax.demo.request_queue import Desk
from leukjax.demo.security import is_local
from leukjax.errors import UserError


def serve(runs: Sequence[str], options: Options) -> None:
    """Load, answer requests until Ctrl-C or SIGTERM, clear up.

    Raises:
      UserError: a run, option, address or port that will not do.
    """
    with _bound(options) as listener, _own_folder(), application(runs, options) as page:
        host, port = listener.getsockname()[:2]
        if not is_local(host):
            logging.warning(
                "every machine that reaches %s can send images to this page; it asks for no "
                "password",
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
    """A server of the page, not started yet."""
    return uvicorn.Server(
        uvicorn.Config(
            page.app,
            log_config=None,
            access_log=False,  # names of images are private
            server_header=False,
            lifespan="off",
            ws="none",
            http=bounded(options),
            loop="asyncio",
            proxy_headers=False,
            timeout_graceful_shutdown=10,
        )
    )


@contextlib.contextmanager
def application(runs: Sequence[str], options: Options) -> Iterator[Page]:
    """The page's application, warm: what has to be compiled is compiled.

    Raises:
      UserError: a run or an option that will not do.
    """
    # Nothing of JAX goes to the disk.
    jax.config.update("jax_enable_compilation_cache", False)
    runtime.set_numerics()
    runtime.hold_memory()
    judges = appoint(runs, options)
    cards = [card(member) for member in judges.members]
    for one in cards:
        logging.info("%s: %s%s", one.name, one.line, ", SYNTHETIC data" if one.synthetic else "")
    if judges.threshold:
        logging.info(
            "answers from a confidence of %.4g on: on validation %.1f %% of the images got one",
            judges.threshold.confidence,
            100 * judges.threshold.answered,
        )
    _warm(judges)
    desk = Desk(judges.answer, judges.batch_size, options.max_waiting)
    with ThreadPoolExecutor(options.threads, thread_name_prefix="images") as pool:
        try:
            yield Page(judges, desk, cards, pool, options)
        finally:
            desk.close()


def _warm(judges: Judges) -> None:
    logging.info("compiling")
    blank = np.zeros((judges.members[0].image_size,) * 2 + (3,), np.uint8)
    judges.answer([judges.prepare(blank)])


@contextlib.contextmanager
def _bound(options: Options) -> Iterator[socket.socket]:
    """A socket that has the port, before minutes of loading go by in vain."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise UserError(
            f"--host={options.host}: is no address of this machine ({error.strerror or error})"
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
                raise UserError(f"--host={options.host}: is no address of this machine") from error
            raise UserError(
                f"--port={options.port}: cannot be had ({error.strerror}); give one above 1023"
            ) from error
        yield listener


@contextlib.contextmanager
def _own_folder() -> Iterator[None]:
    """Where uploads above 1 MiB wait; gone at the end."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="leukjax-demo-") as folder:
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = before
