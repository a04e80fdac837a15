"""ResNet-50's 3x3 convolutions one by one on CPU: native, patches, Winograd, beside PyTorch.

python benchmarks/convolutions.py                                 some minutes on two cores
python benchmarks/convolutions.py --shapes=56x64,7x512 --rounds=7

A shape is pixels per side x channels, in and out. Milliseconds of one dispatch, forward or both
gradients; GFLOP/s as if every product of the plain convolution were computed, so that Winograd's
can exceed the peak of the cores. Rounds interleave; medians with quartiles; ratios within a round.
Adds rows to benchmarks/results/convolutions.csv.
"""

import functools
import sys
from typing import Any

import harness
from absl import flags

FLAGS = flags.FLAGS
OURS = "winograd"
SHAPES = ["16x64", "8x128", "4x256", "2x512", "56x64", "28x128", "14x256", "7x512"]
flags.DEFINE_list("shapes", SHAPES, "pixels per side x channels")
flags.DEFINE_list("ways", [OURS, "patches", "native", "torch"], "of these")
flags.DEFINE_integer("batch", 32, "images", lower_bound=1)
flags.DEFINE_integer("rounds", 5, "rounds of each", lower_bound=1)
flags.DEFINE_float("seconds", 0.3, "approximate length of a round", lower_bound=0.0)


def main(_: list[str]) -> None:
    """Measures every shape and pass."""
    for shape in FLAGS.shapes:
        try:
            side, channels = map(int, shape.split("x"))
        except ValueError:
            sys.exit(f"error: --shapes: {shape!r}: expected pixels x channels, like 16x64")
        for which in ("forward", "gradients"):
            compare(side, channels, which)


def compare(side: int, channels: int, which: str) -> None:
    """Measures one shape and pass, prints a verdict, appends the rows."""
    about = {"side": side, "channels": channels, "batch": FLAGS.batch, "pass": which}
    contenders = []
    for way in FLAGS.ways:
        spec = {**about, "way": way, "task": "convolution", "seconds": FLAGS.seconds}
        script, python = __file__, None
        if way == "torch":
            script, python = "contender_torch.py", harness.peers_python()
        if way != "torch" or python:
            contenders.append(harness.Contender(way, script, spec, python=python))
    results = harness.measure(contenders, FLAGS.rounds)
    passes = 1 if which == "forward" else 2
    work = passes * 2 * FLAGS.batch * (side * channels) ** 2 * 9 / 1e9
    for name, answers in results.items():
        for answer in answers:
            answer["gflops_per_second"] = work / answer["seconds"]
            answer["milliseconds"] = 1000 * answer["seconds"]
        print(f"  {name:9} {harness.spread([a['milliseconds'] for a in answers])} ms")
    about["precision"] = "float32"
    harness.append("convolutions", harness.rows(results, "gflops_per_second", OURS, about))
    title = f"{side}x{side}x{channels}, batch {FLAGS.batch}, {which}"
    print(harness.verdict(title, "gflops_per_second", results, OURS), flush=True)


def prepare(spec: dict[str, Any]) -> tuple[dict[str, Any], harness.Round]:
    """One convolution in JAX, compiled with the options of the training step."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from leukjax import runtime
    from leukjax.models.cpu import convolution, winograd
    from leukjax.training.step import compiler_options

    runtime.hold_memory()
    random = np.random.default_rng(0)
    side, channels = spec["side"], spec["channels"]
    features = (spec["batch"], side, side, channels)
    x, gradient = (jnp.asarray(random.standard_normal(features), jnp.float32) for _ in range(2))
    kernel = jnp.asarray(random.standard_normal((3, 3, channels, channels)), jnp.float32)
    pads = ((1, 1), (1, 1))

    def native(x: Any, kernel: Any) -> Any:
        order = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), pads, dimension_numbers=order)

    def native_gradients(x: Any, kernel: Any, gradient: Any) -> Any:
        return jax.vjp(native, x, kernel)[1](gradient)

    if spec["way"] == "native":
        pair = (native, native_gradients)
    elif spec["way"] == "winograd":
        pair = (winograd.forward, winograd.gradients)
        pair = tuple(functools.partial(f, pads=pads) for f in pair)
    else:
        convolution._by_tiles = lambda *_: False  # else it chooses Winograd where that is faster
        pair = (convolution.forward, convolution.gradients)
        pair = tuple(functools.partial(f, strides=(1, 1), pads=pads) for f in pair)
    function, inputs = pair[0], (x, kernel)
    if spec["pass"] != "forward":
        function, inputs = pair[1], (x, kernel, gradient)
    options = compiler_options(jax.make_mesh((1,), ("data",)))
    compiled = jax.jit(function, compiler_options=options)
    about = {"device": harness.processor(), "versions": harness.versions("jax")}
    run = harness.repeated(
        lambda: compiled(*inputs), jax.block_until_ready, spec["seconds"], wait_each=True
    )
    return about, run


if __name__ == "__main__":
    harness.start(main, prepare)
