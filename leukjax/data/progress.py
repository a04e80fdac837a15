"""Show how far a long loop is: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from absl import logging
from tqdm import tqdm

_T = TypeVar("_T")

_SECONDS_BETWEEN_LINES = 10.0


def progress(items: Iterable[_T], total: int, what: str, unit: str = "images") -> Iterator[_T]:
    """Yields `items` while it reports how many of `total` are done, the rate and the time left.

    On a terminal this is a tqdm bar that disappears at the end; elsewhere (a log file, CI) a line
    to the log every ten seconds. A last line states the total and the time where it took over a
    second.
    """
    start = last = time.monotonic()
    done = 0
    terminal = sys.stderr.isatty()
    with tqdm(total=total, desc=what, unit=f" {unit}", leave=False, disable=not terminal) as bar:
        for item in items:
            yield item
            done += 1
            bar.update()
            now = time.monotonic()
            if not terminal and now - last > _SECONDS_BETWEEN_LINES:
                last = now
                rate = done / (now - start)
                left = (total - done) / rate
                logging.info(
                    "%s: %d of %d %s, %.1f/s, %.0f s left", what, done, total, unit, rate, left
                )
    seconds = time.monotonic() - start
    if seconds > 1:
        logging.info("%s: %d %s in %.1f s, %.1f/s", what, done, unit, seconds, done / seconds)
