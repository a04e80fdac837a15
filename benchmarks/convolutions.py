"""ResNet-50's 3x3 convolutions one by one, on CPU: native, as patches, by tiles, beside PyTorch.

python benchmarks/convolutions.py                                 some minutes on two cores
python benchmarks/convolutions.py --shapes=56x64,7x512 --rounds=7

A shape is the pixels a side and the channels, in and out. Milliseconds of one call, forward or both
gradients together; GFLOP/s as if every product of the plain convolution were computed, so that
Winograd's can exceed what the cores can do. Rounds interleave; medians with quartiles; ratios
within a round. Adds rows to benchmarks/results/convolutions.csv.
"""

import sys

from absl import app, flags
from harness import Contender, append, interleave, peers_python, rows, running, spread, verdict

FLAGS = flags.FLAGS
OURS = "winograd"
SHAPES = ["16x64", "8x128", "4x256", "2x512", "56x64", "28x128", "14x256", "7x512"]
flags.DEFINE_list("shapes", SHAPES, "pixels a side x channels")
flags.DEFINE_list("ways", [OURS, "patches", "native", "torch"], "of these")
flags.DEFINE_integer("batch", 32, "images", lower_bound=1)
flags.DEFINE_integer("rounds", 5, "rounds of each", lower_bound=1)
flags.DEFINE_float("seconds", 0.3, "about so long is a round", lower_bound=0.0)


def main(_: list[str]) -> None:
    """Measure, print a verdict a shape and pass, add the rows."""
    for shape in FLAGS.shapes:
        try:
            side, channels = map(int, shape.split("x"))
        except ValueError:
            sys.exit(f"error: --shapes: {shape!r}: expected pixels x channels, like 16x64")
        for which in ("forward", "gradients"):
            measure(side, channels, which)


def measure(side: int, channels: int, which: str) -> None:
    """One shape, one pass."""
    about = {"side": side, "channels": channels, "batch": FLAGS.batch, "pass": which}
    field = []
    for way in FLAGS.ways:
        spec = {**about, "way": way, "seconds": FLAGS.seconds}
        if way != "torch":
            field.append(Contender(way, "contender_convolution.py", spec))
        elif peers_python():
            script = "contender_convolution_torch.py"
            field.append(Contender(way, script, spec, python=peers_python()))
    with running(field) as alive:
        results = interleave(alive, FLAGS.rounds)
    passes = 1 if which == "forward" else 2
    work = passes * 2 * FLAGS.batch * (side * channels) ** 2 * 9 / 1e9
    for answers in results.values():
        for answer in answers:
            answer["gflops_per_second"] = work / answer["seconds"]
            answer["milliseconds"] = 1000 * answer["seconds"]
    about["precision"] = "float32"
    append("convolutions", rows(results, "gflops_per_second", OURS, about))
    for name, answers in results.items():
        times = spread([answer["milliseconds"] for answer in answers])
        print(f"  {name:9} {times} ms")
    title = f"{side}x{side}x{channels}, batch {FLAGS.batch}, {which}"
    print(verdict(title, "gflops_per_second", results, OURS), flush=True)


if __name__ == "__main__":
    app.run(main)
