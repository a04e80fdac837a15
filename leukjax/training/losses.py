"""Losses of a classifier, one value per example."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# Losses that need the number of training images of each class.
WITH_COUNTS = ("logit_adjusted", "ldam")


@dataclasses.dataclass(frozen=True)
class LossOptions:
    """Which loss; see the section ``loss`` of configs/default.py."""

    name: str = "cross_entropy"
    label_smoothing: float = 0.0
    focal_gamma: float = 2.0
    tau: float = 1.0
    margin: float = 0.5


def per_example(
    logits: Float[Array, "b c"],
    labels: Int[Array, " b"],
    options: LossOptions,
    class_counts: Float[Array, " c"] | None = None,
) -> Float[Array, " b"]:
    """Cross-entropy, focal, logit-adjusted or LDAM loss in float32, in nats.

    Smoothing mixes the one-hot target with the uniform one (Szegedy et al. 2016, section 7). The
    focal loss weighs each class's term with (1 - p)^gamma (Lin et al. 2017, equation 4, without
    alpha: class weights serve for that); with a gamma of 0 it is the cross-entropy, to the bit.

    Args:
      logits: of the model; predictions are their softmax, whatever the loss.
      labels: class of each example.
      options: static.
      class_counts: training images of each class, for the losses of `WITH_COUNTS`.
    """
    classes = logits.shape[-1]
    logits = logits.astype(jnp.float32)
    target = jax.nn.one_hot(labels, classes, dtype=jnp.float32)
    if options.name in WITH_COUNTS:
        assert class_counts is not None
        logits = _adjusted(logits, target, options, class_counts)
    log_p = jax.nn.log_softmax(logits)
    if options.label_smoothing:
        target = (1 - options.label_smoothing) * target + options.label_smoothing / classes
    if options.name == "focal" and options.focal_gamma:
        log_p = _focal(log_p, options.focal_gamma)
    return -jnp.sum(target * log_p, axis=-1)


def _adjusted(
    logits: Float[Array, "b c"],
    one_hot: Float[Array, "b c"],
    options: LossOptions,
    class_counts: Float[Array, " c"],
) -> Float[Array, "b c"]:
    """Logits whose cross-entropy is the loss; a class without images counts as one image.

    logit_adjusted adds tau times the logarithm of the class's frequency (Menon et al. 2021,
    equation 10). ldam subtracts from the logit of the label a margin proportional to n^(-1/4) for n
    images of the class, the largest one `margin` (Cao et al. 2019, equations 12 and 13; without the
    normalised head and the scale of 30 of its code).
    """
    counts = jnp.maximum(class_counts, 1.0)
    if options.name == "logit_adjusted":
        return logits + options.tau * jnp.log(counts / jnp.sum(counts))
    margins = options.margin * (jnp.min(counts) / counts) ** 0.25
    return logits - one_hot * margins


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _focal(log_p: Float[Array, "b c"], gamma: float) -> Float[Array, "b c"]:
    """``(1 - p)^gamma log p`` for a gamma above 0.

    Its derivative is written out: the chain rule would multiply an infinite power by 0 where p
    rounds to 1 and gamma is below 1.
    """
    # 1 - p from the log: exact to rounding where p is near one.
    return log_p * (-jnp.expm1(log_p)) ** gamma


@_focal.defjvp
def _focal_jvp(gamma: float, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (log_p,), (tangent,) = primals, tangents
    q = -jnp.expm1(log_p)  # 1 - p
    power = q**gamma
    # -log p / (1 - p), which tends to 1 where p tends to 1.
    ratio = jnp.where(q > 0, -log_p / jnp.where(q > 0, q, 1.0), 1.0)
    slope = power * (1 + gamma * jnp.exp(log_p) * ratio)
    return _focal(log_p, gamma), slope * tangent
