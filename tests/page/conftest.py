"""A page over the small run, served in a thread of this process."""

import contextlib
import socket
import threading

import pytest
import uvicorn
from form import Visitor

from leukjax.page.options import Options
from leukjax.page.serve import application


@contextlib.contextmanager
def served(runs, options: Options):
    """The page, and who visits it."""
    with application([str(run) for run in runs], options) as page, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(100)
        server = uvicorn.Server(uvicorn.Config(page.app, log_config=None, lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield page, Visitor(listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def small() -> Options:
    return Options(max_files=6, max_bytes=1 << 20, max_pixels=40_000, max_waiting=40)


@pytest.fixture(scope="session")
def place(trained_run, small):
    with served([trained_run], small) as found:
        yield found


@pytest.fixture
def page(place):
    return place[0]


@pytest.fixture
def visitor(place) -> Visitor:
    return place[1]
