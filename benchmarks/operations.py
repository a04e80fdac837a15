"""Time of a training step or a prediction on CPU by operation, from a trace of JAX's profiler.

python benchmarks/operations.py                                  ResNet-50, 64 px, about a minute
python benchmarks/operations.py --model=hybrid --image_size=96 --most=40
python benchmarks/operations.py --task=predict

Every event belongs to an operation of the optimised program, which shows what it computes and for
which layer. Milliseconds per step are those of all threads; the threads of a matrix product beyond
its first are not in the trace, so that shares understate products.
"""

import collections
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import contender_leukjax
import jax
from absl import app, flags

from leukjax import sharding

FLAGS = flags.FLAGS
flags.DEFINE_enum("model", "resnet50", list(contender_leukjax.MODELS), "which model")
flags.DEFINE_enum("task", "train", ["train", "predict"], "what is traced")
flags.DEFINE_integer("image_size", 64, "pixels per side", lower_bound=33)
flags.DEFINE_enum("precision", "float32", ["float32", "bfloat16"], "of the network")
flags.DEFINE_integer("batch", 32, "images per step", lower_bound=1)
flags.DEFINE_float("seconds", 3.0, "approximate length of the trace", lower_bound=0.0)
flags.DEFINE_integer("most", 20, "single operations to list", lower_bound=0)

LINE = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (\S+) ([\w\-]+)\(.*$", re.MULTILINE)
COMPUTATION = re.compile(r"^%?([\w.\-]+) \(.*?\) -> .*?\{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
LAYER = re.compile(r"/(\w*(?:conv|norm|fc|attn|pool|head|embed)\w*)(?:/|$)")


def main(_: list[str]) -> None:
    """Traces, groups, prints."""
    spec = {name: FLAGS[name].value for name in ("model", "precision", "image_size", "batch")}
    report(*trace(spec, FLAGS.task, FLAGS.seconds))


def trace(
    spec: dict[str, Any], task: str, seconds: float
) -> tuple[dict[str, tuple[float, int]], str, int, float]:
    """Returns events of about `seconds`, the program, number of steps, seconds per step."""
    trainer = contender_leukjax.make_trainer(spec)
    state = trainer.init_state()
    batch = contender_leukjax.make_batch(spec["batch"], spec["image_size"])
    batch = sharding.put(batch, sharding.batch_sharding(trainer.mesh))
    steps = trainer.compiled()
    function: Any = steps.train_steps[1] if task == "train" else steps.eval_step
    program = function.lower(state, batch).compile().as_text()

    def run(count: int) -> float:
        nonlocal state
        began = time.perf_counter()
        for _ in range(count):
            result = function(state, batch)
            if task == "train":
                state = result[0]
            jax.block_until_ready(result)
        return (time.perf_counter() - began) / count

    run(2)
    count = max(1, round(seconds / run(1)))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            mean = run(count)
        return events(next(Path(folder).rglob("*.xplane.pb"))), program, count, mean


def events(file: Path) -> dict[str, tuple[float, int]]:
    """Returns operation -> nanoseconds and number of events, over all threads."""
    times: dict[str, tuple[float, int]] = {}
    for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
        for line in plane.lines:
            for event in line.events:
                if any(name == "hlo_op" for name, _ in event.stats):
                    before, count = times.get(event.name, (0.0, 0))
                    times[event.name] = (before + event.duration_ns, count + 1)
    return times


def report(times: dict[str, tuple[float, int]], program: str, steps: int, seconds: float) -> None:
    """Prints groups by what is computed and for which layers, then the longest operations."""
    bodies = dict(COMPUTATION.findall(program))
    lines = {match[1]: match[0] for match in LINE.finditer(program)}
    groups: collections.Counter[tuple[str, str]] = collections.Counter()
    single: dict[tuple[str, str, str], list[float]] = {}
    for name, (spent, count) in times.items():
        line = lines.get(name, "")
        called = re.search(r"calls=%?([\w.\-]+)", line)
        kind = kind_of(name, line + (bodies.get(called[1], "") if called else ""))
        layer = layer_of(line)
        groups[kind, layer] += spent
        shape = re.search(r"= \(?(\w+\[[\d,]*\])", line)
        known = single.setdefault((kind, layer, shape[1] if shape else "?"), [0.0, 0])
        known[0] += spent
        known[1] += count
    total = sum(groups.values())
    print(f"{FLAGS.model}, {FLAGS.image_size} px: {1000 * seconds:.0f} ms per step")
    print(f"traced, all threads: {total / 1e6 / steps:.0f} ms per step")
    for (kind, layer), spent in groups.most_common():
        if spent > 0.005 * total:
            print(f"  {100 * spent / total:5.1f} %  {spent / 1e6 / steps:7.1f} ms  {kind}, {layer}")
    print("the longest, by result:")
    for (kind, layer, shape), (spent, count) in sorted(
        single.items(), key=lambda item: -item[1][0]
    )[: FLAGS.most]:
        number = f"{count / steps:.0f} times"
        print(f"  {spent / 1e6 / steps:7.1f} ms  {number:>10}  {shape}  {kind}, {layer}")


def kind_of(name: str, text: str) -> str:
    """Returns what an operation computes, from its text and that of the computation it calls."""
    if " dot(" in text or "dot" in name:
        return "matrix products"
    if "ynn_fusion" in name or " reduce(" in text:
        return "sums over images and pixels"
    if " concatenate(" in text and " multiply(" not in text:
        return "copies into patches and tiles"
    if " transpose(" in text or "copy" in name:
        return "transposes and copies"
    return "element by element"


def layer_of(line: str) -> str:
    """Returns the kind of layer, from the name in the program."""
    path = re.search(r'op_name="([^"]*)"', line)
    if path is None:
        return "unnamed"
    layers = LAYER.findall(path[1])
    if layers:
        kinds = ("conv", "norm", "attn", "pool")
        kind = next((word for word in kinds if word in layers[-1]), layers[-1])
        return f"{kind}, {'backward' if 'transpose(' in path[1] else 'forward'}"
    if "jvp(" in path[1]:
        return "ReLU, shortcut and pooling"
    return "optimizer and the rest"


if __name__ == "__main__":
    app.run(main)
