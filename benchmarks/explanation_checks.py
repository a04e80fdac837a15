"""Checks of attribution maps: deletion and insertion curves, and randomised parameters."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from flax import linen as nn
from flax import traverse_util
from jaxtyping import Array, Bool, Float, UInt8

from leukjax.explain.network import Network


def mean_cell(
    image: UInt8[np.ndarray, "s s 3"], cell: Bool[np.ndarray, "s s"]
) -> UInt8[np.ndarray, "s s 3"]:
    """Returns the image with its cell in the mean colour of the cell."""
    colour = np.rint(image[cell].mean(0)) if cell.any() else np.zeros(3)
    return np.where(cell[..., None], colour, image).astype(np.uint8)


def random_map(size: int, seed: int) -> Float[np.ndarray, "s s"]:
    """Returns a random map."""
    return np.random.default_rng(seed).random((size, size))


def centre_gaussian(size: int) -> Float[np.ndarray, "s s"]:
    """Returns a Gaussian in the middle of the image; its sigma is a quarter of the side."""
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
    """Returns `image` with 0, 1/steps, … 1 of the cell's pixels from `other`, largest values first.

    Deletion takes them from a baseline (`explainer.blurred`, `mean_cell`); insertion starts at the
    baseline and takes them from the image (Petsiuk et al. 2018). Only the cell is changed. Ties are
    in random order.
    """
    random = np.random.default_rng(seed).random(map.shape)
    pixels = np.flatnonzero(cell)
    order = pixels[np.lexsort((random.ravel()[pixels], -map.ravel()[pixels]))]
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
    """Returns the probability of the class during deletion and insertion; means are the areas."""
    frames = [
        replaced(image, baseline, map, cell, steps),
        replaced(baseline, image, map, cell, steps),
    ]
    probabilities = predict(np.concatenate(frames))[:, target]
    return probabilities[: steps + 1], probabilities[steps + 1 :]


def layers(network: Network, size: int) -> list[str]:
    """Returns every submodule with parameters, as in "layer1_0/conv1", in order of computation."""
    order: list[str] = []
    flat = traverse_util.flatten_dict(network.variables["params"])
    with_parameters = {"/".join(path[:-1]) for path in flat}

    def record(next_function, arguments, options, context) -> Any:
        output = next_function(*arguments, **options)  # inner submodules come first
        name = "/".join(context.module.path)
        if name in with_parameters and name not in order:
            order.append(name)
        return output

    def run(images: Array) -> Array:
        with nn.intercept_methods(record):
            return network.logits(images)

    jax.eval_shape(run, jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32))
    return order


def randomised(network: Network, names: Sequence[str], seed: int = 0) -> Network:
    """Returns the network with the parameters of some layers randomised (Adebayo et al. 2018).

    Kernels are sampled from a normal distribution with mean 0 and the trained standard deviation,
    so that layers initialised with 0 (heads of some models) change too; scales, biases and running
    averages are shuffled.

    Args:
      names: of `layers`. *Cascading*: from the last layer to the first; *independent*: one layer.
    """
    wanted = set(names)
    random = np.random.default_rng(seed)
    flat = traverse_util.flatten_dict(network.variables)
    for path, value in sorted(flat.items()):
        # For all layers, so that the values of a layer do not depend on the other names.
        order, noise = random.permutation(value.size), random.standard_normal(value.shape)
        if "/".join(path[1:-1]) not in wanted:
            continue
        if value.ndim > 1:
            flat[path] = jnp.asarray(noise * np.std(np.asarray(value)), value.dtype)
        else:
            flat[path] = jnp.asarray(value)[order]
    return network._replace(variables=traverse_util.unflatten_dict(flat))


def rank_correlation(a: Float[np.ndarray, "p q"], b: Float[np.ndarray, "p q"]) -> float:
    """Returns Spearman's correlation of two maps; 0 if one of them is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(scipy.stats.spearmanr(np.ravel(a), np.ravel(b)).statistic)
