"""Does a map name the pixels that count? Delete them, insert them, and watch the probability."""

from collections.abc import Callable

import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Float, UInt8


def blurred(
    image: UInt8[np.ndarray, "s s 3"], cell: Bool[np.ndarray, "s s"], sigma: float
) -> UInt8[np.ndarray, "s s 3"]:
    """The cell without its details, the background as it is: no black is blurred into the rim."""
    inside = cell.astype(np.float64)
    weight = scipy.ndimage.gaussian_filter(inside, sigma)
    soft = scipy.ndimage.gaussian_filter(image * inside[..., None], (sigma, sigma, 0))
    soft = soft / np.maximum(weight, 1e-9)[..., None]
    return np.where(cell[..., None], np.rint(soft), image).astype(np.uint8)


def mean_cell(
    image: UInt8[np.ndarray, "s s 3"], cell: Bool[np.ndarray, "s s"]
) -> UInt8[np.ndarray, "s s 3"]:
    """The cell in its own mean colour, the background as it is."""
    colour = np.rint(image[cell].mean(0)) if cell.any() else np.zeros(3)
    return np.where(cell[..., None], colour, image).astype(np.uint8)


def random_map(size: int, seed: int) -> Float[np.ndarray, "s s"]:
    """A map that knows nothing."""
    return np.random.default_rng(seed).random((size, size))


def centre_gaussian(size: int) -> Float[np.ndarray, "s s"]:
    """A map that knows only that cells are in the middle; its deviation is a quarter side."""
    axis = (np.arange(size) + 0.5) / size - 0.5
    return np.exp(-(axis[:, None] ** 2 + axis**2) / (2 * 0.25**2))


def replaced(
    image: UInt8[np.ndarray, "s s 3"],
    other: UInt8[np.ndarray, "s s 3"],
    map: Float[np.ndarray, "s s"],
    cell: Bool[np.ndarray, "s s"],
    steps: int,
    seed: int = 0,
) -> UInt8[np.ndarray, "k s s 3"]:
    """`image` with 0, 1/steps, … 1 of the cell's pixels from `other`, largest on the map first.

    Deletion takes them from a baseline (`blurred`, `mean_cell`); insertion starts at the baseline
    and takes them from the image (Petsiuk et al. 2018). Only the cell is touched: to delete to
    black would paint background. Equal values on the map come in random order.
    """
    random = np.random.default_rng(seed).random(map.shape)
    places = np.flatnonzero(cell)
    order = places[np.lexsort((random.ravel()[places], -map.ravel()[places]))]
    result = np.repeat(image[None], steps + 1, 0)
    for step in range(steps + 1):
        taken = order[: round(len(order) * step / steps)]
        result[step].reshape(-1, 3)[taken] = other.reshape(-1, 3)[taken]
    return result


def curves(
    predict: Callable[[UInt8[np.ndarray, "k s s 3"]], Float[np.ndarray, "k c"]],
    image: UInt8[np.ndarray, "s s 3"],
    baseline: UInt8[np.ndarray, "s s 3"],
    map: Float[np.ndarray, "s s"],
    cell: Bool[np.ndarray, "s s"],
    target: int,
    steps: int,
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Probability of the class along deletion and along insertion; means of them are the areas."""
    both = [
        replaced(image, baseline, map, cell, steps),
        replaced(baseline, image, map, cell, steps),
    ]
    found = predict(np.concatenate(both))[:, target]
    return found[: steps + 1], found[steps + 1 :]
