"""Losses of a classifier, one value an example."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class LossOptions:
    """Which loss; see the section ``loss`` of configs/default.py."""

    name: str = "cross_entropy"
    label_smoothing: float = 0.0
    focal_gamma: float = 2.0


def per_example(
    logits: Float[Array, "b c"], labels: Int[Array, " b"], options: LossOptions
) -> Float[Array, " b"]:
    """Cross-entropy or focal loss in float32, in nats.

    Smoothing mixes the one-hot target with the uniform one (Szegedy et al. 2016, section 7). The
    focal loss weighs each class's term with (1 - p)^gamma (Lin et al. 2017, equation 4, without
    alpha: class weights serve for that).
    """
    classes = logits.shape[-1]
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    target = jax.nn.one_hot(labels, classes, dtype=jnp.float32)
    if options.label_smoothing:
        target = (1 - options.label_smoothing) * target + options.label_smoothing / classes
    if options.name == "focal":
        # 1 - p from the log: exact to rounding where p is near one.
        log_p = log_p * (-jnp.expm1(log_p)) ** options.focal_gamma
    return -jnp.sum(target * log_p, axis=-1)
