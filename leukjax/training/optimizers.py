"""The optimizer of a config: an optax transformation whose learning rate is a value.

The training step calls any optax transformation and applies its updates as they are. That of a
config takes the learning rate as an extra argument of ``update``. Learning rate and lengths of the
schedule are values in the state, so that one compiled step serves all folds, seeds and rates.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from leukjax.sharding import path_name
from leukjax.training.fine_tuning import FineTuning


def make_transform(options: ConfigDict) -> optax.GradientTransformationExtraArgs:
    """Clipping, weight decay and Adam, AdamW or momentum, in the order the literature has them.

    Frozen parameters have no part in any of it. ``update`` needs ``learning_rate=``.
    """
    return by_learning_rate(FineTuning.of(options).wrap(_for_all(options)))


def by_learning_rate(
    transform: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """A transformation whose updates are multiplied by ``-learning_rate``, an extra argument.

    It is `optax.chain` with `optax.scale_by_learning_rate`, for a rate that is not known when the
    transformation is made. The state is that of `transform` alone.
    """
    inner = optax.with_extra_args_support(transform)

    def update(
        updates: Any, state: Any, params: Any = None, *, learning_rate: Any, **extra: Any
    ) -> tuple[Any, Any]:
        updates, state = inner.update(updates, state, params, **extra)
        return jax.tree.map(lambda u: -learning_rate * u, updates), state

    return optax.GradientTransformationExtraArgs(inner.init, update)


def _for_all(options: ConfigDict) -> optax.GradientTransformation:
    decay = (
        [optax.add_decayed_weights(options.weight_decay, mask=decays(options.decay_mask))]
        if options.weight_decay
        else []
    )
    clip = [optax.clip_by_global_norm(options.clip_norm)] if options.clip_norm else []
    if options.name == "sgd":
        return optax.chain(*clip, *decay, optax.trace(decay=options.momentum))
    adam = optax.scale_by_adam(b1=options.b1, b2=options.b2, eps=options.eps)
    if options.name == "adam":
        return optax.chain(*clip, *decay, adam)
    return optax.chain(*clip, adam, *decay)  # Loshchilov & Hutter 2019, algorithm 2


def decays(expression: str):
    """A mask function: true for the parameters whose path matches the regular expression."""

    pattern = re.compile(expression)

    def matches(path, _) -> bool:
        return pattern.search(path_name(path)) is not None

    def mask(params):
        return jax.tree_util.tree_map_with_path(matches, params)

    return mask


def average_decay(step: Int[Array, ""], decay: float) -> Float[Array, ""]:
    """Decay of the moving averages at a step (counted from 0): ``min(decay, (1 + t) / (10 + t))``.

    The average of the first steps forgets the initial values quickly, as in TensorFlow's
    ``ExponentialMovingAverage(num_updates=…)``; with a constant decay of 0.999 they would still
    have a weight of 81 % after 210 steps.
    """
    now = step.astype(jnp.float32)
    return jnp.minimum(jnp.float32(decay), (1 + now) / (10 + now))


def learning_rate(
    step: Int[Array, ""],
    *,
    schedule: str,
    peak: Float[Array, ""],
    total_steps: Float[Array, ""],
    warmup_steps: Float[Array, ""],
    step_every: Float[Array, ""],
    final: float,
    step_factor: float,
) -> Float[Array, ""]:
    """Learning rate of a step (counted from 0).

    A linear warm-up, ``peak * (step + 1) / warmup_steps``, then ``constant``; ``cosine`` from the
    peak to ``final * peak`` at the last step (Loshchilov & Hutter 2017, equation 5, one cycle); or
    ``step``, multiplied by `step_factor` every `step_every` steps.
    """
    now = step.astype(jnp.float32)
    if schedule == "cosine":
        length = jnp.maximum(total_steps - warmup_steps, 1.0)
        progress = jnp.clip((now - warmup_steps) / length, 0.0, 1.0)
        factor = final + (1 - final) * 0.5 * (1 + jnp.cos(jnp.pi * progress))
    elif schedule == "step":
        factor = step_factor ** jnp.floor(now / step_every)
    else:
        factor = jnp.float32(1.0)
    warm = jnp.minimum((now + 1) / jnp.maximum(warmup_steps, 1.0), 1.0)
    return peak * warm * factor
