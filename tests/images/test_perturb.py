"""The suite's distortions as augmentation."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from leukjax.images.augment import Augment, augment

STRENGTHS = {"stain": 0.5, "illumination": 0.4, "blur": 20.0, "noise": 0.1, "debris": 6.0}
ALL = Augment(**STRENGTHS)


def cells(n, size=24):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    disc = (y**2 + x**2 < (size / 3) ** 2)[None, :, :, None]
    return np.where(disc, rng.uniform(0.2, 0.9, (n, size, size, 3)), 0).astype(np.float32)


def run(images, positions, options):
    return np.asarray(jax.jit(lambda k, x, p: augment(k, x, p, options))(
        jax.random.key(5), images, positions
    ))  # fmt: skip


@pytest.mark.parametrize("name", STRENGTHS)
def test_each_changes_cells_only_and_increases(name):
    images, positions = cells(16), np.arange(16)
    little, much = (
        run(images, positions, Augment(**{name: factor * STRENGTHS[name]})) for factor in (0.25, 1)
    )
    assert much.dtype == np.float32
    assert much.min() >= 0
    assert much.max() <= 1
    change = [np.abs(view - images).mean() for view in (little, much)]
    assert 0 < change[0] < change[1]
    if name != "debris":
        assert (much[(images == 0).all(axis=-1)] == 0).all()
    # Degrees are random: images change to different extents.
    changes = np.abs(much - images).mean(axis=(1, 2, 3))
    assert changes.max() > 2 * changes.min()


def test_bright_backgrounds_are_distorted_too():
    images = 1 - cells(2)
    outside = (images == 1).all(axis=-1)
    for name in ("stain", "illumination", "noise"):
        options = Augment(**{name: STRENGTHS[name]}, background="edge")
        if name != "stain":  # clear glass has no stain
            assert (run(images, np.arange(2), options)[outside] != 1).any()


def test_an_image_depends_on_its_key_and_pixels_only():
    images, positions = cells(12), np.arange(12)
    whole = run(images, positions, ALL)
    order = np.random.default_rng(1).permutation(12)
    np.testing.assert_array_equal(run(images[order], order, ALL), whole[order])
    assert len(np.unique(run(np.repeat(images[:1], 12, 0), positions, ALL), axis=0)) == 12


def test_switching_one_on_does_not_change_others():
    images, positions = cells(4), np.arange(4)
    stained = run(images, positions, Augment(stain=0.5))
    both = run(images, positions, Augment(stain=0.5, noise=1e-9))
    np.testing.assert_allclose(both, stained, atol=1e-6)


def test_eight_devices_give_the_numbers_of_one_without_communication():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("data"))
    images, positions = cells(16), np.arange(16)
    parts = [jax.device_put(a, split) for a in (images, positions)]
    step = jax.jit(lambda k, x, p: augment(k, x, p, ALL))
    lowered = step.lower(jax.random.key(5), *parts).compile()
    result = np.asarray(lowered(jax.random.key(5), *parts))
    np.testing.assert_allclose(result, run(images, positions, ALL), atol=1e-5)
    assert "all-gather" not in lowered.as_text()
