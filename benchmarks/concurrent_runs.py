"""Two trainings at once on the cores of one machine, beside one training that has all of them.

python benchmarks/concurrent_runs.py                              CNN and ResNet-50 at 48 px
python benchmarks/concurrent_runs.py --models=hybrid --image_size=64 --rounds=7

Cross-validation has many runs to do. `one` is a training step with all cores; `two, half of the
cores each` and `two, all cores` are two processes that train at the same time, whose images/s are
added. Batch 32, float32, images from host memory, no augmentation. Rounds interleave; medians with
quartiles; ratios within a round. Adds rows to benchmarks/results/concurrent_runs.csv.
"""

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parent))
import harness

FLAGS = flags.FLAGS
flags.DEFINE_list("models", ["cnn", "resnet50"], "of contender_leukjax.MODELS")
flags.DEFINE_integer("image_size", 48, "pixels per side", lower_bound=33)
flags.DEFINE_integer("rounds", 5, "rounds of each arrangement", lower_bound=1)
flags.DEFINE_float("seconds", 3.0, "approximate length of a round", lower_bound=0.0)
flags.DEFINE_bool("save", True, "append to benchmarks/results/concurrent_runs.csv")

BATCH = 32
ONE, HALVES, SHARED = "one", "two, half of the cores each", "two, all cores"


def main(_: list[str]) -> None:
    """Measures every model."""
    for model in FLAGS.models:
        about = {"model": model, "precision": "float32", "batch": BATCH}
        about |= {"image_size": FLAGS.image_size}
        results = measure(about)
        for contender, answers in results.items():
            print(f"  {contender:28} {harness.spread([a['images_per_second'] for a in answers])}")
        for contender in (HALVES, SHARED):
            title = f"{model}, {FLAGS.image_size} px: {contender}"
            pair = {name: results[name] for name in (contender, ONE)}
            print(harness.verdict(title, "images_per_second", pair, contender), flush=True)
        if FLAGS.save:
            table = harness.rows(results, "images_per_second", ONE, about)
            harness.append("concurrent_runs", table)


def measure(about: dict[str, Any]) -> harness.Results:
    """Returns the answers of each arrangement; those of two processes hold the sum."""
    harness.touch_memory()
    cores = sorted(os.sched_getaffinity(0))
    middle = len(cores) // 2
    if not middle:
        raise SystemExit("two cores or more are needed")
    spec = about | {"task": "train", "seconds": FLAGS.seconds}
    shares = {
        ONE: [cores],
        HALVES: [cores[:middle], cores[middle:]],
        SHARED: [cores, cores],
    }
    contenders = {
        name: [harness.Contender(name, __file__, spec | {"cores": part}) for part in parts]
        for name, parts in shares.items()
    }
    everyone = [contender for group in contenders.values() for contender in group]
    results: harness.Results = {name: [] for name in contenders}
    with harness.running(everyone) as alive, ThreadPoolExecutor() as pool:
        if len(alive) < len(everyone):
            raise SystemExit("a process failed")
        for _ in range(FLAGS.rounds):
            for name, group in contenders.items():
                answers = list(pool.map(harness.Contender.round, group))
                results[name].append(added(group[0], answers))
    return results


def added(contender: harness.Contender, answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the first process's answer with the images/s and the memory of all."""
    return {
        **contender.about,
        "images_per_second": sum(BATCH / answer["seconds"] for answer in answers),
        "peak_memory": sum(answer["peak_memory"] for answer in answers),
    }


def prepare(spec: dict[str, Any]) -> tuple[dict[str, Any], harness.Round]:
    """Compiles and warms up the step in a process that has only the cores of the spec."""
    os.sched_setaffinity(0, spec["cores"])  # before JAX counts them and starts its threads
    import contender_leukjax

    return contender_leukjax.prepare(spec)


if __name__ == "__main__":
    harness.start(main, prepare)
