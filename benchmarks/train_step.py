"""The training step beside timm/PyTorch and plain Flax: images/s, peak memory, share of peak.

python benchmarks/train_step.py                                three models, 64 px, float32
python benchmarks/train_step.py --models=resnet50 --image_size=224 --rounds=7
python benchmarks/train_step.py --precision=bfloat16 --batch=128 --image_size=224   a GPU or TPU

One step: images from host memory to the device, forward, backward, Adam. leukjax is fed with uint8
and normalises; plain Flax and PyTorch get float images that are ready. No augmentation anywhere.
PyTorch is channels-last, eager and under torch.compile, with the fused Adam. Rounds interleave;
medians with quartiles; ratios within a round. Adds rows to benchmarks/results/train_step.csv.
"""

from absl import app, flags
from contenders import MODELS, OURS, add_share_of_peak, add_speed, field
from harness import append, interleave, rows, running, spread, verdict

FLAGS = flags.FLAGS
flags.DEFINE_list("models", list(MODELS), f"of {', '.join(MODELS)}")
flags.DEFINE_list("peers", ["flax", "timm", "timm compiled"], "of flax, timm, timm compiled")
flags.DEFINE_multi_integer("image_size", [64], "pixels a side; may be repeated", lower_bound=33)
flags.DEFINE_integer("batch", 32, "images a step", lower_bound=1)
flags.DEFINE_multi_enum("precision", ["float32"], ["float32", "bfloat16"], "may be repeated")
flags.DEFINE_integer("rounds", 5, "rounds of each contender", lower_bound=1)
flags.DEFINE_float("seconds", 3.0, "about so long is a round", lower_bound=0.0)


def main(_: list[str]) -> None:
    """Measure, print a verdict a model, add the rows."""
    for model in FLAGS.models:
        for size in FLAGS.image_size:
            for precision in FLAGS.precision:
                measure(model, size, precision)


def measure(model: str, size: int, precision: str) -> None:
    """One model at one size."""
    about = {"model": model, "precision": precision, "batch": FLAGS.batch, "image_size": size}
    spec = {"task": "train", "seconds": FLAGS.seconds, **about}
    with running(field(spec, FLAGS.peers)) as alive:
        results = interleave(alive, FLAGS.rounds)
    add_speed(results, FLAGS.batch)
    add_share_of_peak(results, passes=3)
    append("train_step", rows(results, "images_per_second", OURS, about))
    for name, answers in results.items():
        memory = max(answer["peak_memory"] for answer in answers) / 2**30
        share = spread([answer.get("peak_share", float("nan")) for answer in answers])
        speed = spread([answer["images_per_second"] for answer in answers])
        print(
            f"  {name:15} {speed} images/s, peak memory {memory:.2f} GiB, "
            f"{100 * share.median:.1f} % of peak FLOP/s"
        )
    title = f"{model} training, {size} px, batch {FLAGS.batch}, {precision}"
    print(verdict(title, "images_per_second", results, OURS), flush=True)


if __name__ == "__main__":
    app.run(main)
