"""How the steps of a run are cut into calls of the compiled step."""

import math
from collections.abc import Iterator, Sequence


def calls(
    start: int, stop: int, most: int, *, every: Sequence[int] = (), at: Sequence[int] = ()
) -> Iterator[tuple[int, int]]:
    """Yield (first step, number of steps) of each call from `start` to `stop`.

    A call never runs across a moment at which something is done between two steps. It has `most`
    steps where so many are left to the next such moment, and one step where not: two programs are
    compiled whatever the run.

    Args:
      start: first step.
      stop: step before which the last call ends.
      most: steps of a long call.
      every: periods of such moments (evaluations, checkpoints), counted from step 0.
      at: single ones (the ends of a trace).
    """
    step = start
    while step < stop:
        moments = [period * (step // period + 1) for period in every]
        left = min([stop, *moments, *(moment for moment in at if moment > step), math.inf]) - step
        count = most if left >= most else 1
        yield step, count
        step += count
