"""Seconds from the command line to the first step, by stage; cold, then warm.

python benchmarks/startup.py                    about 3 minutes on two cores (ResNet-50, 48 px)
python benchmarks/startup.py --config=cnn --rounds=5

Cold: no prepared records, no compiled functions. Warm: the same again in a new work directory,
which finds both in the caches. Stages: *import* (interpreter and libraries), *prepare* (images to
records, split, statistics, images on the device), *build* (initial state: trace, compile, run),
*first step* (trace, compile, run). `import leukjax` and `--help` are timed as well.
Adds rows to benchmarks/results/startup.csv.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from absl import app, flags

sys.path.insert(0, str(Path(__file__).resolve().parent))
import harness

FLAGS = flags.FLAGS
flags.DEFINE_string("config", "resnet50", "a shipped config")
flags.DEFINE_integer("rounds", 2, "pairs of a cold and a warm start")
flags.DEFINE_bool("save", True, "append to benchmarks/results/startup.csv")

TARGET = 3.0  # ratio of a cold to a warm start
STAGES = ("import", "prepare", "build", "first_step")

# What the training command does up to the first step.
CHILD = """
import json, sys, time
marks = {"start": float(sys.argv[1])}
from pathlib import Path
import jax
from harness import processor, versions
from leukjax import config, runtime
from leukjax.training import run_report
from leukjax.training.prefetch import DevicePrefetcher
from leukjax.training.trainer import Trainer
marks["import"] = time.time()
settings = config.load(sys.argv[2])
runtime.start(settings)
trainer = Trainer.from_config(settings)
run, _ = trainer._assemble(Path(sys.argv[3]), trainer.data)
marks["prepare"] = time.time()
state = jax.block_until_ready(run.fresh_state())
marks["build"] = time.time()
batches = DevicePrefetcher(
    run.train_batches, run.mesh, 0, 1, device_images=run.placement.device_images
)
jax.block_until_ready(run.compiled.train_steps[1](state, next(batches)))
marks["first_step"] = time.time()
names = list(marks)
stages = {b: marks[b] - marks[a] for a, b in zip(names, names[1:])}
about = {"device": processor(), "versions": versions("jax", "flax")}
print(json.dumps({**stages, "seconds": marks["first_step"] - marks["start"], **about}))
"""


def main(_: list[str]) -> None:
    """Starts pairs, prints the stages and the verdict, appends the rows."""
    results: harness.Results = {"cold": [], "warm": []}
    for number in range(FLAGS.rounds):
        with tempfile.TemporaryDirectory() as folder:
            for name, answers in results.items():
                answers.append(start(Path(folder), f"{name}{number}"))
    quick = {
        "import leukjax": seconds([sys.executable, "-c", "import leukjax"]),
        "--help": seconds([sys.executable, "-m", "leukjax.main", "--help"]),
    }
    for name, answers in results.items():
        stages = ", ".join(
            f"{stage.replace('_', ' ')} {harness.spread([a[stage] for a in answers]).median:.1f}"
            for stage in STAGES
        )
        print(f"{name}: {harness.spread([a['seconds'] for a in answers])} s: {stages}")
    cold, warm = ([a["seconds"] for a in answers] for answers in results.values())
    ratio = harness.ratio(cold, warm)
    print(
        f"startup, {FLAGS.config}: a second start reaches its first step {ratio} x sooner "
        f"(target {TARGET:g}: {'met' if ratio.median >= TARGET else 'missed'}); "
        + ", ".join(f"{name} {value:.2f} s" for name, value in quick.items())
    )
    if FLAGS.save:
        about = {"config": FLAGS.config} | {
            f"seconds_{name.split()[0].strip('-')}": round(value, 3)
            for name, value in quick.items()
        }
        harness.append("startup", harness.rows(results, "seconds", "cold", about))


def start(folder: Path, name: str) -> dict[str, Any]:
    """Starts once in a new work directory; returns the seconds by stage."""
    variables = {
        "LEUKJAX_CACHE": str(folder / "records"),
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "PYTHONPATH": os.pathsep.join([harness.python_path(), str(Path(__file__).parent)]),
    }
    command = [sys.executable, "-c", CHILD, str(time.time()), FLAGS.config, str(folder / name)]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: {name}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def seconds(command: list[str]) -> float:
    """Returns the shortest of three runs, when files are in the page cache."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        subprocess.run(command, cwd=harness.REPOSITORY, capture_output=True, check=True)
        times.append(time.perf_counter() - began)
    return min(times)


if __name__ == "__main__":
    app.run(main)
