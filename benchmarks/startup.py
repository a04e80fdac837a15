"""Seconds from the command line to the first step done, stage by stage; cold, then warm.

python benchmarks/startup.py                    about 3 minutes on two cores (ResNet-50, 48 px)
python benchmarks/startup.py --config=cnn --rounds=5

Cold: no prepared records, no compiled programs. Warm: the same command again in a new work
directory, which finds both in the caches. Stages: *import* (interpreter and libraries), *prepare*
(images to records, split, statistics, pixels where they shall lie), *build* (initial state: trace,
compile, run), *first step* (trace, compile, run). `import leukjax` and `--help` are timed beside.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from absl import app, flags

sys.path.insert(0, str(Path(__file__).resolve().parent))
import harness

FLAGS = flags.FLAGS
flags.DEFINE_string("config", "resnet50", "a shipped config")
flags.DEFINE_integer("rounds", 2, "pairs of a cold and a warm start")
flags.DEFINE_bool("save", True, "append to benchmarks/results/startup.csv")

TARGET = 3.0  # times sooner
STAGES = ("import", "prepare", "build", "first_step")

# Runs the command's own code up to the first step, saying when each stage was reached.
CHILD = """
import json, os, sys, time
marks = {"start": float(sys.argv[1])}
from leukjax.training import run_report
from leukjax import config, runtime
from leukjax.training import trainer
from leukjax.training import throughput as pace
from measured import processor, versions
marks["import"] = time.time()
compiled_steps = trainer.compiled_steps
def building(*arguments, **options):
    marks["prepare"] = time.time()
    return compiled_steps(*arguments, **options)
trainer.compiled_steps = building
train = trainer.train_loop
def training(run, state, *rest):
    import jax
    jax.block_until_ready(state)
    marks["build"] = time.time()
    return train(run, state, *rest)
trainer.train_loop = training
def done(*_):
    marks["first_step"] = time.time()
    names = list(marks)
    stages = {b: marks[b] - marks[a] for a, b in zip(names, names[1:])}
    about = {"device": processor(), "versions": versions("jax", "flax")}
    print(json.dumps({**stages, "seconds": marks["first_step"] - marks["start"], **about}))
    sys.stdout.flush()
    os._exit(0)
pace.ThroughputMeter.first_call_done = done
trainer.train(config.load(sys.argv[2]), __import__("pathlib").Path(sys.argv[3]))
"""


def main(_: list[str]) -> None:
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
    sooner = harness.ratio(
        [a["seconds"] for a in results["cold"]], [a["seconds"] for a in results["warm"]]
    )
    met = "met" if sooner.median >= TARGET else "missed"
    print(
        f"startup, {FLAGS.config}: a second start reaches its first step {sooner} x sooner "
        f"(target {TARGET:g}: {met}); "
        + ", ".join(f"{name} {value:.2f} s" for name, value in quick.items())
    )
    if FLAGS.save:
        about = {"config": FLAGS.config} | {
            f"seconds_{name.split()[0].strip('-')}": round(value, 3)
            for name, value in quick.items()
        }
        harness.append("startup", harness.rows(results, "seconds", "cold", about))


def environment(folder: Path) -> dict[str, str]:
    """Caches of its own."""
    return os.environ | {
        "LEUKJAX_CACHE": str(folder / "records"),
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "PYTHONPATH": os.pathsep.join([str(harness.REPOSITORY), str(Path(__file__).parent)]),
    }


def start(folder: Path, name: str) -> dict[str, float]:
    """One start in a new work directory; seconds by stage."""
    command = [sys.executable, "-c", CHILD, str(time.time()), FLAGS.config, str(folder / name)]
    done = subprocess.run(command, env=environment(folder), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: {name}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def seconds(command: list[str]) -> float:
    """The shortest of three runs: the interpreter's files lie in memory then."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        subprocess.run(command, cwd=harness.REPOSITORY, capture_output=True, check=True)
        times.append(time.perf_counter() - began)
    return min(times)


if __name__ == "__main__":
    app.run(main)
