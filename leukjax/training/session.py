"""One start of a run: fresh or resumed, to the end or to the next stop."""

import contextlib
import dataclasses
import time
from pathlib import Path

import jax
from ml_collections import ConfigDict

from leukjax import distributed, runtime
from leukjax.checkpoints.checkpoints import Checkpoints
from leukjax.rundir import RunDir
from leukjax.training import divergence, final_evaluation, workdir
from leukjax.training.assemble import Run, assemble
from leukjax.training.loop import train
from leukjax.training.metric_writer import Log, reached
from leukjax.training.state import TrainState

# Fields in which the processes of a run may differ, for instance because their machines do.
_OWN = (
    *("data.cache_dir", "data.prefetch", "data.root", "data.subject_csv", "data.threads"),
    *("data.workers", "runtime."),
)


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
    distributed.join(config.runtime.timeout)
    runtime.start(config)
    # One process of several writes; the others only read what it wrote.
    lock = workdir.locked(folder) if jax.process_index() == 0 else contextlib.nullcontext()
    with distributed.ending_together(), lock:
        distributed.check_same(config.to_dict(), "--config", ignore=_OWN)
        assembled, resumed = assemble(config, folder)
        checkpoints = Checkpoints(
            folder / "checkpoints",
            keep_latest=config.checkpoint.keep_latest,
            lower_is_better=config.checkpoint.metric == "loss",
        )
        step = checkpoints.latest() if resumed else None
        # In a list that is emptied: only `train` may hold the state, which is freed at its end.
        state = [_state(assembled, checkpoints, step)]
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
            with distributed.ending_together():
                if resumed:
                    log.say(f"going on from step {start} of {assembled.total_steps}")
                _note_start(folder, start, repeated)
                final_evaluation.write_preprocessing(assembled)
                train(assembled, state.pop(), start, checkpoints, log)
                best = (
                    final_evaluation.score_best(assembled, checkpoints, log)
                    if open_test
                    else checkpoints.best()
                )
                newest = checkpoints.latest() or 0
        finally:
            log.close()
            checkpoints.close()
    return Outcome(assembled, best, newest, time.perf_counter() - began)


def _state(assembled: Run, checkpoints: Checkpoints, step: int | None) -> TrainState:
    """The one state of a start: restored from a checkpoint, or fresh where `step` is None."""
    if step is None:
        return assembled.fresh_state()
    return divergence.restore(checkpoints, step, assembled.form)


def count_starts(folder: Path) -> int:
    """How often the run was started, the first time included."""
    return len(RunDir(folder).starts())


def steps_repeated(folder: Path) -> int:
    """How many steps were done again, because a kill came between them and the next checkpoint."""
    return sum(start["repeated"] for start in RunDir(folder).starts())


def _note_start(folder: Path, step: int, repeated: int) -> None:
    if jax.process_index() == 0:
        RunDir(folder).record_start(step, repeated)
