"""Inference beside timm/PyTorch, onnxruntime and plain Flax: images/s and latency.

python benchmarks/predict.py                                      ResNet-50 at 64 px
python benchmarks/predict.py --models=cnn,resnet50,hybrid --image_size=224 --rounds=7

One call: images from host memory to the device, the network, and the result there before the next
call starts, so that latency is the time of a call. leukjax is fed with uint8, normalises and gives
probabilities; the others get float images that are ready. onnxruntime folds BatchNorm into the
convolutions; XLA runs it in one loop with the ReLU and the residual add. Rounds interleave; medians
with quartiles; ratios within a round. Adds rows to benchmarks/results/predict.csv.
"""

from absl import app, flags
from contenders import MODELS, OURS, add_share_of_peak, add_speed, field
from harness import append, interleave, rows, running, spread, verdict

FLAGS = flags.FLAGS
flags.DEFINE_list("models", ["resnet50"], f"of {', '.join(MODELS)}")
flags.DEFINE_list(
    "peers",
    ["flax", "timm", "onnxruntime"],
    "of flax, timm, timm compiled, onnxruntime",
)
flags.DEFINE_integer("image_size", 64, "pixels a side", lower_bound=33)
flags.DEFINE_multi_integer("batch", [1, 32, 256], "images a call; may be repeated", lower_bound=1)
flags.DEFINE_enum("precision", "float32", ["float32", "bfloat16"], "of the networks")
flags.DEFINE_integer("rounds", 5, "rounds of each contender", lower_bound=1)
flags.DEFINE_float("seconds", 1.0, "about so long is a round", lower_bound=0.0)


def main(_: list[str]) -> None:
    """Measure, print a verdict a model and batch, add the rows."""
    for model in FLAGS.models:
        for batch in FLAGS.batch:
            measure(model, batch)


def measure(model: str, batch: int) -> None:
    """One model at one batch size."""
    size, precision = FLAGS.image_size, FLAGS.precision
    about = {"model": model, "precision": precision, "batch": batch, "image_size": size}
    spec = {"task": "predict", "seconds": FLAGS.seconds, "wait_each": True, **about}
    with running(field(spec, FLAGS.peers)) as alive:
        results = interleave(alive, FLAGS.rounds)
    add_speed(results, batch)
    add_share_of_peak(results, passes=1)
    append("predict", rows(results, "images_per_second", OURS, about))
    for name, answers in results.items():
        latency = spread([1000 * answer["seconds"] for answer in answers])
        speed = spread([answer["images_per_second"] for answer in answers])
        print(f"  {name:15} {speed} images/s, latency {latency} ms")
    title = f"{model} inference, {size} px, batch {batch}, {precision}"
    print(verdict(title, "images_per_second", results, OURS), flush=True)


if __name__ == "__main__":
    app.run(main)
