"""Attention over a set of vectors, and a linear classifier of their weighted mean.

One form serves both kinds of sets: the tokens of an image, weighted by a learnt query, and the
cells of a subject, weighted by a gated network (Ilse et al. 2018, ICML, equations 7 and 9).
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Float32, Int

from leukjax.metrics.scores import softmax


class Sets(Protocol):
    """Sets of vectors.

    Attributes:
      shape: the largest number of vectors of a set, and their width.
    """

    shape: tuple[int, int]

    def take(
        self, sets: Int[np.ndarray, " b"]
    ) -> tuple[Float32[np.ndarray, "b m d"], Bool[np.ndarray, "b m"]]:
        """Returns the vectors of some sets, padded, and a mask that is True where there are any."""


class AttentionHead(nn.Module):
    """Vectors to logits, and the weight of each vector.

    Attributes:
      classes: number of logits.
      hidden: units of the gated network; 0 = a learnt query.
    """

    classes: int
    hidden: int = 0

    @nn.compact
    def __call__(
        self, x: Float[Array, "b m d"], mask: Bool[Array, "b m"]
    ) -> tuple[Float[Array, "b c"], Float[Array, "b m"]]:
        if self.hidden:
            gate = nn.sigmoid(nn.Dense(self.hidden, name="gate")(x))
            hidden = nn.tanh(nn.Dense(self.hidden, name="tanh")(x)) * gate
            score = nn.Dense(1, use_bias=False, name="score")(hidden)
        else:  # starts as the mean of the vectors
            query = nn.Dense(1, False, kernel_init=nn.initializers.zeros, name="query")
            score = query(x) / math.sqrt(x.shape[-1])
        weights = nn.softmax(jnp.where(mask, score[..., 0], -jnp.inf))
        pooled = jnp.einsum("bm,bmd->bd", weights, x)
        logits = nn.Dense(self.classes, kernel_init=nn.initializers.zeros, name="head")(pooled)
        return logits, weights


@dataclasses.dataclass(frozen=True)
class Training:
    """How a head is trained: AdamW; the epoch with the lowest log loss on validation is kept.

    Attributes:
      hidden: as in `AttentionHead`.
      batch_size: sets per step.
      epochs: at most.
      patience: epochs without a lower loss after which it ends.
      learning_rate, weight_decay: of AdamW.
    """

    hidden: int
    batch_size: int
    epochs: int
    patience: int
    learning_rate: float
    weight_decay: float


@dataclasses.dataclass(frozen=True, eq=False)
class Attention:
    """A trained head.

    Attributes:
      epoch: that was kept, from 1.
      predict: rows of sets -> probabilities float64[n, c], and the weights of each set's vectors.
    """

    epoch: int
    predict: Callable[[np.ndarray], tuple[np.ndarray, list[np.ndarray]]]


def fit(
    sets: Sets,
    labels: Int[np.ndarray, " n"],
    train: Int[np.ndarray, " t"],
    val: Int[np.ndarray, " v"],
    classes: int,
    training: Training,
    seed: int,
) -> Attention:
    """Trains a head; equal arguments give equal bits.

    Args:
      sets: the vectors, standardised.
      labels: class of each set.
      train, val: rows of `sets`.
      classes: number of classes.
      training: how.
      seed: of the initial values and the order of the sets.
    """
    module = AttentionHead(classes, training.hidden)
    # A power of two that is not far above what there is: a padded set costs as much as another.
    size = min(training.batch_size, 1 << (len(train) - 1).bit_length())
    x, mask = sets.take(train[:1])
    init, step = _compiled(module, training)
    state = init(jax.random.key(seed), x, mask)
    best, best_loss, kept = state[0], math.inf, 0
    for epoch in range(1, training.epochs + 1):
        order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(train)
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            x, mask, counts = _padded(sets, rows, size)
            label = np.zeros(size, np.int32)
            label[: len(rows)] = labels[rows]
            state = step(state, x, mask, label, counts)
        p, _ = _predict(module, state[0], sets, val, size)
        eps = np.finfo(np.float64).eps
        loss = float(-np.log(np.maximum(p[np.arange(len(val)), labels[val]], eps)).mean())
        if loss < best_loss:
            best, best_loss, kept = state[0], loss, epoch
        if epoch - kept >= training.patience:
            break
    return Attention(kept, lambda rows: _predict(module, best, sets, rows, size))


@functools.lru_cache(maxsize=8)
def _compiled(module: AttentionHead, training: Training) -> tuple[Any, Any]:
    """The jitted start and step of a training, shared by all folds."""
    optimizer = optax.adamw(training.learning_rate, weight_decay=training.weight_decay)

    @jax.jit
    def init(key: Array, x: Array, mask: Array) -> Any:
        params = module.init(key, x, mask)
        return params, optimizer.init(params)

    @jax.jit
    def step(state: Any, x: Array, mask: Array, labels: Array, counts: Array) -> Any:
        params, opt_state = state

        def loss(params: Any) -> Array:
            logits, _ = module.apply(params, x, mask)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return (losses * counts).sum() / counts.sum()

        updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    return init, step


@functools.partial(jax.jit, static_argnames="module")
def _apply(module: AttentionHead, params: Any, x: Array, mask: Array) -> tuple[Array, Array]:
    result: Any = module.apply(params, x, mask)
    return result


def _predict(
    module: AttentionHead, params: Any, sets: Sets, rows: np.ndarray, size: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    logits: list[np.ndarray] = [np.zeros((0, module.classes), np.float32)]
    weights: list[np.ndarray] = []
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        x, mask, _ = _padded(sets, part, size)
        logit, weight = jax.device_get(_apply(module, params, x, mask))
        logits.append(logit[: len(part)])
        weights += [weight[i][mask[i]] for i in range(len(part))]
    return softmax(np.concatenate(logits)), weights


def _padded(sets: Sets, rows: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors and mask of `size` sets, of which the last repeat the first and count 0."""
    counts = np.zeros(size, np.float32)
    counts[: len(rows)] = 1
    return *sets.take(np.resize(rows, size)), counts
