"""The one step of training and the one of evaluation, for all models and any number of devices."""

import dataclasses
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from leukjax import sharding
from leukjax.images.augment import AugmentOptions, augment
from leukjax.images.normalize import standardize, to_float
from leukjax.training import losses, optimizers
from leukjax.training.fine_tuning import FineTuning
from leukjax.training.lookup import PIXELS, batch_shardings, images_of
from leukjax.training.state import Totals, TrainState

# XLA:CPU takes barriers away before it joins equal computations and fuses others, and so would undo
# every recomputation (`train.remat`) and compute the features of whole stages again inside a
# transpose (`conv_cpu`); other platforms keep them.
_KEEP_BARRIERS = {"xla_disable_hlo_passes": "optimization-barrier-expander,cse_barrier_expander"}

Batch = dict[str, Any]
Metrics = dict[str, Float[Array, ""]]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
EvalStep = Callable[[TrainState, Batch], Float[Array, "b c"]]


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """What is compiled into a step: choices, no numbers that differ between folds and seeds."""

    augment: AugmentOptions
    loss: losses.LossOptions
    schedule: str
    final: float
    step_factor: float
    accumulate: int
    ema_decay: float
    fine_tuning: FineTuning


def make_train_step(
    module: nn.Module,
    transform: optax.GradientTransformation,
    options: StepOptions,
    mesh: Mesh,
    state_shardings: TrainState,
    *,
    pixels: NamedSharding | None = None,
    steps: int = 1,
) -> TrainStep:
    """``train_step(state, batch) -> (state, metrics)``, jitted, the state donated.

    The batch is that of `leukjax.data.loader`, over the mesh's data axis; metrics are ``loss``,
    ``grad_norm`` and ``learning_rate``, float32.

    Args:
      module: the model.
      transform: any optax transformation, as ``optax.adamw(1e-3)``; its updates are added to the
        parameters. ``update`` is also given ``learning_rate`` (from the state's settings and the
        options' schedule; `optimizer.by_learning_rate` multiplies by it), ``value``, ``grad`` and
        ``value_fn``. One that does not take ``learning_rate`` has its own, and the metric of that
        name does not describe it.
      options: what is compiled in.
      mesh: the devices.
      state_shardings: of the state's arrays.
      pixels: how all records lie on the devices, if they do: the batch then brings ``pixels`` and
        an index in place of its images.
      steps: above 1 (with `pixels` only), so many steps in one scan: fields of the batch but
        ``pixels``, and metrics, have the steps as their first axis.
    """

    update = optax.with_extra_args_support(transform).update

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        settings = state.settings
        step_key = jax.random.fold_in(jax.random.key(settings.seed), state.step)
        count = batch["label"].shape[0]
        positions = jnp.arange(count, dtype=jnp.int32)
        images = to_float(images_of(batch, mesh, pixels))
        images = augment(step_key, images, positions, options.augment)
        images = standardize(images, settings.mean, settings.std)
        # Positions are below the batch size, so that the last number is free for dropout.
        dropout_key = jax.random.fold_in(step_key, jnp.uint32(2**32 - 1))

        weights = settings.class_weights[batch["label"]]
        weights = weights / jnp.sum(weights)
        micro = _split((images, batch["label"], weights), options.accumulate, mesh)

        def loss_of(params, statistics, part, index):
            images, labels, weights = part
            learning = options.fine_tuning.stop_frozen(params)
            logits, updated = module.apply(
                {"params": learning, "batch_stats": statistics},
                images,
                train=True,
                rngs={"dropout": jax.random.fold_in(dropout_key, index)},
                mutable=["batch_stats"],
            )
            value = jnp.sum(weights * losses.per_example(logits, labels, options.loss))
            correct = jnp.sum(jnp.argmax(logits, -1) == labels).astype(jnp.float32)
            return value, (updated.get("batch_stats", {}), correct)

        gradient = jax.value_and_grad(loss_of, has_aux=True)

        def one(carry, numbered):
            statistics, *sums = carry
            index, part = numbered
            (value, (statistics, correct)), grads = gradient(state.params, statistics, part, index)
            return (statistics, *jax.tree.map(jnp.add, sums, [value, correct, grads])), None

        if options.accumulate == 1:
            (value, (statistics, correct)), grads = gradient(
                state.params, state.batch_stats, jax.tree.map(lambda x: x[0], micro), 0
            )
        else:
            zeros = [jnp.zeros(()), jnp.zeros(()), jax.tree.map(jnp.zeros_like, state.params)]
            carry = (state.batch_stats, *zeros)
            (statistics, value, correct, grads), _ = jax.lax.scan(
                one, carry, (jnp.arange(options.accumulate), micro)
            )

        rate = optimizers.learning_rate(
            state.step,
            schedule=options.schedule,
            peak=settings.learning_rate,
            total_steps=settings.total_steps,
            warmup_steps=settings.warmup_steps,
            step_every=settings.step_every,
            final=options.final,
            step_factor=options.step_factor,
        )
        norm = optax.global_norm(grads)

        def value_of(params: Any, learning_rate: Any = None) -> Float[Array, ""]:
            """The loss on this batch at other parameters, for a line search of optax."""
            del learning_rate  # a search hands on every argument that it does not know
            total = jnp.zeros(())
            for index in range(options.accumulate):
                part = jax.tree.map(operator.itemgetter(index), micro)
                total += loss_of(params, state.batch_stats, part, index)[0]
            return total

        updates, opt_state = update(
            grads,
            state.opt_state,
            state.params,
            learning_rate=rate,
            value=value,
            grad=grads,
            value_fn=value_of,
        )
        params = options.fine_tuning.keep_frozen(
            optax.apply_updates(state.params, updates), state.params
        )
        totals = Totals(
            steps=state.totals.steps + 1,
            examples=state.totals.examples + count,
            loss=state.totals.loss + value * count,
            correct=state.totals.correct + correct,
            grad_norm=state.totals.grad_norm + norm,
        )
        decay = optimizers.average_decay(state.step, options.ema_decay)
        state = state.replace(
            step=state.step + 1,
            params=params,
            batch_stats=statistics,
            opt_state=opt_state,
            ema_params=options.fine_tuning.keep_frozen(
                _average(state.ema_params, params, decay), params
            ),
            ema_batch_stats=_average(state.ema_batch_stats, statistics, decay),
            totals=totals,
        )
        return state, {"loss": value, "grad_norm": norm, "learning_rate": rate}

    def train_steps(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        places = {name: value for name, value in batch.items() if name != PIXELS}
        return jax.lax.scan(
            lambda state, own: train_step(state, own | {PIXELS: batch[PIXELS]}), state, places
        )

    return jax.jit(
        train_step if steps == 1 else train_steps,
        donate_argnums=0,
        in_shardings=(state_shardings, batch_shardings(mesh, pixels, steps)),
        out_shardings=(state_shardings, sharding.replicated(mesh)),
        compiler_options=compiler_options(mesh),
    )


def compiler_options(mesh: Mesh) -> dict[str, str] | None:
    """What the compiler of a mesh's devices, which need not be here, has to be told."""
    return _KEEP_BARRIERS if mesh.devices.flat[0].platform == "cpu" else None


def make_eval_step(
    module: nn.Module,
    mesh: Mesh,
    state_shardings: TrainState,
    *,
    pixels: NamedSharding | None = None,
) -> EvalStep:
    """``eval_step(state, batch) -> float32[b, classes]``: logits, on every process.

    `pixels` as in `make_train_step`.
    """

    def eval_step(state: TrainState, batch: Batch) -> Float[Array, "b c"]:
        settings = state.settings
        images = to_float(images_of(batch, mesh, pixels))
        images = standardize(images, settings.mean, settings.std)
        logits: Any = module.apply(state.for_evaluation(), images, train=False)
        return logits.astype(jnp.float32)

    return jax.jit(
        eval_step,
        in_shardings=(state_shardings, batch_shardings(mesh, pixels)),
        out_shardings=sharding.replicated(mesh),
        compiler_options=compiler_options(mesh),
    )


def _average(average: Any, new: Any, decay: Float[Array, ""]) -> Any:
    """Exponential moving average; an empty tree stays empty."""
    if not average:
        return average
    return jax.tree.map(lambda old, now: decay * old + (1 - decay) * now, average, new)


def _split(tree: Any, parts: int, mesh: Mesh) -> Any:
    """``[b, …] -> [parts, b / parts, …]``, micro-batch j taking examples j, j + parts, ….

    Strided, so that every micro-batch lies evenly over the devices and nothing moves.
    """

    def of(x: Array) -> Array:
        x = x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(None, "data")))

    return jax.tree.map(of, tree)
