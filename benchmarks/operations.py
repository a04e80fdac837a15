"""Where the time of a training step or a call of inference on CPU goes, operation by operation.

python benchmarks/operations.py                                  ResNet-50, 64 px, about a minute
python benchmarks/operations.py --model=hybrid --image_size=96 --most=40
python benchmarks/operations.py --task=predict

Some steps are traced by JAX's profiler. Every event belongs to an operation of the optimised
program, which says what it computes and for which layer. Milliseconds are those of all threads
together, a step; a matrix product's threads beyond its first are not in the trace, so that shares
understate products.
"""

import collections
import re
import tempfile
from pathlib import Path

import contender_leukjax
import jax
from absl import app, flags

from leukjax.training import step

FLAGS = flags.FLAGS
flags.DEFINE_enum("model", "resnet50", list(contender_leukjax.MODELS), "which")
flags.DEFINE_enum("task", "train", ["train", "predict"], "which")
flags.DEFINE_integer("image_size", 64, "pixels a side", lower_bound=33)
flags.DEFINE_enum("precision", "float32", ["float32", "bfloat16"], "of the network")
flags.DEFINE_integer("batch", 32, "images a step", lower_bound=1)
flags.DEFINE_float("seconds", 3.0, "about so long is traced", lower_bound=0.0)
flags.DEFINE_integer("most", 20, "single operations to list", lower_bound=0)

LINE = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (\S+) ([\w\-]+)\(.*$", re.MULTILINE)
COMPUTATION = re.compile(r"^%?([\w.\-]+) \(.*?\) -> .*?\{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
LAYER = re.compile(r"/(\w*(?:conv|norm|fc|attn|pool|head|embed)\w*)(?:/|$)")


def main(_: list[str]) -> None:
    """Trace, group, print."""
    programs: list[str] = []
    maker = {"train": "make_train_step", "predict": "make_eval_step"}[FLAGS.task]
    make = getattr(step, maker)

    def remembering(*arguments, **options):
        jitted = make(*arguments, **options)

        def call(state, batch):
            if not programs:
                programs.append(jitted.lower(state, batch).compile().as_text())
            return jitted(state, batch)

        return call

    setattr(step, maker, remembering)
    names = ("task", "model", "precision", "image_size", "batch", "seconds")
    spec = {name: FLAGS[name].value for name in names} | {"wait_each": True}
    _, once = contender_leukjax.prepare(spec)
    once()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            answer = once()
        times = events(next(Path(folder).rglob("*.xplane.pb")))
    report(times, programs[0], int(answer["steps"]), answer["seconds"])


def events(file: Path) -> dict[str, tuple[float, int]]:
    """Operation -> nanoseconds and events, over all threads."""
    times: dict[str, tuple[float, int]] = {}
    for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
        for line in plane.lines:
            for event in line.events:
                if any(name == "hlo_op" for name, _ in event.stats):
                    before, count = times.get(event.name, (0.0, 0))
                    times[event.name] = (before + event.duration_ns, count + 1)
    return times


def report(times: dict[str, tuple[float, int]], program: str, steps: int, seconds: float) -> None:
    """Groups by what is computed and for which kind of layer, then the longest by shape."""
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
    print(f"{FLAGS.model}, {FLAGS.image_size} px: a step takes {1000 * seconds:.0f} ms")
    print(f"traced, all threads: {total / 1e6 / steps:.0f} ms a step")
    for (kind, layer), spent in groups.most_common():
        if spent > 0.005 * total:
            print(f"  {100 * spent / total:5.1f} %  {spent / 1e6 / steps:7.1f} ms  {kind}, {layer}")
    print("the longest, by result:")
    for (kind, layer, shape), (spent, count) in sorted(
        single.items(), key=lambda item: -item[1][0]
    )[: FLAGS.most]:
        times_a_step = f"{count / steps:.0f} times"
        print(f"  {spent / 1e6 / steps:7.1f} ms  {times_a_step:>10}  {shape}  {kind}, {layer}")


def kind_of(name: str, text: str) -> str:
    """What an operation computes, from its text and that of the computation that it calls."""
    if " dot(" in text or "dot" in name:
        return "matrix products"
    if "ynn_fusion" in name or " reduce(" in text:
        return "sums over pixels"
    if " concatenate(" in text and " multiply(" not in text:
        return "patches and tiles put together"
    if " transpose(" in text or "copy" in name:
        return "transposes and copies"
    return "element by element"


def layer_of(line: str) -> str:
    """For what kind of layer, from the name that the program keeps."""
    path = re.search(r'op_name="([^"]*)"', line)
    if path is None:
        return "unnamed"
    found = LAYER.findall(path[1])
    if found:
        kinds = ("conv", "norm", "attn", "pool")
        kind = next((word for word in kinds if word in found[-1]), found[-1])
        return f"{kind}, {'backward' if 'transpose(' in path[1] else 'forward'}"
    if "jvp(" in path[1]:
        return "ReLU, shortcut and pooling"
    return "optimiser and the rest"


if __name__ == "__main__":
    app.run(main)
