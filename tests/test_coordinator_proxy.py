"""The proxy to the coordinator: bytes pass, and its end is reported once it is watched."""

import socket
import threading

import pytest

from leukjax.coordinator_proxy import CoordinatorProxy


@pytest.fixture
def target():
    """A server that answers in capitals, until it is closed."""
    server = socket.create_server(("127.0.0.1", 0))
    connections = []

    def serve():
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            connections.append(connection)
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection):
        try:
            while data := connection.recv(1000):
                connection.sendall(data.upper())
        except OSError:
            pass

    threading.Thread(target=serve, daemon=True).start()
    yield server, connections
    server.close()


def _through(proxy: CoordinatorProxy) -> socket.socket:
    host, port = proxy.address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=10)


def test_bytes_pass_both_ways_on_every_connection(target):
    proxy = CoordinatorProxy(f"127.0.0.1:{target[0].getsockname()[1]}", on_loss=lambda: None)
    with _through(proxy) as first, _through(proxy) as second:
        first.sendall(b"one")
        second.sendall(b"two")
        assert second.recv(10) == b"TWO"
        assert first.recv(10) == b"ONE"


@pytest.mark.parametrize("watched", [True, False])
def test_a_closed_connection_is_a_loss_once_it_is_watched(target, watched):
    lost = threading.Event()
    proxy = CoordinatorProxy(f"127.0.0.1:{target[0].getsockname()[1]}", on_loss=lost.set)
    with _through(proxy) as near:
        near.sendall(b"x")
        assert near.recv(10) == b"X"
        if watched:
            proxy.watch()
        target[1][0].shutdown(socket.SHUT_RDWR)
        assert near.recv(10) == b""  # passed on either way
        assert lost.wait(5 if watched else 0.2) is watched


def test_a_process_0_that_is_not_there_yet_is_met_later():
    with socket.create_server(("127.0.0.1", 0)) as later:
        port = later.getsockname()[1]
    proxy = CoordinatorProxy(f"127.0.0.1:{port}", on_loss=lambda: None)
    with _through(proxy) as near:
        assert near.recv(10) == b""
    with socket.create_server(("127.0.0.1", port)) as server, _through(proxy) as near:
        connection, _ = server.accept()
        near.sendall(b"x")
        assert connection.recv(10) == b"x"
        connection.close()
