"""Predicts a stream of a million generated images and prints the memory on the way.

python benchmarks/predict_memory.py --workdir=RUN --count=1000000

One in ten is not an image. The resident memory of the process must not grow after the first ten
thousand. Exit status: 0 constant, 1 it grew by more than a tenth.
"""

import io
import time

import numpy as np
from absl import app, flags, logging
from PIL import Image

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "of the run that predicts", required=True)
flags.DEFINE_integer("count", 1_000_000, "images", lower_bound=20_000)

FIRST = 10_000


def main(_: list[str]) -> int:
    """Streams, measures, compares."""
    import leukjax
    from leukjax.data.image_stream import Item
    from leukjax.predict.batching import stream

    logging.set_verbosity(logging.ERROR)
    model = leukjax.load(FLAGS.workdir)
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(file, "BMP")
    image = file.getvalue()
    items = (
        Item(f"{number:07}.bmp", (lambda: b"") if number % 10 == 0 else (lambda: image))
        for number in range(FLAGS.count)
    )
    began, bad, first, due = time.perf_counter(), 0, 0, FIRST
    for number, row in enumerate(stream(model, items, threads=2), start=1):
        bad += bool(row.error)
        if number == due or number == FLAGS.count:
            first = first or resident()
            seconds = time.perf_counter() - began
            print(f"{number:9,} images, {bad:,} bad: {resident() >> 20} MiB, {seconds:.0f} s",
                  flush=True)  # fmt: skip
            due = min(due * 10, due + 250_000)
    return 0 if resident() < 1.1 * first else 1


def resident() -> int:
    """Returns the resident bytes of this process (Linux)."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


if __name__ == "__main__":
    app.run(main)
