"""Foreground, area, box, hashes."""

import hashlib

import numpy as np
import pytest
from trees import cell

from leukjax.data.image_stats import box, foreground, measure, perceptual_hash, pixel_digest


def disc(background, ink):
    y, x = np.mgrid[:60, :80]
    inside = (y - 30) ** 2 + (x - 40) ** 2 < 15**2
    image = np.full((60, 80, 3), background, np.uint8)
    image[inside] = ink
    return image, inside


def test_above_black_counts_every_channel():
    image, inside = disc(0, (0, 0, 1))
    np.testing.assert_array_equal(foreground(image, "black"), inside)


def test_otsu_finds_the_darker_cell():
    image, inside = disc(220, (120, 60, 140))
    np.testing.assert_array_equal(foreground(image, "bright"), inside)


def test_an_even_image_has_no_foreground():
    even = np.full((20, 20, 3), 130, np.uint8)
    assert not foreground(even, "bright").any()
    assert measure(even, "bright").phash == 0
    assert measure(np.zeros_like(even), "black").area == 0


def test_area_and_side():
    image, inside = disc(0, (90, 80, 70))
    measured = measure(image, "black")
    assert measured.area == pytest.approx(inside.mean(), rel=1e-6)
    assert measured.side == 29


def test_box():
    mask = np.zeros((10, 12), bool)
    assert box(mask) == (0, 10, 0, 12)
    mask[3:5, 7] = True
    assert box(mask) == (3, 5, 7, 8)


def test_pixel_digest_knows_the_shape():
    image = np.zeros((8, 10, 3), np.uint8)
    assert pixel_digest(image) != pixel_digest(image.reshape(10, 8, 3))
    assert pixel_digest(image[:, ::2]) == pixel_digest(image[:, ::2].copy())
    expected = hashlib.sha256(b"(8, 10, 3)" + bytes(240)).hexdigest()
    assert pixel_digest(image) == expected


def test_on_black_the_hash_is_of_the_cell_and_not_of_its_place():
    image = np.zeros((100, 100, 3), np.uint8)
    moved = image.copy()
    image[10:50, 10:50] = cell(1)
    moved[40:80, 55:95] = cell(1)
    assert measure(image, "black").phash == measure(moved, "black").phash
    assert measure(image, "bright").phash != measure(moved, "bright").phash


def test_different_cells_differ():
    hashes = [perceptual_hash(cell(seed)) for seed in range(40)]
    distances = [(a ^ b).bit_count() for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(distances) > 4
    assert all(0 <= value < 2**64 for value in hashes)
