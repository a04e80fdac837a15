"""A cache of the last decoded fields, for the many cells that are cut out of each."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np
from jaxtyping import UInt8

from leukjax.data.decode import BadImage

# Bytes of pixels that are kept: two of the largest images, or 17 fields of 2592 x 1944 pixels.
MAX_BYTES = 2**28

Decoded = tuple[UInt8[np.ndarray, "h w 3"], tuple[str, ...]]


class FieldCache:
    """Decodes a field once for all threads that ask for it, and keeps the last ones."""

    def __init__(self, decode: Callable[[str], Decoded]) -> None:
        """Takes the function that decodes the field of a path."""
        self._decode = decode
        self._lock = threading.Lock()
        # The message of a field that cannot be used is kept in its place.
        self._kept: OrderedDict[str, Future[Decoded | str]] = OrderedDict()

    def __call__(self, path: str) -> Decoded:
        """Returns what `decode` returns; the pixels are shared and must not be changed.

        Raises:
          BadImage: as `decode`.
        """
        with self._lock:
            future = self._kept.get(path)
            is_first = future is None
            if future is None:
                future = self._kept[path] = Future()
            self._kept.move_to_end(path)
        if is_first:
            self._fill(path, future)
        decoded = future.result()
        if isinstance(decoded, str):
            raise BadImage(decoded)
        return decoded

    def _fill(self, path: str, future: "Future[Decoded | str]") -> None:
        try:
            future.set_result(self._decode(path))
        except BadImage as error:
            future.set_result(str(error))
        except BaseException as error:  # a file that cannot be read now may be readable later
            with self._lock:
                self._kept.pop(path, None)
            future.set_exception(error)
        with self._lock:
            self._evict()

    def _evict(self) -> None:
        """Drops the fields that were not used for the longest time, but those being decoded."""
        sizes = {path: _size(future) for path, future in self._kept.items()}
        total = sum(sizes.values())
        for path, size in sizes.items():
            if total <= MAX_BYTES:
                return
            if size:
                del self._kept[path]
                total -= size


def _size(future: "Future[Decoded | str]") -> int:
    decoded = future.result() if future.done() else ""
    return 0 if isinstance(decoded, str) else decoded[0].nbytes
