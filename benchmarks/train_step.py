"""The training step beside timm/PyTorch and plain Flax: images/s, peak memory, share of peak.

python benchmarks/train_step.py                                four models, 64 px, float32
python benchmarks/train_step.py --models=resnet50 --image_size=224 --rounds=7
python benchmarks/train_step.py --precision=bfloat16 --batch=128 --image_size=224   a GPU or TPU

One step: images from host memory to the device, forward, backward, Adam. leukjax gets uint8 images
and normalises; plain Flax and PyTorch get normalised float images. No augmentation. PyTorch is
channels-last, eager and under torch.compile, with the fused Adam. Rounds interleave; medians with
quartiles; ratios within a round. Adds rows to benchmarks/results/train_step.csv.
"""

from absl import app, flags
from contenders import MODELS, compare

FLAGS = flags.FLAGS
flags.DEFINE_list("models", list(MODELS[:4]), f"of {', '.join(MODELS)}")
flags.DEFINE_list("peers", ["flax", "timm", "timm compiled"], "of flax, timm, timm compiled")
flags.DEFINE_multi_integer("image_size", [64], "pixels per side; may be repeated", lower_bound=33)
flags.DEFINE_integer("batch", 32, "images per step", lower_bound=1)
flags.DEFINE_multi_enum("precision", ["float32"], ["float32", "bfloat16"], "may be repeated")
flags.DEFINE_integer("rounds", 5, "rounds of each contender", lower_bound=1)
flags.DEFINE_float("seconds", 3.0, "approximate length of a round", lower_bound=0.0)


def main(_: list[str]) -> None:
    """Measures every model, size and precision."""
    for model in FLAGS.models:
        for size in FLAGS.image_size:
            for precision in FLAGS.precision:
                spec = {"model": model, "precision": precision, "batch": FLAGS.batch}
                spec |= {"image_size": size}
                compare("train", spec, FLAGS.peers, FLAGS.rounds, FLAGS.seconds)


if __name__ == "__main__":
    app.run(main)
