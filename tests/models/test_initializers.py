"""Initializers: the stated variances, independent values, quick to compile."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from leukjax.models import initializers


def _draw(seed, shape=(1 << 20,)):
    key = jax.random.fold_in(jax.random.key(0), seed)
    return np.asarray(initializers.uniform_by_hash(key, shape), np.float64)


def test_numbers_are_uniform():
    numbers = _draw(1)
    assert -1 <= numbers.min() < -0.9999
    assert 0.9999 < numbers.max() < 1
    counts, _ = np.histogram(numbers, 64, (-1, 1))
    expected = numbers.size / 64
    assert ((counts - expected) ** 2 / expected).sum() < 120  # chi-squared, 63 degrees of freedom


@pytest.mark.parametrize("lag", [1, 2, 64, 576, 4096])
def test_neighbours_are_not_correlated(lag):
    numbers = _draw(2)
    assert abs(np.corrcoef(numbers[:-lag], numbers[lag:])[0, 1]) < 5e-3


def test_parameters_and_seeds_are_not_correlated():
    draws = np.stack([_draw(seed, (1 << 16,)) for seed in range(12)])
    off_diagonal = np.corrcoef(draws) - np.eye(12)
    assert np.abs(off_diagonal).max() < 0.025
    other_seed = initializers.uniform_by_hash(jax.random.key(7), (1 << 16,))
    assert abs(np.corrcoef(draws[0], other_seed)[0, 1]) < 0.025


def test_a_matrix_of_numbers_has_the_spectrum_of_independent_ones():
    singular = np.linalg.svd(_draw(3, (400, 100)) * np.sqrt(3), compute_uv=False)
    # Marchenko and Pastur (1967): all within sqrt(400) +- sqrt(100).
    assert singular.min() > 9.2
    assert singular.max() < 31


@pytest.mark.parametrize(
    ("initializer", "shape", "variance"),
    [
        (initializers.he_fan_out, (3, 3, 64, 128), 2 / (9 * 128)),
        (initializers.fan_in, (2048, 10), 1 / 2048),
        (initializers.glorot, (192, 768), 2 / (192 + 768)),
        (initializers.deviation(0.02), (1, 37, 192), 0.02**2),
    ],
)
def test_variances(initializer, shape, variance):
    numbers = np.asarray(initializer(jax.random.key(3), shape))
    assert numbers.shape == shape
    assert numbers.dtype == np.float32
    assert numbers.var() == pytest.approx(variance, rel=0.05)


def test_any_number_of_devices_makes_the_same_bits():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def init(key):
        return initializers.he_fan_out(key, (3, 3, 16, 64))

    split = NamedSharding(mesh, PartitionSpec(None, None, None, "data"))
    sharded = jax.jit(init, out_shardings=split)(jax.random.key(5))
    np.testing.assert_array_equal(sharded, jax.jit(init)(jax.random.key(5)))
