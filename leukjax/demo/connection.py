"""HTTP connections with time limits: a silent, slow or unread one never blocks the others."""

import asyncio
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from leukjax.demo.options import Options
from leukjax.demo.security import HEADERS

# Bytes of an answer that a peer has to read in `seconds_to_head`.
_LEAST_READ = 16 << 10


class Connection(H11Protocol):
    """uvicorn's connection, which waits for a request's head without end, with bounds.

    - Waiting for the head of a request, the first or another, takes `seconds_to_head` at most.
    - Of more than `max_connections` the one that has waited longest for its request is closed; if
      all are at work, the new one is.
    - A peer that does not read its answer is disconnected.

    Made by `bounded`, which gives each server a class of its own.
    """

    seconds_to_head: ClassVar[float]
    max_connections: ClassVar[int]
    # Those that wait for a request, the longest first, and when they are closed.
    waiting: ClassVar[dict["Connection", asyncio.TimerHandle]]

    def connection_made(self, transport: Any) -> None:
        """Accept a connection; at the bound another is closed for it."""
        self._stalled: asyncio.TimerHandle | None = None
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            surplus = next(iter(self.waiting), self)
            surplus.transport.abort()
            if surplus is self:
                return
            surplus._not_waiting()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._not_waiting()
        if self._stalled is not None:
            self._stalled.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; a head that is whole ends the wait."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        """The peer reads more slowly than the answer is written."""
        super().pause_writing()
        left = self.transport.get_write_buffer_size()
        self._stalled = self.loop.call_later(self.seconds_to_head, self._check_reading, left)

    def resume_writing(self) -> None:
        """The peer has read."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, with the headers that every answer has."""
        headers = [*HEADERS.items(), ("content-type", "text/plain; charset=utf-8")]
        response = h11.Response(
            status_code=400, headers=[*headers, ("connection", "close")], reason=b"Bad Request"
        )
        for event in (response, h11.Data(data=msg.encode("ascii")), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._not_waiting()
        elif self not in self.waiting and not self.transport.is_closing():
            self.waiting[self] = self.loop.call_later(self.seconds_to_head, self.transport.abort)

    def _not_waiting(self) -> None:
        timer = self.waiting.pop(self, None)
        if timer is not None:
            timer.cancel()

    def _check_reading(self, before: int) -> None:
        left = self.transport.get_write_buffer_size()
        if before - left < _LEAST_READ:
            self.transport.abort()
        else:
            self._stalled = self.loop.call_later(self.seconds_to_head, self._check_reading, left)


def bounded(options: Options) -> type[Connection]:
    """The connections of one server."""

    class Bounded(Connection):
        seconds_to_head = options.seconds_to_head
        max_connections = options.max_connections
        waiting: ClassVar[dict[Connection, asyncio.TimerHandle]] = {}

    return Bounded
