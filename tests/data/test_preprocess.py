import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leukjax.data.parallel import map_in_order
from leukjax.data.preprocess import DENOISERS, describe, process, smooth
from leukjax.errors import UserError


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 256, (height, width, 3)).astype(np.uint8)


def cell(side: int = 90) -> np.ndarray:
    """A noisy disc on exact black."""
    image = noise(side, side)
    y, x = np.ogrid[:side, :side]
    image[np.hypot(y - side / 2, x - side / 2) > side / 4] = 0
    return image


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    size=st.integers(8, 70),
    crop=st.integers(0, 70),
    denoise=st.sampled_from(["none", "median", "gaussian", "bilateral"]),
    background=st.sampled_from(["black", "bright"]),
)
def test_every_image_becomes_a_square_of_the_size(height, width, size, crop, denoise, background):
    before = noise(height, width)
    image = before.copy()
    result = process(image, size, crop, denoise, background)
    assert result.shape == (size, size, 3)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(image, before)  # the input is left alone


def test_nothing_to_do_changes_nothing():
    image = noise(32, 32)
    np.testing.assert_array_equal(process(image, 32), image)


@pytest.mark.parametrize(("side", "top"), [(450, 75), (451, 75)])
def test_crop_takes_the_centre(side, top):
    image = noise(side, side)
    np.testing.assert_array_equal(process(image, 300, 300), image[top : top + 300, top : top + 300])


def test_an_image_smaller_than_the_crop_keeps_its_scale():
    image = noise(20, 30)
    result = process(image, 40, 40, background="black")
    np.testing.assert_array_equal(result[10:30, 5:35], image)
    assert not result[:10].any()
    assert not result[:, 35:].any()


def test_uneven_images_are_padded_to_a_square():
    image = noise(10, 20)
    black = process(image, 20, background="black")
    np.testing.assert_array_equal(black[5:15], image)
    assert not black[:5].any()
    assert not black[15:].any()
    bright = process(image, 20, background="bright")
    np.testing.assert_array_equal(bright[5:15], image)
    np.testing.assert_array_equal(bright[:5], np.repeat(image[:1], 5, axis=0))


def test_shrinking_averages_areas():
    image = noise(90, 90)
    blocks = image.reshape(30, 3, 30, 3, 3).mean(axis=(1, 3))
    assert np.abs(process(image, 30).astype(float) - blocks).max() <= 0.51


def test_growing_interpolates_by_lanczos():
    ramp = np.repeat(np.arange(20, 220, 10, dtype=np.uint8)[None, :, None], 20, axis=0)
    ramp = np.repeat(ramp, 3, axis=2)
    grown = process(ramp, 80, background="bright").astype(float)
    # Pixel centres: output column j is at (j + 1/2) / 4 - 1/2 of the input.
    wanted = 20 + 10 * ((np.arange(80) + 0.5) / 4 - 0.5)
    assert np.abs(grown[40, 20:60, 0] - wanted[20:60]).max() < 1.5
    # A line is felt up to four pixels away; linear interpolation reaches one, cubic two.
    line = np.full((20, 20, 3), 50, np.uint8)
    line[:, 10] = 250
    felt = np.flatnonzero(process(line, 80, background="bright")[40, :, 0] != 50)
    assert 10.5 - 4 <= felt.min() / 4 < 10.5 - 2.5
    assert 10.5 + 2.5 < felt.max() / 4 <= 10.5 + 4


@pytest.mark.parametrize("denoise", DENOISERS)
@pytest.mark.parametrize("size", [40, 90, 200])
def test_black_background_stays_exactly_black(denoise, size):
    image = cell()
    result = process(image, size, 0, denoise)
    factor = size / 90
    y, x = np.ogrid[:size, :size]
    outside = np.hypot(y + 0.5 - size / 2, x + 0.5 - size / 2) > 90 / 4 * factor + 2 * factor + 1
    assert result[~outside].any()
    assert not result[outside].any()


@pytest.mark.parametrize("denoise", [name for name in DENOISERS if name != "none"])
def test_denoising_lowers_noise_and_works_on_the_cell_as_on_the_whole_image(denoise):
    flat = np.full((60, 60, 3), 120.0)
    flat += np.random.default_rng(0).normal(0, 4, flat.shape)
    image = flat.round().clip(0, 255).astype(np.uint8)
    smoothed = process(image, 60, 0, denoise, "bright").astype(float)
    assert smoothed.std() < 0.8 * image.std()
    assert abs(smoothed.mean() - image.mean()) < 1

    spot = cell(150)
    whole = np.ascontiguousarray(smooth(spot, denoise))
    whole[~spot.any(axis=2)] = 0
    np.testing.assert_array_equal(process(spot, 150, 0, denoise), whole)


def test_an_image_that_is_all_black_stays_so():
    assert not process(np.zeros((30, 30, 3), np.uint8), 20, 0, "nlm").any()


def test_unknown_denoiser_is_named():
    with pytest.raises(UserError, match=r"data\.denoise: 'medain'"):
        process(noise(8, 8), 8, 0, "medain")


def test_description_states_direction_and_factors():
    sizes = np.array([[450, 450], [450, 450]])
    assert describe(sizes, 225).endswith("resize to 225 px: 2 shrink by 0.5 (area)")
    mixed = np.array([[16, 16], [32, 20], [64, 64], [96, 80]])
    text = describe(mixed, 64, 0, "median")
    assert "2 images padded to a square" in text
    assert "median denoising" in text
    assert "1 shrink by 0.667 (area)" in text
    assert "2 grow by 2 to 4 (Lanczos)" in text
    assert "1 keep their size" in text
    cropped = describe(mixed, 64, 64)
    assert "crop to the central 64 px; 2 smaller images filled" in cropped
    assert "4 keep their size" in cropped


@pytest.mark.parametrize("denoise", DENOISERS)
def test_the_threads_of_opencv_change_no_pixel(denoise):
    """`map_in_order` switches them off; other callers do not."""
    before, results = cv2.getNumThreads(), []
    try:
        for threads in (0, 4):
            cv2.setNumThreads(threads)
            results.append([process(cell(200), size, 0, denoise) for size in (64, 300)])
    finally:
        cv2.setNumThreads(before)
    for one_thread, several in zip(*results, strict=True):
        np.testing.assert_array_equal(one_thread, several)


def test_map_in_order_restores_the_threads_of_opencv():
    before = cv2.getNumThreads()
    inside = list(map_in_order(lambda _: cv2.getNumThreads(), range(3), 2))
    assert inside == [1, 1, 1]  # 0 and 1 both mean the calling thread
    assert cv2.getNumThreads() == before
