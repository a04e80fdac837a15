"""Stain normalisation against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from leukjax.errors import UserError
from leukjax.images import stain as stains
from leukjax.images.stain import Stain

AZURE, EOSIN = (np.array(v) / np.linalg.norm(v) for v in ([0.7, 0.6, 0.3], [0.1, 0.9, 0.35]))


measure = jax.jit(stains.measure, static_argnums=1)
normalize = jax.jit(stains.normalize, static_argnums=2)


def cells(n=4, size=20, seed=0, black=False):
    """Two stains in random amounts, stronger in each image than in the one before."""
    rng = np.random.default_rng(seed)
    amounts = (
        rng.gamma(2.0, 0.25, (n, size, size, 2)) * np.linspace(0.6, 1.2, n)[:, None, None, None]
    )
    density = amounts @ np.stack([AZURE, EOSIN]) + rng.normal(0, 0.01, (n, size, size, 3))
    images = np.clip(10**-density, 0.01, 1).astype(np.float32)
    if black:
        images[:, :6] = 0
    return images


def counted(image, black):
    pixels = image.reshape(-1, 3).astype(np.float64)
    return pixels[(pixels > 0).any(1)] if black else pixels


LMS = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])


def lab(pixels):
    a, b, c = np.log10(np.maximum(pixels, 1 / 255) @ LMS.T).T
    return np.stack([(a + b + c) / 3**0.5, (a + b - 2 * c) / 6**0.5, (a - b) / 2**0.5], 1)


def reinhard(image, target, black):
    """Reinhard et al. 2001, written out."""
    inside = lab(counted(image, black))
    a, b, c = (
        (lab(image.reshape(-1, 3)) - inside.mean(0)) / inside.std(0) * target[1, :3] + target[0, :3]
    ).T
    a, b, c = a / 3**0.5, b / 6**0.5, c / 2**0.5
    lms = 10 ** np.stack([a + b + c, a + b - c, a - 2 * b], 1)
    changed = np.clip(lms @ np.linalg.inv(LMS).T, 0, 1).reshape(image.shape)
    return np.where(black & ~(image > 0).any(-1, keepdims=True), 0, changed)


def density_of(pixels):
    return -np.log10(np.maximum(pixels, 1 / 255))


def macenko_stains(image, black):
    """Macenko et al. 2009 by eigenvectors, angles and least squares."""
    density = density_of(counted(image, black))
    stained = density[(density >= 0.15).any(1)]
    _, vectors = np.linalg.eigh(np.cov(stained.T))
    plane = vectors[:, [2, 1]]
    plane[:, 0] *= np.sign(plane[:, 0].sum())
    angles = np.arctan2(*(stained @ plane).T[::-1])
    ends = [plane @ [np.cos(a), np.sin(a)] for a in np.quantile(angles, [0.01, 0.99])]
    matrix = np.stack(sorted(ends, key=lambda v: -v[0]))
    amounts = np.linalg.lstsq(matrix.T, density.T, rcond=None)[0]
    return np.concatenate([matrix, np.quantile(amounts, 0.99, axis=1)[:, None]], 1)


def macenko(image, target, black):
    own = macenko_stains(image, black)
    density = density_of(image.reshape(-1, 3).astype(np.float64))
    amounts = np.linalg.lstsq(own[:, :3].T, density.T, rcond=None)[0].T
    amounts = np.maximum(amounts, 0) * target[:, 3] / own[:, 3]
    changed = np.clip(10 ** -(amounts @ target[:, :3]), 0, 1).reshape(image.shape)
    return np.where(black & ~(image > 0).any(-1, keepdims=True), 0, changed)


TARGETS = {
    "reinhard": np.array([[-0.4, 0.05, 0.02, 0], [0.2, 0.05, 0.03, 0]]),
    "macenko": np.array([[*AZURE, 1.4], [*EOSIN, 0.9]]),
}
CASES = [(method, black) for method in TARGETS for black in (True, False)]


@pytest.mark.parametrize(("method", "black"), CASES)
def test_images_get_the_stains_of_the_target(method, black):
    images, target = cells(black=black), TARGETS[method]
    stain = Stain(method, black)
    found = normalize(images, jnp.asarray(target, jnp.float32), stain)
    reference = {"reinhard": reinhard, "macenko": macenko}[method]
    for image, ours in zip(images, found, strict=True):
        np.testing.assert_allclose(ours, reference(image, target, black), rtol=2e-3, atol=5e-4)
    assert np.abs(found - images).max() > 0.05
    if black:
        np.testing.assert_array_equal(found[:, :6], 0)


@pytest.mark.parametrize("black", [True, False])
def test_the_stains_of_macenko_are_those_by_eigenvectors(black):
    images = cells(black=black)
    values, valid = measure(images, Stain("macenko", black))
    assert valid.all()
    expected = [macenko_stains(image, black) for image in images]
    np.testing.assert_allclose(values, expected, rtol=2e-3, atol=2e-3)
    # The angles of 1 and 99 % are a little inside those of the true stains.
    assert (np.asarray(values)[:, 0, :3] @ AZURE > 0.99).all()
    assert (np.asarray(values)[:, 1, :3] @ EOSIN > 0.97).all()


@pytest.mark.parametrize(("method", "black"), CASES)
def test_an_image_with_its_own_stains_is_unchanged(method, black):
    images, stain = cells(black=black), Stain(method, black)
    target = measure(images, stain)[0][1]
    same = normalize(images, target, stain)[1]
    # Macenko drops what neither stain explains.
    np.testing.assert_allclose(same, images[1], atol=2e-4 if method == "reinhard" else 0.08)


@pytest.mark.parametrize(("method", "black"), CASES)
def test_an_image_that_cannot_be_measured_stays_as_it_is(method, black):
    grey = np.full((20, 20, 3), 0.4, np.float32)
    odd = [np.zeros_like(grey), np.ones_like(grey), grey, np.zeros_like(grey)]
    odd[3][:1, :9] = 0.3
    images = np.stack(odd)
    found = normalize(images, jnp.asarray(TARGETS[method], jnp.float32), Stain(method, black))
    if black or method == "macenko":
        np.testing.assert_array_equal(found, images)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("method", TARGETS)
def test_any_number_of_images_is_exported_for_every_platform(method):
    (count,) = export.symbolic_shape("n")
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((count, 20, 20, 3), (2, 4))]
    stain = Stain(method, True)
    function = jax.jit(lambda x, target: stains.normalize(x, target, stain))
    made = export.export(function, platforms=("cpu", "cuda", "tpu"))(*shapes)
    images, target = cells(3, black=True), jnp.asarray(TARGETS[method], jnp.float32)
    ours = made.call(images, target)
    np.testing.assert_allclose(ours, normalize(images, target, stain), atol=1e-5)


def test_the_target_is_the_median_over_images_that_can_be_measured():
    images = np.rint(255 * cells()).astype(np.uint8)
    images[2] = 0
    for method in TARGETS:
        stain = Stain(method, True)
        target = stains.fit([images[:2], images[2:]], stain)
        values, valid = measure(images.astype(np.float32) / 255, stain)
        assert list(np.asarray(valid)) == [True, True, False, True]
        expected = np.median(np.asarray(values)[np.asarray(valid)], axis=0)
        if method == "macenko":
            expected[:, :3] /= np.linalg.norm(expected[:, :3], axis=1, keepdims=True)
        np.testing.assert_allclose(target, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(UserError, match=r"data\.stain=reinhard: no training image has"):
        stains.fit([images[2:3]], Stain("reinhard", True))


def test_the_smallest_axis_is_that_of_numpy():
    rng = np.random.default_rng(1)
    samples = rng.normal(size=(50, 200, 3)) * [1.0, 0.3, 0.1] @ rng.normal(size=(50, 3, 3))
    matrices = np.einsum("nki,nkj->nij", samples, samples).astype(np.float32)
    ours = np.asarray(stains._smallest_axis(jnp.asarray(matrices)))
    _, vectors = np.linalg.eigh(matrices.astype(np.float64))
    agree = np.abs((ours * vectors[..., 0]).sum(-1))
    assert agree.min() > 0.999


def test_quantiles_are_those_of_numpy():
    rng = np.random.default_rng(2)
    values, chosen = rng.normal(size=(6, 40)).astype(np.float32), rng.random((6, 40)) < 0.6
    for share in (0.01, 0.5, 0.99):
        ours = stains._quantile(jnp.asarray(values), jnp.asarray(chosen), share)
        expected = [np.quantile(v[c], share) for v, c in zip(values, chosen, strict=True)]
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
