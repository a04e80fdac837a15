"""The robustness suite: every distortion alone, and against other implementations."""

import colorsys
import io
import itertools

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy import stats

from leukjax.images import blur, geometry, jpeg, light, noise
from leukjax.images.augment import perturb
from leukjax.images.distort import CHUNK, DISTORTIONS, distort, seeds_of
from leukjax.images.noise import seeds_for, uniform

NAMES = tuple(DISTORTIONS)


def cells(n, size=32, seed=0):
    """Smooth texture of stain in a disc, exactly black outside."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0.3, 0.9, (n, 6, 6, 3)).astype(np.float32)
    fine = np.stack([cv2.resize(c, (size, size), interpolation=cv2.INTER_CUBIC) for c in coarse])
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    disc = (y**2 + x**2 < (size / 3) ** 2)[None, :, :, None]
    return np.where(disc, np.clip(255 * fine, 1, 255), 0).astype(np.uint8)


def photo(size=32, seed=1):
    """One image without a background, as floats in [0, 1] on the levels of uint8."""
    coarse = np.random.default_rng(seed).uniform(0.1, 0.9, (5, 5, 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    return (np.round(255 * np.clip(smooth, 0, 1)) / 255).astype(np.float32)[None]


def everywhere(images):
    return jnp.ones((*images.shape[:3], 1), bool)


def distance(a, b):
    return np.abs(a.astype(int) - b.astype(int)).mean()


@pytest.mark.parametrize("name", NAMES)
def test_severities_increase_and_seeds_matter(name):
    # On small images the mildest blur is less than half a grey level, and blocks are smaller than
    # pixels.
    size = {"pixelate": 224, "defocus_blur": 96}.get(name, 32)
    images, seeds = cells(6, size), seeds_of("abcdef")
    np.testing.assert_array_equal(distort(images, seeds, name, 0), images)
    levels = [distort(images, seeds, name, severity) for severity in range(1, 6)]
    changes = [distance(level, images) for level in levels]
    assert changes[0] > 0
    assert all(a < b for a, b in itertools.pairwise(changes)), changes
    # Without random numbers equal images are distorted equally, else not.
    same = distort(np.repeat(images[:1], 6, axis=0), seeds, name, 5)
    equal = len(np.unique(same.reshape(6, -1), axis=0)) == 1
    fixed = DISTORTIONS[name].published and name not in ("motion_blur", "stain_deposit", "bubble")
    assert equal == (fixed or name in ("scale_up", "scale_down"))


@pytest.mark.parametrize("name", NAMES)
def test_order_and_number_of_images_change_no_bit(name):
    images, seeds = cells(CHUNK + 3), np.arange(CHUNK + 3, dtype=np.uint32)
    whole = distort(images, seeds, name, 3)
    order = np.random.default_rng(0).permutation(len(images))
    np.testing.assert_array_equal(distort(images[order], seeds[order], name, 3), whole[order])
    for row in (0, CHUNK + 2):
        alone = distort(images[[row]], seeds[[row]], name, 3)
        np.testing.assert_array_equal(alone[0], whole[row])


@pytest.mark.parametrize("name", NAMES)
def test_masked_keeps_the_background_and_as_published_does_not(name):
    images, seeds = cells(4), seeds_of("abcd")
    outside = (images == 0).all(axis=-1)
    masked = distort(images, seeds, name, 4)
    if DISTORTIONS[name].masked:
        assert (masked[outside] == 0).all()
        assert not np.array_equal(masked, images)
    if name in ("contrast_down", "gaussian_noise", "defocus_blur", "bubble", "pixelate"):
        published = distort(images, seeds, name, 4, background="as_published")
        assert (published[outside] > 0).any()
    if not DISTORTIONS[name].masked:
        published = distort(images, seeds, name, 4, background="as_published")
        np.testing.assert_array_equal(published, masked)


def test_bright_backgrounds_and_empty_sets():
    images, seeds = 255 - cells(3), seeds_of("abc")
    for name in ("contrast_down", "scale_down", "border"):
        masked, published = (
            distort(images, seeds, name, 4, edge="bright", background=background)
            for background in ("masked", "as_published")
        )
        np.testing.assert_array_equal(masked, published)
    assert distort(images, seeds, "scale_down", 5, edge="bright").min() > 0  # no black borders
    assert distort(images[:0], seeds[:0], "jpeg", 5).shape == (0, 32, 32, 3)
    with pytest.raises(ValueError, match="severity 6"):
        distort(images, seeds, "jpeg", 6)
    with pytest.raises(ValueError, match="unknown distortion 'jpg'; one of pixelate, "):
        distort(images, seeds, "jpg", 5)


def test_brightness_and_contrast_are_those_of_pillow():
    picture = photo()
    image = Image.fromarray((255 * picture[0]).round().astype(np.uint8))
    for factor in (0.5, 0.9, 1.1, 1.4):
        theirs = np.asarray(ImageEnhance.Brightness(image).enhance(factor))
        assert np.abs(255 * light.brightness(picture, factor)[0] - theirs).max() <= 1.01
        theirs = np.asarray(ImageEnhance.Contrast(image).enhance(factor))
        ours = light.contrast(picture, factor, everywhere(picture))[0]
        assert np.abs(255 * ours - theirs).max() <= 1.01
    np.testing.assert_array_equal(light.brightness(picture, 1.0), picture)


def test_saturation_is_added_in_hsv():
    picture = photo(8)
    picture[0, 0, 0] = 0.5  # grey
    ours = np.asarray(light.saturate(picture, 0.2))[0]
    for before, after in zip(picture.reshape(-1, 3), ours.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*before.tolist())
        theirs = colorsys.hsv_to_rgb(hue, min(saturation + 0.2, 1), value)
        np.testing.assert_allclose(after, theirs, atol=1e-5)


def test_pixelate_is_the_box_filter_of_pillow():
    picture = photo(37)
    image = Image.fromarray((255 * picture[0]).round().astype(np.uint8))
    for share in DISTORTIONS["pixelate"].severities:
        small = int(37 * share)
        theirs = image.resize((small, small), Image.Resampling.BOX)
        theirs = np.asarray(theirs.resize((37, 37), Image.Resampling.BOX))
        matrix = blur.shrink_and_grow(37, small)
        ours = 255 * np.asarray(blur.pixelate(picture, matrix, matrix, everywhere(picture)))[0]
        assert np.abs(ours - theirs).max() <= 1.01


@pytest.mark.parametrize(("side", "larger"), [(28, 8), (48, 5), (112, 2), (448, 1)])
def test_blocks_per_cell_are_the_same_at_every_size(side, larger):
    """Regression: at 48 px the blocks of 25 % were 4 px wide, which is 19 px at 224."""
    images = (255 * photo(side)).round().astype(np.uint8)
    for severity, share in enumerate(DISTORTIONS["pixelate"].severities, start=1):
        ours = distort(images, seeds_of("a"), "pixelate", severity, background="as_published")
        blocks = int(224 * share)
        grown = images[0].repeat(larger, axis=0).repeat(larger, axis=1).astype(np.float32)
        theirs = np.stack([_box(grown[..., c], blocks) for c in range(3)], axis=-1)
        theirs = theirs.reshape(side, larger, side, larger, 3).mean(axis=(1, 3))
        assert np.abs(ours[0] - theirs).max() <= 0.51
        if side == 448:  # not more blocks
            assert (np.diff(ours[0].astype(int), axis=0) != 0).any(axis=(1, 2)).sum() < blocks


def _box(channel, blocks):
    """Pillow's BOX filter to blocks and back in floats, without rounding."""
    small = Image.fromarray(channel).resize((blocks, blocks), Image.Resampling.BOX)
    return np.asarray(small.resize(channel.shape[::-1], Image.Resampling.BOX))


def _width(image):
    """Variance of an image of light along rows and along columns, summed."""
    positions = np.arange(len(image)) - len(image) // 2
    lines = [image.sum(axis=axis) / image.sum() for axis in (0, 1)]
    return sum(positions**2 @ line - (positions @ line) ** 2 for line in lines)


_ALSO = (pytest.param(side, marks=pytest.mark.slow) for side in (32, 48, 300))


@pytest.mark.parametrize("side", [16, 96, 224, *_ALSO])
def test_blur_has_its_nominal_width_at_every_size(side):
    """Regression: at 48 px a disc of radius 2 was twice as wide."""
    point = np.zeros((3, side, side, 1), np.float32)
    point[:, side // 2, side // 2] = 1
    unit = side / 224
    for radius in DISTORTIONS["defocus_blur"].severities:
        reach = int(np.ceil(radius * unit))
        blurred = blur.defocus(point, jnp.full(1, radius * unit), everywhere(point), reach)
        width = _width(np.asarray(blurred, float)[0, ..., 0])
        assert width == pytest.approx((radius * unit) ** 2 / 2, rel=1e-3)
    angles = np.deg2rad([0.0, 20.0, -45.0])
    for radius, sigma in DISTORTIONS["motion_blur"].severities:
        trails = blur.motion(
            point, float(radius), float(sigma), jnp.array(angles), everywhere(point), 20, unit
        )
        distance = np.arange(2 * radius + 1)
        weights = np.exp(-0.5 * (distance / sigma) ** 2)
        mean = np.average(distance, weights=weights)
        expected = unit**2 * np.average((distance - mean) ** 2, weights=weights)
        for trail in np.asarray(trails, float)[..., 0]:
            assert _width(trail) == pytest.approx(expected, rel=2e-3)


def test_augmentation_blurs_by_its_nominal_width():
    point = np.zeros((4, 48, 48, 3), np.float32)
    point[:, 24, 24] = 0.9
    seeds = seeds_for(0, jnp.arange(4, dtype=jnp.uint32))
    blurred = np.asarray(perturb(seeds, point, black=False, blur_radius=6.0), float)
    widths = np.array([_width(image[..., 0]) for image in blurred])
    degrees = np.asarray(uniform(seeds_for(3, seeds), 100))
    np.testing.assert_allclose(widths, (6 * degrees * 48 / 224) ** 2 / 2, rtol=1e-3)


@pytest.mark.parametrize("quality", [7, 30, 50])
def test_jpeg_is_that_of_libjpeg(quality):
    picture = photo(45)  # not a multiple of a block
    image = Image.fromarray((255 * picture[0]).round().astype(np.uint8))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    theirs = np.asarray(Image.open(file)).astype(float)
    ours = 255 * np.asarray(jpeg.compress(picture, jpeg.tables(quality)))[0]
    lost = np.abs(theirs - 255 * picture[0]).mean()
    # Integer arithmetic may round a few coefficients in the other direction.
    assert np.abs(ours - theirs).mean() < 0.1 * lost + 0.3
    assert np.quantile(np.abs(ours - theirs), 0.9) <= 2


def test_jpeg_as_if_larger_does_not_blur():
    picture = photo(16)
    fine = jpeg.compress_as_if_larger(picture, jpeg.tables(100), 4)
    assert np.abs(np.asarray(fine) - picture).max() < 4 / 255
    coarse = jpeg.compress_as_if_larger(picture, jpeg.tables(7), 4)
    assert np.abs(np.asarray(coarse) - picture).mean() > 2 / 255


def test_defocus_is_the_published_disc_at_whole_radii():
    picture = np.random.default_rng(3).uniform(0, 1, (1, 64, 64, 3)).astype(np.float32)
    for radius in (2, 4, 6):
        # The share of each pixel that the disc covers, by 32 x 32 points in it.
        points = (np.arange(17 * 32) + 0.5) / 32 - 8.5
        inside = points[:, None] ** 2 + points**2 <= radius**2
        disc = inside.reshape(17, 32, 17, 32).mean((1, 3)).astype(np.float32)
        theirs = cv2.filter2D(picture[0], -1, disc / disc.sum(), borderType=cv2.BORDER_REPLICATE)
        size = jnp.array([float(radius)])
        ours = np.asarray(blur.defocus(picture, size, everywhere(picture), radius))[0]
        # Points approximate the disc: 4 % of the change at the smallest radius, less at others.
        assert np.abs(ours - theirs).mean() < 0.05 * np.abs(theirs - picture[0]).mean()


def test_motion_is_that_of_imagemagick():
    point = np.zeros((1, 41, 41, 1), np.float32)
    point[0, 20, 20] = 1
    for degrees in (0.0, 45.0, -45.0):
        trail = np.asarray(
            blur.motion(point, 5.0, 5.0, jnp.array([np.deg2rad(degrees)]), everywhere(point), 10)
        )[0, ..., 0]
        # ImageMagick: pixels at integer distances with Gaussian weights.
        weights = np.exp(-0.5 * (np.arange(11) / 5) ** 2)
        mean = (np.arange(11) * weights).sum() / weights.sum()
        row, column = ((np.arange(41) - 20) @ trail.sum(axis=axis) for axis in (1, 0))
        np.testing.assert_allclose(trail.sum(), 1, rtol=1e-5)
        np.testing.assert_allclose(np.hypot(row, column), mean, rtol=0.03)
        np.testing.assert_allclose(
            abs(np.arctan2(row, -column)), abs(np.deg2rad(degrees)), atol=0.02
        )


def test_a_blur_of_size_0_is_the_identity_and_a_uniform_cell_stays_uniform():
    picture = photo()
    np.testing.assert_allclose(
        blur.defocus(picture, jnp.zeros(1), everywhere(picture), 3), picture, atol=1e-6
    )
    np.testing.assert_allclose(
        blur.motion(picture, 0.0, 0.0, jnp.zeros(1), everywhere(picture), 3), picture, atol=1e-6
    )
    inside = cells(1).any(axis=-1, keepdims=True)
    even = np.where(inside, np.float32(0.5), 0).repeat(3, axis=-1)
    blurred = blur.defocus(even, jnp.array([2.0]), inside, 2)
    np.testing.assert_allclose(blurred, even, atol=1e-6)  # no dark rim
    # Away from the border a blur keeps the sum of light.
    framed = np.zeros((1, 48, 48, 3), np.float32)
    framed[:, 8:40, 8:40] = picture
    blurred = blur.defocus(framed, jnp.array([3.7]), everywhere(framed), 4)
    np.testing.assert_allclose(np.sum(blurred), framed.sum(), rtol=1e-5)


def test_noise_has_its_nominal_moments():
    seeds = seeds_for(1, jnp.arange(1, dtype=jnp.uint32))
    flat = jnp.full((1, 128, 128, 3), 0.4)
    values = np.asarray(noise.gaussian(flat, seeds, 0, 0.05)) - 0.4
    assert abs(values.mean()) < 0.001
    assert abs(values.std() - 0.05) < 0.001
    for photons in (500, 30):
        counts = photons * np.asarray(noise.shot(flat, seeds, 0, photons)).ravel()
        poisson = stats.poisson(0.4 * photons)
        np.testing.assert_allclose(counts, np.round(counts), atol=1e-3)
        np.testing.assert_allclose(counts.mean(), poisson.mean(), rtol=0.01)
        np.testing.assert_allclose(counts.var(), poisson.var(), rtol=0.03)
        assert abs(stats.skew(counts) - poisson.stats("s")) < 0.05
    assert np.asarray(noise.shot(0 * flat, seeds, 0, 30)).max() == 0


def test_stain_shift_scales_optical_density():
    amounts = np.array([[0.6, 0.2], [0.1, 0.9], [0.0, 0.0]])
    colours = (10 ** -(amounts @ light.STAINS[:2])).astype(np.float32).reshape(1, 1, 3, 3)
    shifted = np.asarray(light.stain(colours, 0.3, -0.2))
    expected = 10 ** -((amounts * np.exp([0.3, -0.2])) @ light.STAINS[:2])
    np.testing.assert_allclose(shifted.reshape(3, 3), expected, atol=1e-5)
    np.testing.assert_allclose(light.stain(colours, 0.0, 0.0), colours, atol=1e-5)


def test_uneven_light_keeps_the_mean():
    flat = jnp.full((4, 20, 20, 3), 0.5)
    lit = np.asarray(light.illuminate(flat, 0.4, jnp.array([0.0, 1.0, 2.5, 4.0])))
    np.testing.assert_allclose(lit.mean(axis=(1, 2)), 0.5, rtol=1e-5)
    np.testing.assert_allclose([lit.min(), lit.max()], [0.3, 0.7], rtol=1e-5)


@pytest.mark.parametrize("side", range(4))
def test_a_cell_moves_to_each_border_and_beyond(side):
    images = np.zeros((1, 20, 20, 3), np.float32)
    images[0, 5:15, 6:14] = 1  # 10 rows, 8 columns
    cell = jnp.asarray(images[..., :1] > 0)
    for share, left in ((0.0, 80), (0.5, 40)):
        moved = np.asarray(geometry.to_border(images, cell, share, jnp.array([side]), "black"))[
            0, ..., 0
        ]
        assert moved.sum() == left
        border = (moved[0], moved[-1], moved[:, 0], moved[:, -1])[side]
        assert border.sum() == (8 if side < 2 else 10)


def test_a_seed_depends_on_the_id_only():
    np.testing.assert_array_equal(seeds_of(["a", "b"])[1:], seeds_of(["b"]))
