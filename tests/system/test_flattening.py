"""Training with the suite's operations flattens the curve of score against severity."""

import numpy as np
import pytest

from leukjax import config
from leukjax.metrics import predictions, robustness
from leukjax.robustness import predictions as suite
from leukjax.training.trainer import train

FIELDS = {
    "data.image_size": 24,
    "data.smears_subjects": 40,
    "model.width": 16,
    "train.epochs": 12,
}
DISTORTED = {
    "augment.stain": 0.4,
    "augment.blur": 6.0,
    "augment.noise": 0.1,
    "augment.debris": 9.0,
}
NAMES = ("stain_shift", "defocus_blur", "gaussian_noise", "debris")


def drops(folder, cache, changes) -> dict[str, float]:
    """Mean drop by distortion of a CNN trained with these changes."""
    chosen = config.load("cnn", FIELDS | {"data.cache_dir": str(cache)} | changes)
    train(chosen, folder)
    images = suite.read_images(folder, "test")
    cases = suite.make_cases(NAMES, ("masked",))
    paths = suite.predict(folder, images, cases)
    tables = {case: predictions.read(path) for case, path in paths.items()}
    clean = tables[cases[0]]
    return {
        name: robustness.curve(
            name,
            "masked",
            clean,
            {case.severity: table for case, table in tables.items() if case.distortion == name},
            clean.classes.index(images.about.positive),
        ).mean_drop.value
        for name in NAMES
    }


@pytest.mark.slow
def test_augmentation_flattens_the_curve(tmp_path):
    plain = drops(tmp_path / "plain", tmp_path / "cache", {})
    distorted = drops(tmp_path / "distorted", tmp_path / "cache", DISTORTED)
    # One test part of few subjects is no place for a claim on each: the mean of the four.
    before, after = (np.mean(list(found.values())) for found in (plain, distorted))
    assert before > 0.05, plain
    assert after < 0.6 * before, (plain, distorted)
