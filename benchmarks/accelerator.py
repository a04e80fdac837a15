"""One stage of benchmarks/accelerator.sh: writes its rows to OUT/STAGE_*.csv at once.

python benchmarks/accelerator.py a --out=DIR --small
python benchmarks/accelerator.py check --out=DIR --stages=a,b

Stages: a correctness, b ResNet-50, c further models, d inference, e end to end, f start-up,
g the costliest kernels of a step. `check` prints every row and exits with 1 if a stage has none, or
if a comparison of stage (a) is outside its tolerance.
"""

import argparse
import csv
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import contenders
import harness

NAMES = {
    "a": "correctness",
    "b": "resnet50",
    "c": "models",
    "d": "inference",
    "e": "end_to_end",
    "f": "startup",
    "g": "kernels",
}
MEASURE = "images_per_second"
# Largest relative difference of losses and gradient norms, and of logits to the largest one.
# On GPU float32 products use TF32.
TOLERANCE = {"float32": 0.02, "bfloat16": 0.1, "bitwise": 0.0}


def main() -> int:
    """Runs a stage, or the check."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=[*NAMES, "check"])
    parser.add_argument("--out", type=Path, required=True, help="folder of the rows")
    parser.add_argument("--small", action="store_true", help="tiny inputs, for a CPU")
    parser.add_argument("--stages", default=",".join(NAMES), help="those that must have rows")
    options = parser.parse_args()
    if options.stage == "check":
        return check(options.out, options.stages.split(","))
    os.environ["LEUKJAX_RESULTS"] = str(options.out)  # of the benchmarks that a stage starts
    STAGES[options.stage](options.out, options.small)
    return 0


def file_of(stage: str) -> str:
    """Returns the name of a stage's CSV file, without its ending."""
    return f"{stage}_{NAMES[stage]}"


def check(out: Path, stages: list[str]) -> int:
    """Prints all rows; returns 1 if a stage has none or a comparison failed."""
    problems = []
    for stage in stages:
        file = out / f"{file_of(stage)}.csv"
        rows = []
        if file.exists():
            with file.open(newline="") as lines:
                rows = list(csv.DictReader(lines))
        measured = [row for row in rows if not row.get("skipped")]
        for row in rows:
            columns = ("model", "check", "contender", "precision", "batch", "measure")
            label = " ".join(row[name] for name in columns if row.get(name))
            value = row.get("skipped") and f"skipped: {row['skipped']}"
            print(f"{stage}  {label}: {value or row.get('median') or row.get('value')}")
        if not measured:
            problems.append(f"stage {stage} ({NAMES[stage]}) has no row")
        problems += [
            f"stage {stage}: {row['check']}, {row['model']}: {row['value']} > {row['limit']}"
            for row in measured
            if row.get("passed") == "False"
        ]
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


# Stage a.


def correctness(out: Path, small: bool) -> None:
    """Compares the device with the CPU, fused with plain forms, and states bit by bit."""
    os.environ["XLA_FLAGS"] = " ".join(
        filter(None, [os.environ.get("XLA_FLAGS"), "--xla_gpu_deterministic_ops=true"])
    )
    import jax

    size, batch = (33, 4) if small else (96, 16)
    models = ("cnn",) if small else contenders.MODELS[:4]
    cpu, device = jax.devices("cpu")[:1], jax.devices()[:1]
    about = {"device": device[0].device_kind, "versions": harness.versions("jax", "flax")}
    for model in models:
        spec = {"model": model, "image_size": size, "batch": batch, "precision": "float32"}
        for row in compare_model(spec, cpu, device, small):
            value = row["value"]
            row["passed"] = value <= row["limit"]  # False for NaN
            harness.append(file_of("a"), [{**about, **spec, **row}], out)
            print(f"{model}: {row['check']}: {value:.3g} of {row['limit']:g}", flush=True)


def compare_model(
    spec: dict[str, Any], cpu: list[Any], device: list[Any], small: bool
) -> Iterator[dict[str, Any]]:
    """Yields the rows of one model."""
    reference = one_step(spec, cpu, "cpu")
    platform = device[0].platform
    for precision in ("float32", "bfloat16"):
        plain = one_step({**spec, "precision": precision, "fused": "off"}, device, platform)
        row = {"precision": precision, "limit": TOLERANCE[precision]}
        yield {**row, "check": "device against CPU", "value": difference(reference, plain)}
    # Fused forms are for GPUs; their JAX code also runs on a CPU, which tests it.
    fused_on = "gpu" if platform == "cpu" else platform
    fused = one_step({**spec, "precision": "bfloat16", "fused": "on"}, device, fused_on)
    row = {"precision": "bfloat16", "limit": TOLERANCE["bfloat16"]}
    yield {**row, "check": "fused against plain", "value": difference(plain, fused)}
    row = {"limit": TOLERANCE["bitwise"]}
    yield {**row, "check": "resume, bytes that differ", "value": resume(spec, device)}
    for mode in ("host", "device"):
        value = input_mode(spec, device, mode, 64 if small else 256)
        yield {**row, "check": f"data.cache={mode}, bytes that differ", "value": value}


def trainer_on(spec: dict[str, Any], devices: list[Any], platform: str) -> Any:
    """Returns the trainer of a spec on some devices."""
    import contender_leukjax

    from leukjax import sharding
    from leukjax.training.trainer import Trainer

    config = contender_leukjax.make_config(spec)
    mesh = sharding.make_mesh(config.mesh, spec["batch"], devices)
    return Trainer.from_config(config, num_classes=2, mesh=mesh, platform=platform)


def one_step(spec: dict[str, Any], devices: list[Any], platform: str) -> dict[str, Any]:
    """Returns logits, loss and gradient norm of a fresh state, and the loss after one step."""
    import contender_leukjax
    import numpy as np

    from leukjax import sharding

    trainer = trainer_on(spec, devices, platform)
    batch = contender_leukjax.make_batch(spec["batch"], spec["image_size"])
    batch = sharding.put(batch, sharding.batch_sharding(trainer.mesh))
    state = trainer.init_state()
    logits = np.asarray(trainer.eval_step(state, batch), np.float64)
    state, first = trainer.train_step(state, batch)
    _, second = trainer.train_step(state, batch)
    names = {"loss": first["loss"], "norm": first["grad_norm"], "next": second["loss"]}
    return {"logits": logits, **{name: float(value) for name, value in names.items()}}


def difference(expected: dict[str, Any], actual: dict[str, Any]) -> float:
    """Returns the largest relative difference."""
    import numpy as np

    return max(
        float(np.max(np.abs(expected[name] - actual[name])) / np.max(np.abs(expected[name])))
        for name in ("logits", "loss", "norm")
    )


def resume(spec: dict[str, Any], devices: list[Any]) -> int:
    """Counts the bytes that differ after a checkpoint was restored, relative to no interruption."""
    import contender_leukjax
    import jax

    from leukjax import sharding
    from leukjax.checkpoints.writer import Checkpoints

    trainer = trainer_on(spec, devices, devices[0].platform)
    batch = contender_leukjax.make_batch(spec["batch"], spec["image_size"])
    batch = sharding.put(batch, sharding.batch_sharding(trainer.mesh))

    def steps(state: Any, count: int) -> Any:
        for _ in range(count):
            state, _ = trainer.train_step(state, batch)
        return jax.block_until_ready(state)

    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder) / "c", keep_latest=1, lower_is_better=True)
        state = steps(trainer.init_state(), 2)
        checkpoints.save(2, state, {}, None)
        checkpoints.wait()
        straight = steps(state, 2)
        restored = checkpoints.restore(2, trainer.compiled().form)
        checkpoints.close()
    return bytes_that_differ(straight, steps(restored, 2))


def bytes_that_differ(first: Any, second: Any) -> int:
    """Counts over all leaves of two trees."""
    import jax
    import numpy as np

    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    arrays = ((raw(a), raw(b)) for a, b in pairs)
    return sum(int(np.sum(a != b)) for a, b in arrays)


def raw(leaf: Any) -> Any:
    """Returns the bytes of a leaf; random keys by their data."""
    import jax
    import numpy as np

    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.frombuffer(np.asarray(leaf).tobytes(), np.uint8)


def input_mode(spec: dict[str, Any], devices: list[Any], mode: str, images: int) -> int:
    """Counts the bytes of a state that differ between a data cache and streaming."""
    import numpy as np
    from synthetic import Synthetic

    states = []
    with tempfile.TemporaryDirectory() as folder:
        records = Synthetic(folder, images, spec["image_size"])
        for cache in ("none", mode):
            trainer = trainer_on(spec, devices, devices[0].platform)
            prefetch, image_sharding = records.prefetch(
                trainer.mesh, np.arange(images), spec["batch"], cache
            )
            step = trainer.compiled(image_sharding=image_sharding).train_steps[1]
            state, batches = trainer.init_state(), iter(prefetch)
            for _ in range(3):
                state, _ = step(state, next(batches))
            states.append(state)
    return bytes_that_differ(*states)


# Stages b, c and d.


def field(spec: dict[str, Any]) -> tuple[list[harness.Contender], list[str]]:
    """Returns leukjax with and without fused forms, its peers, and the names of missing ones."""
    ours = {"leukjax": "on", "leukjax, fused off": "off"}
    known = [
        harness.Contender(name, "contender_leukjax.py", {**spec, "fused": fused, "estimate": True})
        for name, fused in ours.items()
    ]
    missing = []
    for name, (script, more) in contenders.PEERS.items():
        if name == "onnxruntime" and spec["task"] == "train":
            continue
        python = None if name == "flax" else peers_python(more.get("task") == "onnx")
        if name == "flax" or python:
            known.append(harness.Contender(name, script, {**spec, **more}, python))
        else:
            missing.append(name)
    return known, missing


def peers_python(onnx: bool) -> str | None:
    """Returns the interpreter of the peers: this one if it has them, else their environment's."""
    names = ("torch", "onnxruntime") if onnx else ("torch", "timm")
    if all(importlib.util.find_spec(name) for name in names):
        return sys.executable
    return harness.peers_python()


def compare(
    stage: str, out: Path, spec: dict[str, Any], *, rounds: int, seconds: float, latency: bool
) -> None:
    """Measures one model and batch, appends its rows."""
    options = {**spec, "seconds": seconds, "wait_each": latency}
    options["task"] = "predict" if latency else "train"
    known, missing = field(options)
    results = harness.measure(known, rounds, touch=False)
    for answers in results.values():
        for answer in answers:
            answer[MEASURE] = spec["batch"] / answer["seconds"]
    contenders.add_share_of_peak(results, passes=1 if latency else 3)
    rows = harness.rows(results, MEASURE, "leukjax", spec)
    reasons = dict.fromkeys(missing, "its packages are not installed")
    reasons |= {c.name: "it failed; see the log" for c in known if c.name not in results}
    rows += [{**spec, "contender": name, "skipped": why} for name, why in reasons.items()]
    harness.append(file_of(stage), rows, out)
    title = f"{spec['model']} {options['task']}, {spec['image_size']} px, batch {spec['batch']}"
    print(harness.verdict(title, MEASURE, results, "leukjax"), flush=True)


def training(stage: str, out: Path, small: bool, *models: str) -> None:
    """Measures training steps."""
    for model in models:
        for batch in (4,) if small else (128, 256):
            spec = {"model": model, "image_size": 48 if small else 224, "batch": batch}
            spec["precision"] = "float32" if small else "bfloat16"
            seconds = 0.0 if small else 2.0
            compare(stage, out, spec, rounds=1 if small else 3, seconds=seconds, latency=False)


def resnet50(out: Path, small: bool) -> None:
    """Measures ResNet-50's training step."""
    training("b", out, small, "cnn" if small else "resnet50")


def models(out: Path, small: bool) -> None:
    """Measures the training steps of the other models."""
    training("c", out, small, *(["cnn"] if small else ["hybrid", "vit_s16", "vit_b16", "cnn"]))


def inference(out: Path, small: bool) -> None:
    """Measures predictions."""
    for batch in (2,) if small else (1, 32, 256):
        spec = {"model": "cnn" if small else "resnet50", "batch": batch}
        spec |= {"image_size": 48 if small else 224, "precision": "float32"}
        seconds = 0.0 if small else 1.0
        compare("d", out, spec, rounds=1 if small else 3, seconds=seconds, latency=True)


# Stages e, f and g.


def run_benchmark(stage: str, out: Path, script: str, *flags: str) -> None:
    """Runs another benchmark and moves its rows to the stage's file."""
    command = [sys.executable, str(Path(__file__).with_name(f"{script}.py")), *flags]
    status = subprocess.run(command).returncode
    file = out / f"{script}.csv"
    if file.exists():
        with file.open(newline="") as lines:
            harness.append(file_of(stage), list(csv.DictReader(lines)), out)
        file.unlink()
    if status:
        sys.exit(f"error: {script}.py ended with status {status}")


def end_to_end(out: Path, small: bool) -> None:
    """Measures whole epochs beside the bare step, with 1, 8 and 32 steps per dispatch."""
    config = ["--config=cnn", "--image_size=32", "--batch=8", "--epochs=1", "--rounds=1"]
    config += ["--mode=none"]
    if not small:
        config = ["--config=resnet50", "--image_size=224", "--batch=128", "--epochs=2"]
    for number in (2,) if small else (8, 32):
        run_benchmark("e", out, "end_to_end", *config, f"--steps_per_call={number}")


def startup(out: Path, small: bool) -> None:
    """Measures cold and warm starts."""
    config = "cnn" if small else "resnet50"
    run_benchmark("f", out, "startup", f"--config={config}", "--rounds=1")


def kernels(out: Path, small: bool) -> None:
    """Traces the training step and writes its ten costliest kernels."""
    import jax
    import operations

    spec = {"model": "cnn" if small else "resnet50", "image_size": 48 if small else 224}
    spec |= {"batch": 4 if small else 128, "precision": "float32" if small else "bfloat16"}
    times, _, steps, seconds = operations.trace(spec, "train", 0.0 if small else 1.0)
    total = sum(spent for spent, _ in times.values())
    about = {**spec, "device": jax.devices()[0].device_kind, "versions": f"jax {jax.__version__}"}
    about |= {"step_milliseconds": 1000 * seconds}
    ranked = sorted(times.items(), key=lambda item: -item[1][0])[:10]
    rows = [
        {
            **about,
            "contender": name,
            "measure": "milliseconds per step",
            "median": spent / 1e6 / steps,
            "share": spent / total,
            "executions": count / steps,
        }
        for name, (spent, count) in ranked
    ]
    harness.append(file_of("g"), rows, out)


STAGES = {
    "a": correctness,
    "b": resnet50,
    "c": models,
    "d": inference,
    "e": end_to_end,
    "f": startup,
    "g": kernels,
}


if __name__ == "__main__":
    sys.exit(main())
