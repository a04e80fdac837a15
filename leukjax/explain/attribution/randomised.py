"""Does a map depend on what the network learned? Parameters drawn anew should destroy it."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from flax import linen as nn
from flax import traverse_util
from jaxtyping import Array, Float

from leukjax.explain.attribution.network import Network


def parts(network: Network, size: int) -> list[str]:
    """Every part of a module that holds parameters, as in "layer1_0/conv1", images first."""
    order: list[str] = []
    flat = traverse_util.flatten_dict(network.variables["params"])
    holders = {"/".join(path[:-1]) for path in flat}

    def note(next_function, arguments, options, context) -> Any:
        output = next_function(*arguments, **options)  # a part that is inside comes first
        name = "/".join(context.module.path)
        if name in holders and name not in order:
            order.append(name)
        return output

    def run(images: Array) -> Array:
        with nn.intercept_methods(note):
            return network.logits(images)

    jax.eval_shape(run, jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32))
    return order


def redrawn(network: Network, names: Sequence[str], seed: int = 0) -> Network:
    """The network with the parameters of some parts drawn anew (Adebayo et al. 2018).

    Kernels are drawn from a normal distribution of the trained deviation about 0, so that layers
    that start at 0 (heads of some models) are randomised, too; scales, biases and the running
    averages of a normalisation are put in random order.

    Args:
      names: of `parts`. *Cascading*: growing from the last part to the first; *independent*: one.
    """
    wanted = set(names)
    random = np.random.default_rng(seed)
    flat = traverse_util.flatten_dict(network.variables)
    for path, value in sorted(flat.items()):
        # For all parts, so that what one gets never depends on which others do.
        order, noise = random.permutation(value.size), random.standard_normal(value.shape)
        if "/".join(path[1:-1]) not in wanted:
            continue
        if value.ndim > 1:
            flat[path] = jnp.asarray(noise * np.std(np.asarray(value)), value.dtype)
        else:
            flat[path] = jnp.asarray(value)[order]
    return network._replace(variables=traverse_util.unflatten_dict(flat))


def rank_correlation(one: Float[np.ndarray, "p q"], other: Float[np.ndarray, "p q"]) -> float:
    """Spearman's correlation of two maps; 0 where one of them is flat."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(scipy.stats.spearmanr(np.ravel(one), np.ravel(other)).statistic)
