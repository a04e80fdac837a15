"""A proxy between JAX's client and the coordinator in process 0.

JAX's client ends the process with a stack dump when its connection closes, and no option changes
that. So it connects to this proxy, which forwards all bytes and notices first that process 0 was
lost.
"""

import contextlib
import socket
import threading
from collections.abc import Callable

# Seconds after which a machine that vanished without closing its connections counts as lost.
_VANISHED = 30


class CoordinatorProxy:
    """Listens on this machine and forwards every connection to an address."""

    def __init__(self, address: str, *, on_loss: Callable[[], None]):
        """Starts listening.

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
        """From now on a connection that the other side closes means that process 0 was lost."""
        self._watching = True

    def stop_watching(self) -> None:
        """From now on it means that the run has ended."""
        self._watching = False

    def _start(self, work: Callable[..., None], *arguments: socket.socket | bool) -> None:
        threading.Thread(target=work, args=arguments, name="coordinator_proxy", daemon=True).start()

    def _accept(self) -> None:
        while True:
            near, _ = self._server.accept()
            try:
                far = socket.create_connection(self._target, timeout=10)
            except OSError:  # process 0 does not listen yet; JAX's client tries again
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
            self._start(self._forward, near, far, False)
            self._start(self._forward, far, near, True)

    def _forward(self, source: socket.socket, target: socket.socket, from_far: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(2**16):
                target.sendall(data)
        if from_far and self._watching:
            self._on_loss()
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
