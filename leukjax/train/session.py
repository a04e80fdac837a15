"""One start of a run: fresh or resumed, to the end or to the next stop."""

import contextlib
import dataclasses
import json
import time
from pathlib import Path

import jax
from ml_collections import ConfigDict

from leukjax import runtime
from leukjax.storage import append_line, read_text
from leukjax.train import finish, together, workdir
from leukjax.train.checkpoint import Checkpoints
from leukjax.train.log import Log, reached
from leukjax.train.loop import train
from leukjax.train.run import Run, assemble

STARTS = "starts.jsonl"

# Fields in which the processes of a run may differ, for instance because their machines do.
_OWN = ("data.cache_dir", "data.prefetch", "data.root", "data.threads", "data.workers", "runtime.")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a finished run hands to its report."""

    run: Run
    best_step: int
    newest_step: int  # of the checkpoints
    seconds: float  # of this start, from its first line


def run(config: ConfigDict, folder: Path, *, open_test: bool = True) -> Outcome:
    """Train, or go on, in a work directory; score the best epoch on test at the end.

    Args:
      config: of the run.
      folder: its work directory.
      open_test: False leaves the test part closed, as a trial must; a later start may open it.

    Raises:
      UserError: config, data or folder do not allow it; one line says what to mend.
      Stopped: a signal asked for it; everything is saved.
    """
    began = time.perf_counter()
    together.join(config.runtime.timeout)
    runtime.start(config)
    # One process of several writes; the others only read what it wrote.
    lock = workdir.locked(folder) if jax.process_index() == 0 else contextlib.nullcontext()
    with together.ending_together(), lock:
        together.check_same(config.to_dict(), "--config", ignore=_OWN)
        assembled, resumed = assemble(config, folder)
        checkpoints = Checkpoints(
            folder / "checkpoints",
            keep_latest=config.checkpoint.keep_latest,
            lower_is_better=config.checkpoint.metric == "loss",
        )
        step = checkpoints.latest() if resumed else None
        if step is None:
            state = assembled.initial.place(assembled.state)
        else:
            state = checkpoints.restore(step, assembled.state)
        start = step or 0
        repeated = max(0, reached(folder) - start)
        log = Log(
            folder,
            start=start,
            total_steps=assembled.total_steps,
            steps_per_epoch=assembled.steps_per_epoch,
            positive=assembled.positive,
        )
        try:
            # Once more inside, because closing the checkpoints waits for the other processes.
            with together.ending_together():
                if resumed:
                    log.say(f"going on from step {start} of {assembled.total_steps}")
                _note_start(folder, start, repeated)
                finish.write_preprocessing(assembled)
                train(assembled, state, start, checkpoints, log)
                best = (
                    finish.score_best(assembled, checkpoints, log)
                    if open_test
                    else checkpoints.best()
                )
                newest = checkpoints.latest() or 0
        finally:
            log.close()
            checkpoints.close()
    return Outcome(assembled, best, newest, time.perf_counter() - began)


def count_starts(folder: Path) -> int:
    """How often the run was started, the first time included."""
    path = folder / STARTS
    return len(read_text(path).splitlines()) if path.exists() else 0


def steps_repeated(folder: Path) -> int:
    """How many steps were done again, because a kill came between them and the next checkpoint."""
    path = folder / STARTS
    lines = read_text(path).splitlines() if path.exists() else []
    return sum(json.loads(line)["repeated"] for line in lines)


def _note_start(folder: Path, step: int, repeated: int) -> None:
    if jax.process_index() == 0:
        line = {"step": step, "repeated": repeated, "time": round(time.time(), 3)}
        append_line(folder / STARTS, line)
