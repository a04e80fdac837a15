"""Trains a small CNN on NumPy arrays, evaluates it and predicts.

python examples/train_on_arrays.py
"""

import sys

import numpy as np
import optax

import leukjax as lj


def make_cells(subjects: int = 24, per_subject: int = 8, size: int = 32):
    """Bright discs on dark ground; those of class 1 are larger. A stand-in for your own arrays."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(subjects), per_subject)
    labels = groups % 2
    y, x = np.mgrid[:size, :size]
    images = np.zeros((len(labels), size, size, 3), np.uint8)
    for image, label in zip(images, labels, strict=True):
        radius = rng.normal(11 if label else 8, 1)
        centre = rng.normal(size / 2, 1, 2)
        disc = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
        image[disc] = rng.integers(120, 220, 3)
    return images, labels, groups


def main(workdir: str = "runs/arrays") -> None:
    """Trains, evaluates, predicts."""
    images, labels, groups = make_cells()
    data = lj.Arrays(images, labels, groups=groups, classes=("small", "large"))
    split = lj.split_by_group(data, seed=0)  # no group is in two of its parts

    trainer = lj.Trainer(
        lj.create_model("cnn", num_classes=data.num_classes, width=8),
        optimizer=optax.adamw(optax.cosine_decay_schedule(3e-3, 60)),
        augment=lj.Augment(flip=True, rotate=180),
        image_size=32,
        batch_size=16,
        epochs=6,
    )
    run = trainer.fit(split.train, split.val, workdir=workdir)  # the same line resumes it
    print(run.evaluate(split.test))
    print(run.predict([images[0], images[-1]]).round(3))


if __name__ == "__main__":
    main(*sys.argv[1:])
