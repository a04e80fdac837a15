import functools

import jax
import numpy as np
import pytest

from leukjax.data import image_stats
from leukjax.errors import UserError
from leukjax.images import normalize

on_black = functools.partial(image_stats.foreground, background="black")


def test_the_ends_of_uint8_become_exactly_0_and_1():
    values = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    floats = np.asarray(jax.jit(normalize.to_float)(values))
    assert floats.dtype == np.float32
    assert floats.ravel()[0] == 0
    assert floats.ravel()[-1] == 1
    np.testing.assert_array_equal(np.round(floats * 255), values)


def test_standardize_gives_mean_0_and_spread_1():
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(4, 8, 8, 3)).astype(np.float32)
    mean, std = images.mean(axis=(0, 1, 2)), images.std(axis=(0, 1, 2))
    result = np.asarray(normalize.standardize(images, mean, std))
    np.testing.assert_allclose(result.mean(axis=(0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(result.std(axis=(0, 1, 2)), 1, atol=1e-5)


def test_statistics_are_those_of_the_foreground_alone():
    rng = np.random.default_rng(1)
    images = rng.integers(1, 256, (6, 10, 12, 3), dtype=np.uint8)
    black = rng.random((6, 10, 12)) < 0.7
    images[black] = 0
    mean, std = normalize.foreground_statistics(images, on_black)
    inside = images[~black] / 255
    np.testing.assert_allclose(mean, inside.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(std, inside.std(axis=0), rtol=1e-10)


def test_bright_fields_take_the_dark_cell():
    image = np.full((16, 16, 3), 230, np.uint8)
    image[4:8, 4:8] = [90, 40, 110]
    rule = functools.partial(image_stats.foreground, background="bright")
    mean, std = normalize.foreground_statistics([image], rule)
    np.testing.assert_allclose(mean, np.array([90, 40, 110]) / 255)
    np.testing.assert_array_equal(std, normalize.SMALLEST_STD)


def test_the_order_of_the_images_changes_no_bit():
    images = np.random.default_rng(2).integers(0, 256, (50, 9, 9, 3), dtype=np.uint8)
    first = normalize.foreground_statistics(images, on_black)
    other = normalize.foreground_statistics(iter(images[::-1]), on_black)
    np.testing.assert_array_equal(first, other)


def test_all_black_is_an_error_that_names_the_field():
    with pytest.raises(UserError, match=r"data\.mean"):
        normalize.foreground_statistics(np.zeros((2, 4, 4, 3), np.uint8), on_black)
