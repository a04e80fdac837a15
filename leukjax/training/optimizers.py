"""Optimizers: from a config, registered by name, or any optax transformation.

The optimizer of a config takes the learning rate as an argument of ``update``. Learning rate and
lengths of the schedule are values in the state, so that one compiled step serves all folds, seeds
and learning rates. An optax transformation given in Python has its own learning rate, compiled in.
"""

import ast
import dataclasses
import difflib
import functools
import inspect
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from leukjax.config import fields
from leukjax.errors import UserError
from leukjax.sharding import path_name
from leukjax.training.fine_tuning import FineTuning
from leukjax.training.optimizer_registry import BY_FIELDS, CUSTOM, registered

# Fields of `optimizer` that enter the step as values or through its options, not through `update`.
_NOT_COMPILED = ("learning_rate", "warmup", "step_every", "schedule", "final", "step_factor")
_FIELDS_OF_BY_FIELDS = ("b1", "b2", "eps", "momentum", "weight_decay")
_MASKS = ("mask", "weight_decay_mask")
_MAX_OPTIONS = 2_000  # characters


@dataclasses.dataclass(frozen=True, eq=False)
class Optimizer:
    """What turns gradients into updates. Hashed by identity: it is part of compilation keys.

    Attributes:
      init: parameters -> the state that the optimizer keeps.
      update: (gradients, state, parameters, learning rate) -> (updates, state).
      has_own_rate: the learning rate of `update` is ignored.
      evaluation_params: (state, parameters) -> the parameters to evaluate, where they are others
        than those that are trained.
    """

    init: Callable[[Any], Any]
    update: Callable[[Any, Any, Any, Any], tuple[Any, Any]]
    has_own_rate: bool = False
    evaluation_params: Callable[[Any, Any], Any] | None = None


def from_optax(transform: optax.GradientTransformation, params: Any) -> Optimizer:
    """An optax transformation as it is, as ``optax.adamw(1e-3)``; it has its own learning rate.

    The same transformation gives the same object, so that trainers share what is compiled.

    Args:
      transform: the transformation.
      params: of the model, or their shapes.

    Raises:
      TypeError: it is no optax transformation.
      ValueError: its ``update`` needs more than gradients, state and parameters, as that of
        ``optax.lbfgs``; or it does not fit the parameters.
    """
    if not (callable(getattr(transform, "init", None)) and hasattr(transform, "update")):
        raise TypeError(
            f"optimizer: expected an optax transformation, as optax.adam(1e-3), got {transform!r}"
        )
    try:
        jax.eval_shape(lambda p: transform.update(p, transform.init(p), p), params)
    except Exception as error:
        if isinstance(error, TypeError) and "argument" in str(error):
            raise ValueError(
                "optimizer: its update asks for more than gradients, state and parameters (line "
                "searches such as optax.lbfgs, and reduce_on_plateau, cannot be used): "
                f"{str(error).splitlines()[0]}"
            ) from error
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"optimizer: does not fit the parameters of the model ({line})") from error
    return _from_optax(transform, _is_schedule_free(transform.init, params))


@functools.lru_cache(maxsize=8)
def _from_optax(transform: optax.GradientTransformation, is_schedule_free: bool) -> Optimizer:
    return Optimizer(
        transform.init,
        lambda grads, state, params, rate: transform.update(grads, state, params),
        has_own_rate=True,
        evaluation_params=_evaluation_params if is_schedule_free else None,
    )


def from_config(options: ConfigDict) -> Optimizer:
    """The optimizer of the section ``optimizer`` of a config; the same object for equal options.

    Frozen parameters have no part in any of it.

    Raises:
      UserError: options that the optimizer does not have.
    """
    static = {name: value for name, value in options.items() if name not in _NOT_COMPILED}
    return _from_items(tuple(sorted(static.items())))


@functools.lru_cache(maxsize=32)
def _from_items(items: tuple[tuple[str, Any], ...]) -> Optimizer:
    options = ConfigDict(dict(items))
    if options.name == CUSTOM:
        raise UserError(
            "--config.optimizer.name=custom: stands for an optimizer given in Python; use "
            "leukjax.Trainer, or register it"
        )
    if options.name in BY_FIELDS:
        return _by_fields(options)
    return _by_factory(options)


def _by_fields(options: ConfigDict) -> Optimizer:
    """Clipping, weight decay and Adam, AdamW or momentum, in the order of the literature."""
    if options.options:
        raise UserError(
            f"--config.optimizer.options={options.options}: {options.name} has fields of its own "
            f"({', '.join(_FIELDS_OF_BY_FIELDS)}); set those"
        )
    decay = (
        [optax.add_decayed_weights(options.weight_decay, mask=decays(options.decay_mask))]
        if options.weight_decay
        else []
    )
    if options.name == "sgd":
        parts = [*decay, optax.trace(decay=options.momentum)]
    else:
        adam = optax.scale_by_adam(b1=options.b1, b2=options.b2, eps=options.eps)
        # Loshchilov & Hutter 2019, algorithm 2: AdamW decays after the division by the moments.
        parts = [*decay, adam] if options.name == "adam" else [adam, *decay]
    transform = FineTuning.of(options).wrap(optax.chain(*_clip(options), *parts))

    def update(grads: Any, state: Any, params: Any, rate: Any) -> tuple[Any, Any]:
        updates, state = transform.update(grads, state, params)
        return jax.tree.map(lambda u: -rate * u, updates), state

    return Optimizer(transform.init, update)


def _by_factory(options: ConfigDict) -> Optimizer:
    """An optax factory, called in each step with the learning rate of that step."""
    factory = _factory(options.name)
    keywords = _keywords(options, factory)
    fine_tuning = FineTuning.of(options)

    def make(rate: Any) -> optax.GradientTransformation:
        transform = factory(learning_rate=rate, **keywords)
        return fine_tuning.wrap(optax.chain(*_clip(options), transform))

    def update(grads: Any, state: Any, params: Any, rate: Any) -> tuple[Any, Any]:
        return make(rate).update(grads, state, params)

    example = {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}
    try:
        plain = factory(learning_rate=0.0, **keywords)
        jax.eval_shape(lambda p: plain.update(p, plain.init(p), p), example)
    except Exception as error:  # whatever the values of the options make of it
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"--config.optimizer.options={options.options}: {options.name} refuses it ({line})"
        ) from error
    is_schedule_free = _is_schedule_free(plain.init, example)
    if is_schedule_free and fine_tuning.freezes:
        raise UserError(
            f"--config.optimizer.name={options.name}: cannot freeze parameters; set "
            "optimizer.freeze='' and optimizer.freeze_stages=0"
        )
    init = make(jnp.float32(0)).init
    return Optimizer(
        init, update, evaluation_params=_evaluation_params if is_schedule_free else None
    )


def _clip(options: ConfigDict) -> list[optax.GradientTransformation]:
    return [optax.clip_by_global_norm(options.clip_norm)] if options.clip_norm else []


def _factory(name: str) -> Callable[..., optax.GradientTransformation]:
    if name in registered:
        return registered[name]
    return getattr(optax, name, None) or getattr(optax.contrib, name)


def _keywords(options: ConfigDict, factory: Callable[..., Any]) -> dict[str, Any]:
    """The options of a factory, with the mask of weight decay where it takes one."""
    for field in _FIELDS_OF_BY_FIELDS:
        if options[field] != fields()[f"optimizer.{field}"].default:
            raise UserError(
                f"--config.optimizer.{field}={options[field]}: belongs to "
                f"{', '.join(BY_FIELDS)}; for {options.name} set "
                f"--config.optimizer.options='{field}={options[field]}'"
            )
    keywords = parse_options(options.options)
    parameters = inspect.signature(factory).parameters
    known = [name for name in parameters if name != "learning_rate" and name not in _MASKS]
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    for name in keywords:
        if name not in known and not takes_any:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            guess = f"did you mean {close[0]}?" if close else f"it has {', '.join(known)}"
            raise UserError(
                f"--config.optimizer.options={options.options}: {options.name} has no option "
                f"{name}; {guess}"
            )
    for name in _MASKS:
        if name in parameters:
            keywords[name] = decays(options.decay_mask)
    return keywords


def parse_options(text: str) -> dict[str, Any]:
    """``"b1=0.95, nesterov=True"`` as a dictionary of Python literals; runs no code.

    Raises:
      UserError: anything but names with literals.
    """
    where = f"--config.optimizer.options={text[:200]}"
    if len(text) > _MAX_OPTIONS:
        raise UserError(f"{where}…: longer than {_MAX_OPTIONS:,} characters")
    try:
        call = ast.parse(f"options({text})", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise ValueError
        values: dict[str, Any] = {}
        for keyword in call.keywords:
            if keyword.arg is None:
                raise ValueError
            values[keyword.arg] = ast.literal_eval(keyword.value)
        return values
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise UserError(
            f"{where}: must read NAME=VALUE, …, as in b1=0.95, nesterov=True"
        ) from error


def _schedule_free_states(state: Any) -> list[Any]:
    kind = optax.contrib.ScheduleFreeState
    leaves = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, kind))
    return [leaf for leaf in leaves if isinstance(leaf, kind)]


def _is_schedule_free(init: Callable[[Any], Any], params: Any) -> bool:
    return bool(_schedule_free_states(jax.eval_shape(init, params)))


def _evaluation_params(state: Any, params: Any) -> Any:
    """The evaluated parameters of a schedule-free optimizer (Defazio et al. 2024)."""
    return optax.contrib.schedule_free_eval_params(_schedule_free_states(state)[0], params)


def decays(expression: str) -> Callable[[Any], Any]:
    """A mask function: true for the parameters whose path matches the regular expression."""
    pattern = re.compile(expression)

    def mask(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: pattern.search(path_name(path)) is not None, params
        )

    return mask


def average_decay(step: Int[Array, ""], decay: float) -> Float[Array, ""]:
    """Decay of the moving averages at a step (counted from 0): ``min(decay, (1 + t) / (10 + t))``.

    The average of the first steps forgets the initial values quickly, as in TensorFlow's
    ``ExponentialMovingAverage(num_updates=…)``; with a constant decay of 0.999 they would still
    have a weight of 81 % after 210 steps.
    """
    now = step.astype(jnp.float32)
    return jnp.minimum(jnp.float32(decay), (1 + now) / (10 + now))


def mean_decay(step: Int[Array, ""], start: Float[Array, ""]) -> Float[Array, ""]:
    """Decay that makes a moving average the plain mean of the parameters from `start` steps on.

    Stochastic weight averaging (Izmailov et al. 2018) over every step in place of every epoch.
    Before `start`, and at it, the average is the parameters themselves.

    Args:
      step: counted from 0; the parameters after it are averaged.
      start: number of steps done after which the first parameters count.
    """
    earlier = jnp.maximum(step.astype(jnp.float32) + 1 - start, 0)  # that are in the mean already
    return earlier / (earlier + 1)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How the learning rate changes after the warm-up; see the section ``optimizer``."""

    name: str = "constant"
    final: float = 0.0
    step_factor: float = 0.1


def learning_rate(
    step: Int[Array, ""],
    schedule: Schedule,
    *,
    peak: Float[Array, ""],
    total_steps: Float[Array, ""],
    warmup_steps: Float[Array, ""],
    step_every: Float[Array, ""],
) -> Float[Array, ""]:
    """Learning rate of a step (counted from 0).

    A linear warm-up, ``peak * (step + 1) / warmup_steps``, then ``constant``; ``cosine`` from the
    peak to ``final * peak`` at the last step (Loshchilov & Hutter 2017, equation 5, one cycle); or
    ``step``, multiplied by ``step_factor`` every `step_every` steps.
    """
    now = step.astype(jnp.float32)
    if schedule.name == "cosine":
        length = jnp.maximum(total_steps - warmup_steps, 1.0)
        progress = jnp.clip((now - warmup_steps) / length, 0.0, 1.0)
        factor = schedule.final + (1 - schedule.final) * 0.5 * (1 + jnp.cos(jnp.pi * progress))
    elif schedule.name == "step":
        factor = schedule.step_factor ** jnp.floor(now / step_every)
    else:
        factor = jnp.float32(1.0)
    warm = jnp.minimum((now + 1) / jnp.maximum(warmup_steps, 1.0), 1.0)
    return peak * warm * factor
