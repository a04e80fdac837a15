"""Inference beside timm/PyTorch, onnxruntime and plain Flax: images/s and latency.

python benchmarks/predict.py                                      ResNet-50 at 64 px
python benchmarks/predict.py --models=cnn,resnet50,hybrid --image_size=224 --rounds=7

One dispatch: images from host memory to the device, the network, and its result before the next
dispatch starts, so that latency is the time of a dispatch. leukjax gets uint8 images and
normalises; the others get normalised float images. onnxruntime folds BatchNorm into the
convolutions; XLA runs it in one loop with ReLU and residual. Rounds interleave; medians with
quartiles; ratios within a round. Adds rows to benchmarks/results/predict.csv.
"""

from absl import app, flags
from contenders import MODELS, compare

FLAGS = flags.FLAGS
flags.DEFINE_list("models", ["resnet50"], f"of {', '.join(MODELS)}")
flags.DEFINE_list(
    "peers", ["flax", "timm", "onnxruntime"], "of flax, timm, timm compiled, onnxruntime"
)
flags.DEFINE_integer("image_size", 64, "pixels per side", lower_bound=33)
flags.DEFINE_multi_integer(
    "batch", [1, 32, 256], "images per dispatch; may be repeated", lower_bound=1
)
flags.DEFINE_enum("precision", "float32", ["float32", "bfloat16"], "of the networks")
flags.DEFINE_integer("rounds", 5, "rounds of each contender", lower_bound=1)
flags.DEFINE_float("seconds", 1.0, "approximate length of a round", lower_bound=0.0)


def main(_: list[str]) -> None:
    """Measures every model and batch size."""
    for model in FLAGS.models:
        for batch in FLAGS.batch:
            spec = {"model": model, "precision": FLAGS.precision, "batch": batch}
            spec |= {"image_size": FLAGS.image_size}
            compare("predict", spec, FLAGS.peers, FLAGS.rounds, FLAGS.seconds)


if __name__ == "__main__":
    app.run(main)
