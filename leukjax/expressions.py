"""Regular expressions that users write: one that never comes to an end is given up."""

import re
import signal
import threading
from types import FrameType

from leukjax.errors import UserError

# For one name of a file or parameter; an ordinary expression takes a millionth of it.
SECONDS = 2.0


class _TooLong(Exception):
    """The time is up."""


def search(pattern: re.Pattern[str], text: str, flag: str) -> re.Match[str] | None:
    """``pattern.search(text)``, within `SECONDS`.

    Some expressions, such as ``(a+)+$``, try every way to part a text, which doubles with each
    letter. Outside the main thread there is no limit, because Python gives signals to that alone.

    Args:
      pattern: compiled.
      text: to search in.
      flag: where the expression comes from, for the message: "config.data.subject_pattern".

    Raises:
      UserError: it took longer.
    """
    if threading.current_thread() is not threading.main_thread():
        return pattern.search(text)

    def stop(number: int, frame: FrameType | None) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        return pattern.search(text)
    except _TooLong:
        raise UserError(
            f"--{flag}={pattern.pattern}: takes over {SECONDS:g} s on {text!r}: "
            "mend the expression: repeated groups that hold a repetition, as in (a+)+, are costly"
        ) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
