"""Attribution maps of a trained run for prepared images."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Float32, Int, UInt8

from leukjax.data.image_stats import foreground
from leukjax.explain.maps import TOLERANCE, incompleteness, pixel_baseline
from leukjax.explain.methods import METHODS, Settings, attribute
from leukjax.explain.network import Network, score
from leukjax.images.normalize import Normalization
from leukjax.predict.member import Member

MOST_STEPS = 1024  # points of integrated gradients


class Explanations(NamedTuple):
    """Maps of one method for n images.

    Attributes:
      maps: of the size of a layer, or of the images.
      scores, baseline_scores: of the explained class, for the images and for the baseline.
      steps: points of the integral of each map; 0 for methods other than integrated gradients.
      incompleteness: see `maps.incompleteness`; NaN for other methods.
    """

    maps: Float32[np.ndarray, "n p q"]
    scores: Float32[np.ndarray, " n"]
    baseline_scores: Float32[np.ndarray, " n"]
    steps: Int[np.ndarray, " n"]
    incompleteness: Float[np.ndarray, " n"]

    @property
    def incomplete(self) -> Bool[np.ndarray, " n"]:
        """Whether each map of integrated gradients fails to sum to the change of the score."""
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
) -> Explanations:
    """Explains prepared images in batches; compiled once per model, method and settings.

    Integrated gradients use `settings.steps` points, doubled until their error of completeness is
    below `maps.TOLERANCE` or there are `MOST_STEPS`. A map that is still incomplete is not an
    explanation, and callers that show it must say so (`Explanations.incomplete`).

    Args:
      targets: the explained class of each image.
      method: a key of `METHODS` that supports the model.
      baseline: ``mean`` or ``black`` (`maps.pixel_baseline`); ``blurred``: each image without its
        details (`blurred`, with a sigma of a twelfth of the side) and with its background.
    """
    size = model.batch_size
    module = network_of(model).module
    batches = []
    for start in range(0, max(1, len(images)), size):
        count = len(images[start : start + size])
        padded = model.padded(images[start : start + size])
        classes = model.padded(np.asarray(targets[start : start + size], np.int32))
        blank = padded if baseline != "blurred" else _blurred(padded, model)
        variables, batch, classes, blank = model.on_devices(padded, classes, blank)
        compute = functools.partial(
            _explain, module, variables, model.normalization, batch, classes, blank,
            method=method, settings=settings, baseline=baseline,
        )  # fmt: skip
        batches.append(_explain_batch(compute, count, method, settings.steps))
    return Explanations(*(np.concatenate(column) for column in zip(*batches, strict=True)))


def _explain_batch(
    compute: Callable[..., tuple[Array, Array, Array]], count: int, method: str, steps: int
) -> tuple[np.ndarray, ...]:
    """Returns the fields of `Explanations` for the first `count` images of a batch."""

    def maps(segment: float, segments: float) -> tuple[np.ndarray, ...]:
        # The default on a GPU, bfloat16 or TensorFloat-32, is too coarse for gradients.
        with jax.default_matmul_precision("float32"):
            result = compute(segment=(segment / segments, (segment + 1) / segments))
        return tuple(np.asarray(value)[:count] for value in jax.device_get(result))

    best, scores, base = maps(0.0, 1.0)
    if method != "integrated_gradients":
        return best, scores, base, np.zeros(count, np.int64), np.full(count, np.nan)

    def error_of(maps: np.ndarray) -> np.ndarray:
        return incompleteness(maps.sum((1, 2), dtype=np.float64), scores, base)

    best, error, taken, segments = best.copy(), error_of(best), np.full(count, steps), 1
    while (error > TOLERANCE).any() and 2 * segments * steps <= MOST_STEPS:
        segments *= 2
        # The same number of points on twice as many segments needs no compilation.
        finer = np.sum([maps(float(n), float(segments))[0] for n in range(segments)], axis=0)
        finer_error = error_of(finer)
        better = (error > TOLERANCE) & (finer_error < error)
        best[better], error[better] = finer[better], finer_error[better]
        taken[better] = segments * steps
    return best, scores, base, taken, error


def to_image_size(maps: Float[np.ndarray, "n p q"], size: int) -> Float32[np.ndarray, "n s s"]:
    """Returns maps of a layer at the size of the images, interpolated linearly."""
    if maps.shape[1:] == (size, size):
        return np.asarray(maps, np.float32)
    return np.asarray(jax.image.resize(maps, (len(maps), size, size), "linear"), np.float32)


def share_inside(maps: Float[np.ndarray, "n s s"], cell: np.ndarray) -> Float[np.ndarray, " n"]:
    """Returns the share of each map's absolute values inside the cell; NaN for a map of zeros."""
    size = np.abs(maps, dtype=np.float64)
    total = size.sum((1, 2))
    inside = (size * cell).sum((1, 2))
    return np.divide(inside, total, out=np.full(len(maps), np.nan), where=total > 0)


def blurred(
    image: UInt8[np.ndarray, "s s 3"], cell: Bool[np.ndarray, "s s"], sigma: float
) -> UInt8[np.ndarray, "s s 3"]:
    """Returns the image with a blurred cell; the background is kept and not blurred into it."""
    inside = cell.astype(np.float64)
    weight = scipy.ndimage.gaussian_filter(inside, sigma)
    soft = scipy.ndimage.gaussian_filter(image * inside[..., None], (sigma, sigma, 0))
    soft = soft / np.maximum(weight, 1e-9)[..., None]
    return np.where(cell[..., None], np.rint(soft), image).astype(np.uint8)


def _blurred(images: UInt8[np.ndarray, "n s s 3"], model: Member) -> UInt8[np.ndarray, "n s s 3"]:
    background, sigma = model.preprocessing["background"], images.shape[1] / 12
    return np.stack([blurred(image, foreground(image, background), sigma) for image in images])


@functools.partial(jax.jit, static_argnames=("module", "method", "settings", "baseline"))
def _explain(
    module: nn.Module,
    variables: dict,
    normalization: Normalization,
    images: UInt8[Array, "n s s 3"],
    targets: Int[Array, " n"],
    blank: UInt8[Array, "n s s 3"],
    segment: tuple[Float[Array, ""] | float, Float[Array, ""] | float],
    *,
    method: str,
    settings: Settings,
    baseline: str,
) -> tuple[Array, Array, Array]:
    network = Network(module, variables)
    normalized = normalization(images)
    if baseline == "blurred":
        reference = normalization(blank)
    else:
        reference = pixel_baseline(baseline, normalization.mean, normalization.std)
    maps = attribute(network, normalized, targets, method, settings, reference, segment)
    scores = score(network.logits(normalized), targets, settings.kind)
    if not METHODS[method].pixels:
        return maps, scores, jnp.full_like(scores, jnp.nan)
    base = network.logits(jnp.broadcast_to(reference, images.shape))
    return maps, scores, score(base, targets, settings.kind)
