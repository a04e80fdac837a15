import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from leukjax.errors import UserError
from leukjax.images.augment import Augment, augment, recolour
from leukjax.images.geometry import linear_map, permute, resample

EXACT = Augment(flip=True, quarter_turns=True)
EVERYTHING = Augment(True, True, rotate=180, zoom=0.3, brightness=0.3, contrast=0.3)


def cells(n, size=24, seed=0):
    """Random texture inside a disc, exactly black outside; float32 in [0, 1]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    disc = (y**2 + x**2 < (size / 3) ** 2)[None, :, :, None]
    return np.where(disc, rng.uniform(0.1, 1, (n, size, size, 3)), 0).astype(np.float32)


def run(images, positions, options, seed=3):
    step = jax.jit(lambda k, x, p: augment(k, x, p, options))
    return np.asarray(step(jax.random.key(seed), images, positions))


ALL_MOVES = [(t, u, s) for t in range(4) for u in (False, True) for s in (False, True)]


def by_numpy(image, turns, up_down, left_right):
    image = np.rot90(image, turns)
    image = image[::-1] if up_down else image
    return image[:, ::-1] if left_right else image


def test_every_permutation_is_that_of_numpy():
    images = cells(len(ALL_MOVES))
    turns, up_down, left_right = (np.array(c) for c in zip(*ALL_MOVES, strict=True))
    moved = np.asarray(jax.jit(permute)(images, turns, up_down, left_right))
    for image, result, move in zip(images, moved, ALL_MOVES, strict=True):
        np.testing.assert_array_equal(result, by_numpy(image, *move), err_msg=str(move))


def test_without_quarter_turns_images_need_not_be_square():
    images = cells(2)[:, :, :20]
    yes = np.ones(2, bool)
    np.testing.assert_array_equal(permute(images, None, yes, yes), images[:, ::-1, ::-1])
    with pytest.raises(UserError, match=r"augment\.quarter_turns"):
        permute(images, np.zeros(2, int), yes, yes)


def test_a_resampling_by_a_permutation_is_that_permutation():
    images = cells(len(ALL_MOVES))
    turns, up_down, left_right = (np.array(c) for c in zip(*ALL_MOVES, strict=True))
    matrix = linear_map(jnp.zeros(len(images)), None, turns, up_down, left_right)
    result = resample(images, matrix, "black")
    np.testing.assert_allclose(result, permute(images, turns, up_down, left_right), atol=1e-6)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_angles_turn_anti_clockwise(quarters):
    images = cells(1)
    no = np.zeros(1, bool)
    matrix = linear_map(jnp.full(1, quarters * np.pi / 2), None, None, no, no)
    result = np.asarray(resample(images, matrix, "black"))
    np.testing.assert_allclose(result[0], np.rot90(images[0], quarters), atol=1e-4)


def test_zoom_magnifies_and_the_outside_is_black_or_edge():
    images = np.full((1, 21, 21, 3), 0.5, np.float32)
    no = np.zeros(1, bool)
    smaller = linear_map(jnp.zeros(1), jnp.full(1, 0.5), None, no, no)
    black = np.asarray(resample(images, smaller, "black"))[0, ..., 0]
    # Pixels up to 10 from the centre are up to 5 from it afterwards.
    np.testing.assert_array_equal(black, np.pad(np.full((11, 11), 0.5), 5))
    edge = np.asarray(resample(images, smaller, "edge"))
    np.testing.assert_array_equal(edge, images)


def test_angles_and_zooms_fill_their_range():
    marks = np.zeros((512, 33, 33, 3), np.float32)
    marks[:, 16, 22:25] = 1  # a bar right of the centre
    view = run(marks, np.arange(512), Augment(rotate=30, zoom=0.5))[..., 0]
    grid = np.arange(33) - 16
    mass = view.sum(axis=(1, 2))
    y = (view.sum(axis=2) @ grid) / mass
    x = (view.sum(axis=1) @ grid) / mass
    angles = np.degrees(np.arctan2(-y, x))
    zooms = np.hypot(x, y) / 7
    assert -31 < angles.min() < -27
    assert 27 < angles.max() < 31
    assert abs(angles.mean()) < 3
    assert 0.63 < zooms.min() < 0.72
    assert 1.4 < zooms.max() < 1.55
    assert abs(np.log(zooms).mean()) < 0.05


def test_flips_and_turns_have_equal_shares():
    image = np.arange(4, dtype=np.float32).reshape(1, 2, 2, 1) / 4
    views = run(np.repeat(image, 2000, axis=0), np.arange(2000), EXACT)
    _, counts = np.unique(views.reshape(2000, -1), axis=0, return_counts=True)
    assert len(counts) == 8
    assert counts.min() > 250 - 4 * np.sqrt(250)
    assert counts.max() < 250 + 4 * np.sqrt(250)


def test_an_example_depends_on_its_key_and_its_pixels_only():
    images, positions = cells(16), np.arange(16)
    for options in (EXACT, EVERYTHING):
        whole = run(images, positions, options)
        order = np.random.default_rng(0).permutation(16)
        np.testing.assert_array_equal(run(images[order], order, options), whole[order])
        halves = [run(images[p], p, options) for p in (positions[:5], positions[5:])]
        # Another batch size is another compilation: equal up to the last bit of a product.
        tolerance = 0 if options is EXACT else 1e-5
        np.testing.assert_allclose(np.concatenate(halves), whole, atol=tolerance)
        others = images.copy()
        others[1:] = others[:0:-1]
        np.testing.assert_array_equal(run(others, positions, options)[0], whole[0])


def test_eight_devices_give_the_numbers_of_one():
    assert jax.device_count() == 8
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("data"))
    images, positions = cells(32), np.arange(32)
    for options, tolerance in ((EXACT, 0), (EVERYTHING, 1e-5)):
        whole = run(images, positions, options)
        parts = [jax.device_put(a, split) for a in (images, positions)]
        step = jax.jit(lambda k, x, p, o=options: augment(k, x, p, o))
        lowered = step.lower(jax.random.key(3), *parts).compile()
        result = lowered(jax.random.key(3), *parts)
        assert result.sharding.spec == PartitionSpec("data")
        assert "all-gather" not in lowered.as_text()
        np.testing.assert_allclose(np.asarray(result), whole, atol=tolerance)


def test_seeds_and_positions_change_the_view():
    images = np.repeat(cells(1), 8, axis=0)
    views = run(images, np.arange(8), EVERYTHING)
    assert len(np.unique(views.reshape(8, -1), axis=0)) == 8
    assert not np.array_equal(views, run(images, np.arange(8), EVERYTHING, seed=4))


def test_switching_an_option_on_does_not_change_others():
    images, positions = cells(8), np.arange(8)
    flipped = run(images, positions, EXACT)
    both = run(images, positions, Augment(True, True, brightness=1e-9))
    np.testing.assert_allclose(both, flipped, atol=1e-6)


def test_black_stays_exactly_black_and_values_stay_in_bounds():
    images = cells(64)
    loud = Augment(brightness=0.9, contrast=0.9)
    views = run(images, np.arange(64), loud)
    outside = (images == 0).all(axis=-1)
    assert (views[outside] == 0).all()
    assert (views[~outside] > 0).any()
    for options in (loud, EVERYTHING):
        views = run(images, np.arange(64), options)
        assert views.dtype == np.float32
        assert views.min() == 0
        assert views.max() <= 1
        assert (views[:, 0, 0] == 0).all()  # a corner that no turn of the disc reaches


def test_contrast_scales_about_the_mean_colour_of_the_cell():
    images = cells(3)
    factors = np.array([0.5, 1.0, 1.2], np.float32)
    result = np.asarray(recolour(0.5 * images, None, factors, "black"))
    for before, after, factor in zip(0.5 * images, result, factors, strict=True):
        inside = before.any(axis=-1)
        mean = before[inside].mean(axis=0)
        np.testing.assert_allclose(
            after[inside], mean + factor * (before[inside] - mean), atol=1e-6
        )
    gray = np.asarray(recolour(0.5 * images, None, np.zeros(3, np.float32), "edge"))
    np.testing.assert_allclose(
        gray, np.broadcast_to((0.5 * images).mean((1, 2))[:, None, None], gray.shape), atol=1e-6
    )


def test_brightness_multiplies_and_a_black_image_survives_everything():
    images = cells(2) * 0.5
    bright = np.asarray(recolour(images, np.full(2, 1.5, np.float32), None, "black"))
    np.testing.assert_allclose(bright, 1.5 * images, rtol=1e-6)
    black = run(np.zeros((2, 8, 8, 3), np.float32), np.arange(2), EVERYTHING)
    np.testing.assert_array_equal(black, 0)


def test_options_that_are_off_cost_nothing():
    images, positions = cells(2), np.arange(2)
    np.testing.assert_array_equal(run(images, positions, Augment()), images)
    compiled = jax.jit(lambda k, x, p: augment(k, x, p, Augment()))
    text = compiled.lower(jax.random.key(0), images, positions).compile().as_text()
    assert "fusion" not in text
    assert (
        "gather("
        not in jax.jit(lambda k, x, p: augment(k, x, p, EXACT))
        .lower(jax.random.key(0), images, positions)
        .compile()
        .as_text()
    )
