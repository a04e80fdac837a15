"""Standard output, standard error and logging of commands.

Any name can be printed, and the reader may leave. Commands call `prepare` and `quiet_logging`
once; the library does not change the streams of its caller.
"""

import codecs
import contextlib
import ctypes
import errno
import io
import logging as std_logging
import os
import re
import stat
import sys
from pathlib import Path
from typing import Any

from absl import logging

# Control characters that move a terminal's cursor or start its commands, the characters that change
# the direction of a text, and halves of characters, as Python reads names that are not UTF-8.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
# Letters of our own messages for terminals that lack them.
_PLAIN = {
    **{"–": "-", "—": "-", "−": "-", "─": "-", "…": "...", "·": "|"},
    **{"×": "x", "±": "+-", "≤": "<=", "≥": ">=", "→": "->", "²": "^2", "µ": "u"},
    **{"“": '"', "”": '"', "‘": "'", "’": "'"},
}
_ERRORS = "leukjax_plain"
# What a write answers if the reader of a pipe or the terminal is gone.
_GONE = {errno.EPIPE, errno.ESHUTDOWN, errno.ECONNRESET}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def escape(text: str) -> str:
    """`text` with unsafe characters as escapes: ``\\x1b`` for the one that starts a command.

    Line ends and tabs stay; a carriage return is escaped.
    """
    return _UNSAFE.sub(_escaped, text)


def prepare() -> None:
    """Replaces `sys.stdout` and `sys.stderr` by streams whose failure does not end a command.

    A character that the terminal's encoding lacks is written as a similar one or as an escape;
    unsafe characters are escaped. If the reader leaves (``| head``, a closed terminal) or the
    stream is closed from the start (``2>&-``), the output is dropped and the work continues.
    """
    if isinstance(sys.stdout, _Stream):
        return
    _open_missing()
    codecs.register_error(_ERRORS, _plainer)
    sys.stdout, sys.stderr = _Stream(1, sys.stdout), _Stream(2, sys.stderr)


class Raw:
    """A view of a stream to which text may be written that moves the cursor."""

    def __init__(self, stream: Any) -> None:
        """`stream` may be one of those of `prepare`, which escape such text."""
        self._stream = stream
        self.write = getattr(stream, "write_raw", stream.write)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Descriptor(io.FileIO):
    """Standard output or error; what no one reads is dropped."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            hung_up = error.errno == errno.EIO and stat.S_ISCHR(os.fstat(self.fileno()).st_mode)
            if self.fileno() == 2 and error.errno in _FULL:
                return len(data)  # a log that its disk has no room for does not end the work
            if error.errno not in _GONE and not hung_up:
                error.filename = "standard error" if self.fileno() == 2 else "standard output"
                raise
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)
        return len(data)


class _Stream(io.TextIOWrapper):
    def __init__(self, number: int, before: Any) -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            before.flush()
        file = _Descriptor(number, "wb", closefd=False)
        at_once = number == 2 or file.isatty() or getattr(before, "write_through", False)
        super().__init__(
            io.BufferedWriter(file),
            encoding=getattr(before, "encoding", None) or "utf-8",
            errors=_ERRORS,
            line_buffering=at_once,
        )
        # A progress bar goes back to the start of its line.
        self._returns = number == 2 and file.isatty()

    def write(self, text: str) -> int:
        """Writes with unsafe characters escaped."""
        if self._returns and "\r" in text:
            return self.write_raw("\r".join(map(escape, text.split("\r"))))
        return self.write_raw(escape(text))

    def write_raw(self, text: str) -> int:
        """Writes text that is known to be safe."""
        return super().write(text)


def _open_missing() -> None:
    """Opens the null device where a standard stream is closed, lest a file takes its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def _plainer(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    letters = error.object[error.start : error.end]
    plain = [_PLAIN.get(x) or x.encode("unicode_escape").decode() for x in letters]
    return "".join(plain), error.end


# Logging.

_PACKAGE = str(Path(__file__).resolve().parent) + os.sep


def quiet_logging() -> None:
    """Logs plain lines to stderr: leukjax from INFO up, other libraries from ERROR up.

    Leaves out Orbax and asyncio (used by Orbax alone), which log each error up to four times before
    they raise it.
    """
    for handler in list(std_logging.root.handlers):
        if type(handler) is std_logging.StreamHandler:  # of logging.basicConfig: prints all twice
            std_logging.root.removeHandler(handler)
    logging.use_absl_handler()
    handler = logging.get_absl_handler()
    handler.setFormatter(_PlainFormatter())
    handler.addFilter(_is_shown)
    logging.set_verbosity(logging.INFO)


class _PlainFormatter(std_logging.Formatter):
    def format(self, record: std_logging.LogRecord) -> str:
        # Names in a message may contain control characters.
        message = escape(record.getMessage())
        if record.levelno <= std_logging.INFO:
            return message
        line = f"{record.levelname.lower()}: {message}"
        # The traceback of an error that did not stop the server.
        if record.exc_info and record.pathname.startswith(_PACKAGE):
            line += "\n" + escape(self.formatException(record.exc_info))
        return line


def _is_shown(record: std_logging.LogRecord) -> bool:
    if str(record.msg).startswith("Jax plugin configuration error"):
        # --preflight compiles with JAX's plugin for NVIDIA GPUs, which reports an error of no
        # importance where there is no driver.
        return _has_nvidia_driver()
    if record.pathname.startswith(_PACKAGE):
        return True
    from_orbax = record.name == "asyncio" or "orbax" in record.pathname
    return record.levelno >= std_logging.ERROR and not from_orbax


def _has_nvidia_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True
