"""Train several models over the same folds and seeds, and collect their predictions.

python -m leukjax.crossval configs/cnn.py:cnmc configs/resnet50.py:cnmc configs/hybrid_vit.py:cnmc
    --config.data.root=FOLDER --folds=5 --seeds=3 --workdir=runs/study

--config.FIELD=VALUE changes a field of all configs. Each device of the machine trains one run at a
time. The same command again resumes a stopped or killed study;
docs/howto/crossval.md describes the files of the work directory.
"""

import re
from pathlib import Path

from absl import flags

from leukjax import command
from leukjax.errors import UserError

FLAGS = flags.FlagValues()
flags.DEFINE_string("workdir", "", "folder of the study", flag_values=FLAGS)
flags.DEFINE_integer(
    "folds", 5, "folds of groups; one tests, the next validates", lower_bound=3, flag_values=FLAGS
)
flags.DEFINE_integer(
    "seeds", 3, "runs per model and fold, with seeds from `seed` on", lower_bound=1,
    flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_bool(
    "pool", False, "fold the held-out split as well; nothing is held out", flag_values=FLAGS
)
flags.DEFINE_multi_string(
    "sweep",
    [],
    "FIELD=VALUE,VALUE,…: values to choose from on each fold's validation split; several: a grid",
    flag_values=FLAGS,
)
flags.DEFINE_bool("retry", False, "train failed runs again", flag_values=FLAGS)
flags.DEFINE_string(
    "shard", "1/1", "NUMBER/COUNT: this machine's share of the runs, from 1", flag_values=FLAGS
)


def main(names: list[str], overrides: list[tuple[str, str]], arguments: list[str]) -> None:
    """Checks the flags, trains, writes the tables."""
    if not FLAGS.workdir:
        raise UserError("--workdir is missing; name the folder of the study")

    # Imported late: JAX and TFDS take seconds, and the errors above need neither.
    from leukjax.crossval import plan, scheduler

    study = plan.make(
        Path(FLAGS.workdir),
        [*names, *arguments],
        overrides,
        folds=FLAGS.folds,
        seeds=FLAGS.seeds,
        pool=FLAGS.pool,
        sweep=FLAGS.sweep,
    )
    scheduler.run(study, _shard(FLAGS.shard), retry=FLAGS.retry, imports=command.imports(FLAGS))


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    number, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= count:
        raise UserError(f"--shard={text}: must read NUMBER/COUNT, as in 2/8, counted from 1")
    return number, count
