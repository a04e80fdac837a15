"""MixUp and CutMix against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from leukjax.images.mix import blend, mix, outside_box

RNG = np.random.default_rng(0)
IMAGES = RNG.random((16, 12, 10, 3), np.float32)


def run(images, mixup=0.0, cutmix=0.0, seed=3):
    step = jax.jit(lambda k, x, p: mix(k, x, p, mixup, cutmix))
    return step(jax.random.key(seed), images, jnp.arange(len(images), dtype=jnp.int32))


def test_an_image_is_blended_with_the_next_one():
    share = RNG.random((16, 1, 1, 1)).astype(np.float32)
    expected = share * IMAGES + (1 - share) * IMAGES[[*range(1, 16), 0]]
    np.testing.assert_allclose(blend(IMAGES, share), expected, rtol=1e-6)


def test_a_share_of_1_changes_no_bit():
    ones = np.ones(16, np.float32)
    boxes = jax.jit(lambda a, b: outside_box(ones, a, b, (12, 10)))(RNG.random(16), RNG.random(16))
    for weights in (ones[:, None, None, None], boxes):
        np.testing.assert_array_equal(jax.jit(blend)(IMAGES, weights), IMAGES)


def published_box(height, width, share, row, column):
    """`rand_bbox` of the code of Yun et al. with its random centre given."""
    ratio = np.sqrt(1.0 - share)
    cut_h, cut_w = int(height * ratio), int(width * ratio)
    middle, centre = int(row * height), int(column * width)
    weights = np.ones((height, width))
    top, bottom = np.clip([middle - cut_h // 2, middle + cut_h // 2], 0, height)
    left, right = np.clip([centre - cut_w // 2, centre + cut_w // 2], 0, width)
    weights[top:bottom, left:right] = 0
    return weights


def test_boxes_are_those_of_the_published_code():
    share, row, column = (RNG.random(200).astype(np.float32) for _ in range(3))
    weights = np.asarray(outside_box(share, row, column, (12, 10)))
    for found, *drawn in zip(weights[..., 0], share, row, column, strict=True):
        np.testing.assert_array_equal(found, published_box(12, 10, *drawn))


@pytest.mark.parametrize("options", [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
def test_the_share_is_that_of_the_pixels(options):
    marks = np.broadcast_to(np.arange(16.0)[:, None, None, None], IMAGES.shape).astype(np.float32)
    mixed, share = (np.asarray(x) for x in run(marks, *options))
    number, following = np.arange(16), (np.arange(16) + 1) % 16
    expected = share * number + (1 - share) * following
    np.testing.assert_allclose(mixed.mean((1, 2, 3)), expected, rtol=1e-4)
    whole = np.isclose(mixed, number[:, None, None, None]) | np.isclose(
        mixed, following[:, None, None, None]
    )
    cut = whole.all((1, 2, 3)).sum()
    assert (cut == 0, cut == 16, 0 < cut < 16)[(options[0] == 0) + 2 * (0 not in options)]


@pytest.mark.parametrize("alpha", [0.2, 4.0])
def test_shares_have_the_beta_distribution(alpha):
    share = np.asarray(run(jnp.zeros((8000, 1, 1, 1)), alpha)[1])
    assert share.mean() == pytest.approx(0.5, abs=0.02)
    assert share.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)


def test_the_number_of_devices_changes_no_bit():
    one = run(IMAGES, 0.4, 1.0)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    spread = jax.device_put(IMAGES, NamedSharding(mesh, PartitionSpec("data")))
    for ours, theirs in zip(run(spread, 0.4, 1.0), one, strict=True):
        np.testing.assert_array_equal(ours, theirs)
