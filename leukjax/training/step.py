"""The training step and the evaluation step, for all models and any number of devices."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from leukjax import sharding
from leukjax.images.augment import Augment, augment
from leukjax.images.mix import mix, partners
from leukjax.images.normalize import Normalization, standardize
from leukjax.images.stain import Stain
from leukjax.training import losses, optimizers
from leukjax.training.data_placement import DEVICE_IMAGES, batch_shardings, lookup_images
from leukjax.training.fine_tuning import FineTuning
from leukjax.training.optimizers import Optimizer, Schedule
from leukjax.training.state import RecipeSettings, Settings, Totals, TrainState
from leukjax.weights.lora import ALL_TRAINED, Lora

Batch = dict[str, Any]
Metrics = dict[str, Float[Array, ""]]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
EvalStep = Callable[[TrainState, Batch], Float[Array, "b c"]]
# (key, images float[b, h, w, c] in [0, 1], positions in the global batch) -> images
Augmentation = Callable[[PRNGKeyArray, Array, Array], Array]
# (logits float[b, c], labels int[b]) -> float[b]
Loss = Callable[[Array, Array], Array]


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """What is compiled into a step: choices, no values that differ between folds and seeds."""

    optimizer: Optimizer
    augment: Augment | Augmentation
    loss: losses.LossOptions | Loss
    schedule: Schedule
    accumulate: int
    ema_decay: float
    fine_tuning: FineTuning
    deferred: bool = False  # class weights are used from a step on
    swa: bool = False
    stain: Stain | None = None
    recipe: bool = False  # the state holds `RecipeSettings`
    lora: Lora = ALL_TRAINED

    @property
    def keeps_evaluation_params(self) -> bool:
        """Whether the state holds other parameters for evaluation, in ``ema_params``."""
        return self.ema_decay > 0 or self.swa or self.optimizer.evaluation_params is not None


class Target(NamedTuple):
    """What examples are compared with: a mixed example has two of these, its own and its partner's.

    Attributes:
      labels: the classes.
      share: of each example.
      weights: of each example in the loss; those of all targets of a batch sum to 1.
    """

    labels: Int[Array, " b"]
    share: Float[Array, " b"]
    weights: Float[Array, " b"]


def make_train_step(
    module: nn.Module,
    options: StepOptions,
    mesh: Mesh,
    state_shardings: TrainState,
    *,
    image_sharding: NamedSharding | None = None,
    steps: int = 1,
    donate: bool = True,
) -> TrainStep:
    """``train_step(state, batch) -> (state, metrics)``, jitted.

    The batch is that of `leukjax.data.loader`, over the mesh's data axis, of which the step needs
    ``image`` uint8[b, s, s, 3] and ``label`` int32[b]. Metrics are float32: ``loss``, ``grad_norm``
    and, unless the optimizer has its own, ``learning_rate``.

    Args:
      module: the model.
      options: what is compiled in.
      mesh: the devices.
      state_shardings: of the state's arrays.
      image_sharding: of all records on the devices, if they are there: the batch then brings
        ``device_images`` and an ``index`` in place of its images.
      steps: above 1 (only with `image_sharding`), this many steps in one scan: fields of the batch
        except ``device_images``, and metrics, have the steps as their first axis.
      donate: the state's buffers are reused for the result.
    """

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        settings, examples = state.settings, batch["label"].shape[0]
        key = jax.random.fold_in(jax.random.key(settings.seed), state.step)
        images, share = _prepare(key, lookup_images(batch, mesh, image_sharding), settings, options)
        # Positions are below the batch size, so that the last number is free for dropout.
        dropout_key = jax.random.fold_in(key, jnp.uint32(2**32 - 1))
        targets = _targets(batch["label"], share, _class_weights(state, options))

        micro = _split((images, targets), options.accumulate, mesh)
        loss_of = _loss_function(module, options, state, dropout_key)
        value, correct, grads, statistics = _gradients(loss_of, state, micro, options.accumulate)
        norm = optax.global_norm(grads)
        rate = optimizers.learning_rate(
            state.step,
            options.schedule,
            peak=settings.learning_rate,
            total_steps=settings.total_steps,
            warmup_steps=settings.warmup_steps,
            step_every=settings.step_every,
        )
        state = _update(state, grads, statistics, rate, options)
        totals = Totals(
            steps=state.totals.steps + 1,
            examples=state.totals.examples + examples,
            loss=state.totals.loss + value * examples,
            correct=state.totals.correct + correct,
            grad_norm=state.totals.grad_norm + norm,
        )
        metrics = {"loss": value, "grad_norm": norm}
        if not options.optimizer.has_own_rate:
            metrics["learning_rate"] = rate
        return state.replace(totals=totals), metrics

    def train_steps(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        indices = {name: value for name, value in batch.items() if name != DEVICE_IMAGES}
        return jax.lax.scan(
            lambda state, step_batch: train_step(
                state, step_batch | {DEVICE_IMAGES: batch[DEVICE_IMAGES]}
            ),
            state,
            indices,
        )

    return jax.jit(
        train_step if steps == 1 else train_steps,
        donate_argnums=0 if donate else (),
        in_shardings=(state_shardings, batch_shardings(mesh, image_sharding, steps)),
        out_shardings=(state_shardings, sharding.replicated(mesh)),
        compiler_options=compiler_options(mesh),
    )


def make_eval_step(
    module: nn.Module,
    mesh: Mesh,
    state_shardings: TrainState,
    *,
    image_sharding: NamedSharding | None = None,
    stain: Stain | None = None,
) -> EvalStep:
    """``eval_step(state, batch) -> float32[b, classes]``: logits, on every process.

    `image_sharding` as in `make_train_step`, `stain` as in `StepOptions`.
    """

    def eval_step(state: TrainState, batch: Batch) -> Float[Array, "b c"]:
        normalization = _normalization(state.settings, stain)
        images = normalization(lookup_images(batch, mesh, image_sharding))
        logits: Any = module.apply(state.for_evaluation(), images, train=False)
        return logits.astype(jnp.float32)

    return jax.jit(
        eval_step,
        in_shardings=(state_shardings, batch_shardings(mesh, image_sharding)),
        out_shardings=sharding.replicated(mesh),
        compiler_options=compiler_options(mesh),
    )


# XLA:CPU takes barriers away before it joins equal computations and fuses others, and so would undo
# every recomputation (`train.remat`) and compute the features of whole stages again inside a
# transpose (`conv_cpu`); other platforms keep them.
_KEEP_BARRIERS = {"xla_disable_hlo_passes": "optimization-barrier-expander,cse_barrier_expander"}


def compiler_options(mesh: Mesh) -> dict[str, str] | None:
    """Options for the compiler of a mesh's devices, which need not be on this machine."""
    return _KEEP_BARRIERS if mesh.devices.flat[0].platform == "cpu" else None


def _normalization(settings: Settings, stain: Stain | None) -> Normalization:
    target = settings.stain_target if isinstance(settings, RecipeSettings) else None
    return Normalization(settings.mean, settings.std, target, stain)


def _prepare(
    key: PRNGKeyArray,
    images: UInt8[Array, "b s s 3"],
    settings: Settings,
    options: StepOptions,
) -> tuple[Float[Array, "b s s 3"], Float[Array, " b"] | None]:
    """Augmented, mixed, normalised images, and the share of each that is its own (None: all)."""
    positions = jnp.arange(images.shape[0], dtype=jnp.int32)
    floats, share = _normalization(settings, options.stain).colours(images), None
    views = options.augment
    if isinstance(views, Augment):
        floats = augment(key, floats, positions, views)
        if views.mixup or views.cutmix:
            floats, share = mix(key, floats, positions, views.mixup, views.cutmix)
    else:
        floats = views(key, floats, positions)
    return standardize(floats, settings.mean, settings.std), share


def _class_weights(state: TrainState, options: StepOptions) -> Float[Array, " c"]:
    """The class weights of this step: all 1 before `loss.deferred`."""
    settings = state.settings
    if not options.deferred:
        return settings.class_weights
    assert isinstance(settings, RecipeSettings)
    return jnp.where(state.step < settings.deferred_steps, 1.0, settings.class_weights)


def _targets(
    labels: Int[Array, " b"],
    share: Float[Array, " b"] | None,
    class_weights: Float[Array, " c"],
) -> tuple[Target, ...]:
    """One target, or two with weights in proportion to share and class weight."""
    weights = class_weights[labels]
    if share is None:
        return (Target(labels, jnp.ones(labels.shape), weights / jnp.sum(weights)),)
    others = partners(labels)
    weights, other = share * weights, (1 - share) * class_weights[others]
    total = jnp.sum(weights + other)
    return Target(labels, share, weights / total), Target(others, 1 - share, other / total)


def _loss_function(
    module: nn.Module, options: StepOptions, state: TrainState, dropout_key: PRNGKeyArray
) -> Callable:
    """``loss_of(params, statistics, micro_batch, index) -> loss, (new statistics, correct)``."""
    per_example: Loss
    if isinstance(options.loss, losses.LossOptions):
        settings = state.settings
        counts = settings.class_counts if isinstance(settings, RecipeSettings) else None
        per_example = functools.partial(
            losses.per_example, options=options.loss, class_counts=counts
        )
    else:
        per_example = options.loss

    def loss_of(params: Any, statistics: Any, part: Any, index: Int[Array, ""] | int) -> Any:
        images, targets = part
        params = state.model_params(options.fine_tuning.stop_frozen(params))
        logits, updated = module.apply(
            {"params": params, "batch_stats": statistics},
            images,
            train=True,
            rngs={"dropout": jax.random.fold_in(dropout_key, index)},
            mutable=["batch_stats"],
        )
        predicted = jnp.argmax(logits, -1)
        value = sum(jnp.sum(t.weights * per_example(logits, t.labels)) for t in targets)
        correct = sum(jnp.sum(t.share * (predicted == t.labels)) for t in targets)
        return value, (updated.get("batch_stats", {}), correct)

    return loss_of


def _gradients(loss_of: Callable, state: TrainState, micro: Any, parts: int) -> tuple:
    """Loss, correct answers, gradients and new statistics over all micro-batches."""
    gradient = jax.value_and_grad(loss_of, has_aux=True)
    if parts == 1:
        whole = jax.tree.map(lambda x: x[0], micro)
        (value, (statistics, correct)), grads = gradient(state.params, state.batch_stats, whole, 0)
        return value, correct, grads, statistics

    def add(carry: Any, numbered: Any) -> Any:
        statistics, *sums = carry
        index, part = numbered
        (value, (statistics, correct)), grads = gradient(state.params, statistics, part, index)
        return (statistics, *jax.tree.map(jnp.add, sums, [value, correct, grads])), None

    zeros = [jnp.zeros(()), jnp.zeros(()), jax.tree.map(jnp.zeros_like, state.params)]
    (statistics, value, correct, grads), _ = jax.lax.scan(
        add, (state.batch_stats, *zeros), (jnp.arange(parts), micro)
    )
    return value, correct, grads, statistics


def _update(
    state: TrainState, grads: Any, statistics: Any, rate: Float[Array, ""], options: StepOptions
) -> TrainState:
    """The state one step later, its totals unchanged."""
    fine_tuning, optimizer = options.fine_tuning, options.optimizer
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params, rate)
    params = fine_tuning.keep_frozen(optax.apply_updates(state.params, updates), state.params)
    if optimizer.evaluation_params is not None:
        ema_params = optimizer.evaluation_params(opt_state, params)
        ema_batch_stats = jax.tree.map(jnp.copy, statistics)
    else:
        if options.swa:
            assert isinstance(state.settings, RecipeSettings)
            decay = optimizers.mean_decay(state.step, state.settings.swa_start)
        else:
            decay = optimizers.average_decay(state.step, options.ema_decay)
        ema_params = fine_tuning.keep_frozen(_average(state.ema_params, params, decay), params)
        ema_batch_stats = _average(state.ema_batch_stats, statistics, decay)
    return state.replace(
        step=state.step + 1,
        params=params,
        batch_stats=statistics,
        opt_state=opt_state,
        ema_params=ema_params,
        ema_batch_stats=ema_batch_stats,
    )


def _average(average: Any, new: Any, decay: Float[Array, ""]) -> Any:
    """Average that forgets by `decay`; an empty tree stays empty."""
    if not average:
        return average
    return jax.tree.map(lambda old, now: decay * old + (1 - decay) * now, average, new)


def _split(tree: Any, parts: int, mesh: Mesh) -> Any:
    """``[b, …] -> [parts, b / parts, …]``, micro-batch j taking examples j, j + parts, ….

    Strided, so that every micro-batch is spread evenly over the devices and nothing moves.
    """

    def split(x: Array) -> Array:
        x = x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(None, "data")))

    return jax.tree.map(split, tree)
