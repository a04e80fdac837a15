"""Bounds the memory of all images together; decodes costly ones in processes with limits."""

import atexit
import contextlib
import json
import os
import struct
import threading
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from jaxtyping import UInt8

from leukjax.data.image_parts import Unreadable
from leukjax.data.limited_process import Died, LimitedProcess, limit

# Of all images that threads read, decode and prepare at once.
MAX_BYTES = 2**28
MAX_PIXELS = 64_000_000

# Of one process that decodes, and of one image in it.
CHILDREN = 2
CHILD_BYTES = 2**31
CHILD_SECONDS = 10  # of processor time


class _Budget:
    """An amount that threads take from and give back to; taking may wait."""

    def __init__(self, limit: int) -> None:
        self._limit = self._free = limit
        self._changed = threading.Condition()

    def take(self, amount: int) -> int:
        """Returns the amount taken: at most the limit, so the largest waits for all others."""
        amount = min(amount, self._limit)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= amount)
            self._free -= amount
        return amount

    def give(self, amount: int) -> None:
        with self._changed:
            self._free += amount
            self._changed.notify_all()


class _Held(threading.local):
    """What the current thread has taken."""

    inside = False
    bytes = 0
    pixels = 0


_bytes, _pixels, _held = _Budget(MAX_BYTES), _Budget(MAX_PIXELS), _Held()


@contextlib.contextmanager
def one_image() -> Iterator[None]:
    """Reads, decodes and prepares one image at a time within; many threads share the bounds.

    Files and pixels of the body count until its end. Outside of such a block nothing waits.
    """
    outer, _held.inside = _held.inside, True
    try:
        yield
    finally:
        if not outer:
            _release()
            _held.inside = False


def take_bytes(amount: int) -> None:
    """Waits until this thread may hold a file of `amount` bytes, in `one_image`."""
    if _held.inside:
        _release()  # never waits for one thing while it holds the other, but in this order
        _held.bytes = _bytes.take(amount)


def take_pixels(amount: int) -> None:
    """Waits until this thread may decode an image of `amount` pixels, in `one_image`."""
    if _held.inside:
        _pixels.give(_held.pixels)
        _held.pixels = 0
        _held.pixels = _pixels.take(amount)


def _release() -> None:
    _pixels.give(_held.pixels)
    _bytes.give(_held.bytes)
    _held.pixels = _held.bytes = 0


_ASKED = struct.Struct("<QQQQ")  # bytes of the file, most pixels, seconds, bytes of memory


class _Child(LimitedProcess):
    """A process that decodes one image after another."""

    def decode(
        self, data: bytes, max_pixels: int
    ) -> tuple[UInt8[np.ndarray, "h w 3"], tuple[str, ...]]:
        """`image_file.decode` in the process.

        Raises:
          Unreadable: as there.
          Died: the process ended.
        """
        with self.asked():
            self.to.write(_ASKED.pack(len(data), max_pixels, CHILD_SECONDS, CHILD_BYTES))
            self.to.write(data)
            self.to.flush()
            line = self.out.readline()
            answer = json.loads(line) if line else {}
            if "error" in answer:
                raise Unreadable(answer["error"])
            if "shape" not in answer:
                raise Died
            pixels = np.empty(answer["shape"], np.uint8)
            take_pixels(pixels.size // 3)
            content = pixels.data.cast("B")
            if self.out.readinto(content) < pixels.size:  # type: ignore[attr-defined]
                raise Died
            return pixels, tuple(answer["conversions"])


_idle: list[_Child] = []
_places = threading.BoundedSemaphore(CHILDREN)
_owner = os.getpid()


def decode(data: bytes, max_pixels: int) -> tuple[UInt8[np.ndarray, "h w 3"], tuple[str, ...]]:
    """`image_file.decode`, in a process whose memory and time are limited; it is kept for the next.

    Raises:
      Unreadable: as there, or the image takes more memory or processor time than the limits.
    """
    take_pixels(0)
    with _places:
        child = _child()
        try:
            result = child.decode(data, max_pixels)
        except Unreadable:
            _idle.append(child)
            raise
        except Died as error:
            child.close()
            raise Unreadable(
                f"takes more than {CHILD_SECONDS} s or {CHILD_BYTES >> 20} MiB to decode: "
                "save it in another format"
            ) from error
        except BaseException:
            child.close()
            raise
        _idle.append(child)
        return result


def _child() -> _Child:
    global _owner
    if _owner != os.getpid():  # after a fork: the processes belong to the parent
        _owner = os.getpid()
        _idle.clear()
    try:
        return _idle.pop()
    except IndexError:
        pass
    try:
        return _Child(__name__)
    except OSError as error:
        reason = error.strerror or error
        raise Unreadable(
            f"needs a process of its own to be decoded, which cannot be started ({reason}): "
            "save it as PNG"
        ) from error


@atexit.register
def _close() -> None:
    while _owner == os.getpid() and _idle:
        _idle.pop().close()


def serve(stdin: IO[bytes], out: IO[bytes]) -> None:
    """Runs in the process: reads files from stdin and writes pixels to `out` until stdin ends."""
    from leukjax.data import image_file

    with contextlib.suppress(ImportError):
        from PIL import AvifImagePlugin

        AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    while len(asked := stdin.read(_ASKED.size)) == _ASKED.size:
        size, max_pixels, seconds, memory = _ASKED.unpack(asked)
        data = stdin.read(size)
        limit(seconds, memory)
        answer: dict[str, Any]
        try:
            pixels, conversions = image_file.decode(data, max_pixels)
            answer = {"shape": pixels.shape, "conversions": conversions}
        except Unreadable as error:
            answer, pixels = {"error": str(error)}, np.empty(0, np.uint8)
        out.write(json.dumps(answer).encode() + b"\n")
        out.write(pixels.data)
        out.flush()
