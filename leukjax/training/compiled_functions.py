"""Compiled programs, kept: runs that differ in values only share them within a process.

Fold, seed, learning rate and lengths are values in the state (`state.Settings`), so the runs of a
cross-validation need one compilation a config. Between processes the compilation cache of
`runtime.start` does the same for what takes longer than half a second.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from flax import linen as nn
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from leukjax import sharding
from leukjax.models.registry import model_from_config as make_module  # noqa: F401
from leukjax.training import optimizers as optimizer
from leukjax.training import state as states
from leukjax.training.step import EvalStep, StepOptions, TrainStep, make_eval_step, make_train_step

# Fields of `optimizer` that enter as values, or through `StepOptions`.
_NO_CODE = ("learning_rate", "warmup", "step_every", "schedule", "final", "step_factor")


@dataclasses.dataclass(frozen=True)
class Programs:
    """The jitted functions of a run; `train_steps` by the number of steps that a call does."""

    init: Callable[[states.Settings], states.TrainState]
    form: states.TrainState  # shapes, dtypes and shardings of the state
    train_steps: dict[int, TrainStep]
    eval_step: EvalStep


def programs(
    module: nn.Module,
    config: ConfigDict,
    options: StepOptions,
    settings: states.Settings,
    mesh: Mesh,
    pixels: NamedSharding | None = None,
) -> Programs:
    """The programs of a run, those of an earlier run where nothing but values differs.

    Args:
      module: the model.
      config: of the run; its optimiser, image size, average and rules of sharding are compiled in.
      options: what else is compiled in.
      settings: any of this form; the values do not matter.
      mesh: the devices.
      pixels: how all records lie on them, if they do.
    """
    code = {name: value for name, value in config.optimizer.items() if name not in _NO_CODE}
    key = _Key(
        module,
        tuple(sorted(code.items())),
        options,
        config.data.image_size,
        config.train.ema_decay > 0,
        mesh,
        sharding.rules(config.mesh),
        pixels,
        config.train.steps_per_call,
    )
    return _make(key, _Form(settings))


@dataclasses.dataclass(frozen=True)
class _Key:
    module: nn.Module
    optimizer: tuple[tuple[str, Any], ...]
    options: StepOptions
    image_size: int
    ema: bool
    mesh: Mesh
    rules: sharding.Rules
    pixels: NamedSharding | None
    steps_per_call: int


class _Form:
    """Settings of which only the form counts, and that follows from the module: all are equal."""

    def __init__(self, settings: states.Settings):
        self.settings = settings

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Form)

    def __hash__(self) -> int:
        return 0


@functools.lru_cache(maxsize=4)
def _make(key: _Key, form: _Form) -> Programs:
    transform = optimizer.make_transform(ConfigDict(dict(key.optimizer)))
    init, shardings = states.make_init(
        key.module,
        transform,
        form.settings,
        image_size=key.image_size,
        ema=key.ema,
        mesh=key.mesh,
        rules=key.rules,
    )
    train_steps = {
        steps: make_train_step(
            key.module,
            transform,
            key.options,
            key.mesh,
            shardings,
            pixels=key.pixels,
            steps=steps,
        )
        for steps in {1, key.steps_per_call}
    }
    eval_step = make_eval_step(key.module, key.mesh, shardings, pixels=key.pixels)
    form_of_state = states.form(init, form.settings, shardings)
    return Programs(init, form_of_state, train_steps, eval_step)
