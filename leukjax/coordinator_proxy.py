"""The line to process 0, held by ourselves so that we are the first to learn that it broke.

JAX's client ends the process with a dump of the stack the moment its connection closes, and cannot
be told otherwise. So it connects to this relay, which passes bytes on, and says in one line that
process 0 was lost.
"""

import contextlib
import socket
import threading
from collections.abc import Callable

# Seconds after which a machine that vanished without closing its connections counts as lost.
_VANISHED = 30


class Relay:
    """Listens on this machine and passes every connection on to an address."""

    def __init__(self, address: str, *, on_loss: Callable[[], None]):
        """Start listening.

        Args:
          address: HOST:PORT of the coordinator.
          on_loss: called from a thread when a connection breaks after `watch`.
        """
        host, port = address.rsplit(":", 1)
        self._target = (host.strip("[]"), int(port))
        self._on_loss, self._watching = on_loss, False
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        self._start(self._accept)

    def watch(self) -> None:
        """From now on a connection that the other side closes is a loss."""
        self._watching = True

    def rest(self) -> None:
        """From now on it is the end."""
        self._watching = False

    def _start(self, work: Callable[..., None], *arguments: socket.socket | bool) -> None:
        threading.Thread(target=work, args=arguments, name="relay", daemon=True).start()

    def _accept(self) -> None:
        while True:
            near, _ = self._server.accept()
            try:
                far = socket.create_connection(self._target, timeout=10)
            except OSError:  # process 0 is not there yet; JAX's client tries again
                near.close()
                continue
            far.settimeout(None)
            for option, seconds in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
                if hasattr(socket, option):
                    far.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), seconds)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                far.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _VANISHED * 1000)
            far.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._start(self._pass_on, near, far, False)
            self._start(self._pass_on, far, near, True)

    def _pass_on(self, source: socket.socket, target: socket.socket, from_far: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(2**16):
                target.sendall(data)
        if from_far and self._watching:
            self._on_loss()
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
