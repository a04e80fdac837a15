"""A page of the small run, served in a thread of this process."""

import contextlib
import socket
import threading

import pytest
from form import Client

from leukjax.demo.app import Page
from leukjax.demo.options import Options
from leukjax.demo.serve import application, make_server


@contextlib.contextmanager
def served(runs, options: Options):
    """Yields the page and a client of it."""
    with application([str(run) for run in runs], options) as page, listening(page, options) as port:
        yield page, Client(port)


@contextlib.contextmanager
def listening(page, options: Options):
    """Runs a server of a page in a thread; yields its port."""
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
def page_and_client(trained_run, small):
    with served([trained_run], small) as pair:
        yield pair


@pytest.fixture
def page(page_and_client):
    return page_and_client[0]


@pytest.fixture
def client(page_and_client) -> Client:
    return page_and_client[1]


@pytest.fixture
def other_page(page):
    """Makes a page with other options and the same models, and a client of it."""
    with contextlib.ExitStack() as stack:

        def make(**changes):
            options = Options(**changes)
            other = Page(page._predictor, page.queue, [], page._pool, options)
            return other, Client(stack.enter_context(listening(other, options)))

        yield make
