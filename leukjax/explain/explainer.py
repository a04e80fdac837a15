"""Why a trained run answers as it does: maps of attribution for its prepared images."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Float32, Int, UInt8

from leukjax.data.image_stats import foreground
from leukjax.explain.attribution.curves import blurred
from leukjax.explain.attribution.integrated_gradients import (
    TOLERANCE,
    incompleteness,
    pixel_baseline,
)
from leukjax.explain.attribution.methods import METHODS, Settings, attribute
from leukjax.explain.attribution.network import Network, score
from leukjax.images.normalize import standardize, to_float
from leukjax.predict.member import Member

MOST_STEPS = 1024  # points of integrated gradients


class Reasons(NamedTuple):
    """What one method says of n images.

    Attributes:
      maps: as the method gives them: of a layer's size, or the images'.
      scores, baseline_scores: of the explained class, for the images and for the baseline.
      steps: points of the integral that each map took; 0 for other methods than integrated
        gradients.
      incompleteness: `integrated.incompleteness`; NaN for other methods.
    """

    maps: Float32[np.ndarray, "n p q"]
    scores: Float32[np.ndarray, " n"]
    baseline_scores: Float32[np.ndarray, " n"]
    steps: Int[np.ndarray, " n"]
    incompleteness: Float[np.ndarray, " n"]

    @property
    def incomplete(self) -> Bool[np.ndarray, " n"]:
        """Maps of integrated gradients that do not sum up to what they should explain."""
        return (self.steps > 0) & ~(self.incompleteness <= TOLERANCE)


def network_of(model: Member) -> Network:
    """Returns the network in float32 on every device: bfloat16 would lose small attributions."""
    options = {"dtype": jnp.float32} if hasattr(model.module, "dtype") else {}
    return Network(model.module.clone(**options), model.variables)


def explain(
    model: Member,
    images: UInt8[np.ndarray, "n s s 3"],
    targets: Int[np.ndarray, " n"],
    method: str,
    settings: Settings,
    baseline: str = "mean",
) -> Reasons:
    """Maps of prepared images, batch by batch; compiled once for a model, method and settings.

    Integrated gradients take `settings.steps` points, and twice as many until their error of
    completeness is below `integrated.TOLERANCE` or there are `MOST_STEPS`; what is still above is
    no explanation, and callers that show the map must say so (`Reasons.incompleteness`).

    Args:
      targets: the class that each image is explained for.
      method: a key of `METHODS` that fits the model.
      baseline: ``mean`` or ``black`` (`integrated.pixel_baseline`); ``blurred``: each image without
        its details (`curves.blurred`, deviation a twelfth of the side), the background as it is.
    """
    size = model.batch_size
    parts = []
    for start in range(0, max(1, len(images)), size):
        own = images[start : start + size]
        padded = model.padded(own)
        classes = model.padded(np.asarray(targets[start : start + size], np.int32))
        blank = padded if baseline != "blurred" else _blurred(padded, model)
        variables, batch, classes, blank = model.on_devices(padded, classes, blank)
        statistics = tuple(
            np.asarray(model.preprocessing[name], np.float32) for name in ("mean", "std")
        )
        compute = functools.partial(
            _explain, model.module.clone(dtype=jnp.float32), variables, statistics, batch, classes,
            blank, method=method, settings=settings, baseline=baseline,
        )  # fmt: skip
        parts.append(_enough_steps(compute, len(own), method, settings.steps))
    return Reasons(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _enough_steps(
    compute: Callable[..., tuple[Array, Array, Array]], count: int, method: str, steps: int
) -> tuple[np.ndarray, ...]:
    """The fields of `Reasons` for the first `count` images of a batch."""

    def maps(stretch: float, stretches: float) -> tuple[np.ndarray, ...]:
        # Products of bfloat16 or TensorFloat-32 are a GPU's default, and too coarse for gradients.
        with jax.default_matmul_precision("float32"):
            found = compute(part=(stretch / stretches, (stretch + 1) / stretches))
        return tuple(np.asarray(value)[:count] for value in jax.device_get(found))

    best, scores, base = maps(0.0, 1.0)
    if method != "integrated_gradients":
        return best, scores, base, np.zeros(count, np.int64), np.full(count, np.nan)

    def far(found: np.ndarray) -> np.ndarray:
        return incompleteness(found.sum((1, 2), dtype=np.float64), scores, base)

    best, error, taken, stretches = best.copy(), far(best), np.full(count, steps), 1
    while (error > TOLERANCE).any() and 2 * stretches * steps <= MOST_STEPS:
        stretches *= 2
        # The same points on twice as many stretches: nothing is compiled for them.
        finer = np.sum([maps(float(n), float(stretches))[0] for n in range(stretches)], axis=0)
        finer_error = far(finer)
        better = (error > TOLERANCE) & (finer_error < error)
        best[better], error[better] = finer[better], finer_error[better]
        taken[better] = stretches * steps
    return best, scores, base, taken, error


def to_pixels(maps: Float[np.ndarray, "n p q"], size: int) -> Float32[np.ndarray, "n s s"]:
    """Maps of a layer at the size of the images: between places linearly, beyond them level."""
    if maps.shape[1:] == (size, size):
        return np.asarray(maps, np.float32)
    return np.asarray(jax.image.resize(maps, (len(maps), size, size), "linear"), np.float32)


def share_inside(maps: Float[np.ndarray, "n s s"], cell: np.ndarray) -> Float[np.ndarray, " n"]:
    """Share of each map's absolute values that lies inside the cell; NaN for a map of zeros."""
    size = np.abs(maps, dtype=np.float64)
    total = size.sum((1, 2))
    inside = (size * cell).sum((1, 2))
    return np.divide(inside, total, out=np.full(len(maps), np.nan), where=total > 0)


@functools.partial(jax.jit, static_argnames=("module", "method", "settings", "baseline"))
def _explain(
    module: nn.Module,
    variables: dict,
    statistics: tuple[Float32[Array, "3"], Float32[Array, "3"]],
    images: UInt8[Array, "n s s 3"],
    targets: Int[Array, " n"],
    blank: UInt8[Array, "n s s 3"],
    part: tuple[Float[Array, ""] | float, Float[Array, ""] | float],
    *,
    method: str,
    settings: Settings,
    baseline: str,
) -> tuple[Array, Array, Array]:
    network = Network(module, variables)
    normalized = standardize(to_float(images), *statistics)
    if baseline == "blurred":
        nothing = standardize(to_float(blank), *statistics)
    else:
        nothing = pixel_baseline(baseline, *statistics)
    maps = attribute(network, normalized, targets, method, settings, nothing, part)
    scores = score(network.logits(normalized), targets, settings.kind)
    if not METHODS[method].pixels:
        return maps, scores, jnp.full_like(scores, jnp.nan)
    base = network.logits(jnp.broadcast_to(nothing, images.shape))
    return maps, scores, score(base, targets, settings.kind)


def _blurred(images: UInt8[np.ndarray, "n s s 3"], model: Member) -> UInt8[np.ndarray, "n s s 3"]:
    edge, sigma = model.preprocessing["background"], images.shape[1] / 12
    return np.stack([blurred(image, foreground(image, edge), sigma) for image in images])
