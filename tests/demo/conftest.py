"""A page over the small run, served in a thread of this process."""

import contextlib
import socket
import threading

import pytest
from form import Visitor

from leukjax.demo.app import Page
from leukjax.demo.options import Options
from leukjax.demo.serve import application, make_server


@contextlib.contextmanager
def served(runs, options: Options):
    """The page, and a visitor to it."""
    with application([str(run) for run in runs], options) as page, listening(page, options) as port:
        yield page, Visitor(port)


@contextlib.contextmanager
def listening(page, options: Options):
    """A server of a page in a thread; gives its port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(100)
        server = make_server(page, options)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
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


@pytest.fixture
def other_page(page):
    """Makes a page with other options, answered by the same models, and a visitor to it."""
    with contextlib.ExitStack() as stack:

        def make(**changes):
            options = Options(**changes)
            other = Page(page._judges, page.desk, [], page._pool, options)
            return other, Visitor(stack.enter_context(listening(other, options)))

        yield make
