"""The training state: everything that a run is at one step, as one tree of arrays."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, UInt

from leukjax import sharding
from leukjax.weights.lora import Lora, merge


class Settings(struct.PyTreeNode):
    """Values of a run that are not compiled in: folds, seeds and learning rates share one step."""

    seed: UInt[Array, ""]
    mean: Float[Array, "3"]  # of the foreground, in [0, 1]
    std: Float[Array, "3"]
    class_weights: Float[Array, " c"]
    learning_rate: Float[Array, ""]
    total_steps: Float[Array, ""]
    warmup_steps: Float[Array, ""]
    step_every: Float[Array, ""]


class RecipeSettings(Settings):
    """The settings of a run whose recipe needs more values.

    A class of its own: the state of every other run, and so its checkpoints, stay as they were.
    """

    class_counts: Float[Array, " c"]  # training images
    deferred_steps: Float[Array, ""]  # class weights are used from this step on
    swa_start: Float[Array, ""]  # the parameters after this step are the first in the average
    stain_target: Float[Array, "2 4"]  # of `data.stain`


class Totals(struct.PyTreeNode):
    """Sums since the last line of the log; in the state, so that they survive a resume."""

    steps: Float[Array, ""]
    examples: Float[Array, ""]
    loss: Float[Array, ""]  # weighted by examples
    correct: Float[Array, ""]
    grad_norm: Float[Array, ""]

    @classmethod
    def zero(cls) -> "Totals":
        """All sums 0, as NumPy values to be put on the devices."""
        zero: Any = np.zeros((), np.float32)
        return cls(zero, zero, zero, zero, zero)


class TrainState(struct.PyTreeNode):
    """Parameters, statistics, optimizer state, moving averages, sums, and the run's values.

    ``ema_params`` and ``ema_batch_stats`` are what is evaluated: moving averages, the mean of
    `train.swa`, or the parameters of a schedule-free optimizer. They are empty dictionaries if the
    trained values are evaluated.
    """

    step: Int[Array, ""]
    params: Any
    batch_stats: Any
    opt_state: Any
    ema_params: Any
    ema_batch_stats: Any
    totals: Totals
    settings: Settings

    def __repr__(self) -> str:
        size = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        was_reused = getattr(self.step, "is_deleted", lambda: False)()
        step = "memory reused by train_step" if was_reused else f"step {self.step}"
        return f"{type(self).__name__}({step}, {size:,} parameters)"

    @property
    def saved(self) -> "TrainState":
        """What a checkpoint holds."""
        return self

    def model_params(self, params: Any) -> Any:
        """The parameters of the model, given those that are trained."""
        return params

    def for_evaluation(self) -> dict[str, Any]:
        """The variables that are evaluated."""
        if self.ema_params:
            params, statistics = self.ema_params, self.ema_batch_stats
        else:
            params, statistics = self.params, self.batch_stats
        return {"params": self.model_params(params), "batch_stats": statistics}

    def with_zero_totals(self) -> "TrainState":
        """The same state with all sums 0, on the same devices."""
        shardings = jax.tree.map(lambda x: x.sharding, self.totals)
        return self.replace(totals=jax.device_put(Totals.zero(), shardings))


class LoraState(TrainState):
    """The state of a run with LoRA: ``params`` are the updates and the head.

    ``base`` is frozen, and no part of a checkpoint (`leukjax.weights.lora`).
    """

    base: Any
    scale: float = struct.field(pytree_node=False)

    __repr__ = TrainState.__repr__  # not the one that a dataclass gets

    @property
    def saved(self) -> TrainState:
        return TrainState(**{f.name: getattr(self, f.name) for f in dataclasses.fields(TrainState)})

    def model_params(self, params: Any) -> Any:
        return merge(self.base, params, self.scale)


def settings_form(num_classes: int, *, recipe: bool = False) -> Settings:
    """Shapes and dtypes of the settings, with those of `RecipeSettings` if asked; no arrays."""

    def array(*shape: int, dtype: Any = jnp.float32) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype)

    number = array()
    fields: dict[str, Any] = {
        "seed": array(dtype=jnp.uint32),
        "mean": array(3),
        "std": array(3),
        "class_weights": array(num_classes),
        "learning_rate": number,
        "total_steps": number,
        "warmup_steps": number,
        "step_every": number,
    }
    if not recipe:
        return Settings(**fields)
    return RecipeSettings(
        **fields,
        class_counts=array(num_classes),
        deferred_steps=number,
        swa_start=number,
        stain_target=array(2, 4),
    )


def make_init(
    module: nn.Module,
    init_optimizer: Callable[[Any], Any],
    *,
    settings: Settings,
    image_size: int,
    ema: bool,
    lora: Lora,
    mesh: Mesh,
    rules: sharding.Rules,
) -> tuple[Callable[[Settings], TrainState], TrainState]:
    """A jitted ``init(settings) -> state`` that makes a fresh state already sharded.

    No device ever holds more than its share, so that a model larger than one device can start.

    Args:
      module: the model.
      init_optimizer: parameters -> the optimizer's state.
      settings: their form (`settings_form`).
      image_size: pixels per side of the images.
      ema: whether evaluated parameters are kept beside the trained ones.
      lora: which parameters are trained.
      mesh: the devices.
      rules: how parameters are sharded.

    Returns:
      The function, and the form of the state: the shape, dtype and sharding of each array, which
      is what `Checkpoints.restore` takes.
    """

    def init(settings: Settings) -> TrainState:
        images = jnp.zeros((1, image_size, image_size, 3), jnp.float32)
        variables = module.init(jax.random.key(settings.seed), images, train=False)
        base, params = lora.split(variables["params"], jax.random.key(settings.seed))
        statistics = variables.get("batch_stats", {})
        # Copies: averages and values share no buffer, so that the whole state can be donated.
        copy = (lambda tree: jax.tree.map(jnp.copy, tree)) if ema else (lambda tree: {})
        make = functools.partial(LoraState, base=base, scale=lora.scale) if base else TrainState
        return make(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=statistics,
            opt_state=init_optimizer(params),
            ema_params=copy(params),
            ema_batch_stats=copy(statistics),
            totals=jax.tree.map(jnp.asarray, Totals.zero()),
            settings=settings,
        )

    shapes = jax.eval_shape(init, settings)
    shardings = sharding.tree_shardings(shapes, mesh, rules)
    form = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        shardings,
    )
    return jax.jit(init, out_shardings=shardings), form
