"""Compiled functions of a training, shared by all trainings that differ in values only.

Fold, seed, learning rate and lengths are values in the state (`state.Settings`), so the runs of a
cross-validation need one compilation for each config. Between processes JAX's compilation cache
does the same for what takes longer than half a second.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding

from leukjax import sharding
from leukjax.training import state as states
from leukjax.training.step import EvalStep, StepOptions, TrainStep, make_eval_step, make_train_step


@dataclasses.dataclass(frozen=True)
class StepSpec:
    """Everything that is compiled into the functions of a training.

    Attributes:
      module: the model.
      num_classes: its number of logits.
      image_size: pixels per side.
      options: of the training step.
      mesh: the devices.
      rules: how the state is sharded over them.
      image_sharding: of all records on the devices, if they are there.
      steps_per_call: steps of a long dispatch.
      donate: training steps reuse the buffers of their state.
    """

    module: nn.Module
    num_classes: int
    image_size: int
    options: StepOptions
    mesh: Mesh
    rules: sharding.Rules = ()
    image_sharding: NamedSharding | None = None
    steps_per_call: int = 1
    donate: bool = True


@dataclasses.dataclass(frozen=True)
class CompiledSteps:
    """The jitted functions of a training; each compiles when it is first called.

    Attributes:
      init: settings -> a fresh state.
      form: shapes, dtypes and shardings of the state.
      train_steps: by the number of steps of a dispatch.
      eval_step: (state, batch) -> logits.
    """

    init: Callable[[states.Settings], states.TrainState]
    form: states.TrainState
    train_steps: dict[int, TrainStep]
    eval_step: EvalStep


def compiled_steps(spec: StepSpec) -> CompiledSteps:
    """The functions of a training; the same objects for an equal spec, among the last four."""
    try:
        hash(spec)
    except TypeError:  # a model with a list among its fields
        return _make(spec)
    return _cached(spec)


@functools.lru_cache(maxsize=4)
def _cached(spec: StepSpec) -> CompiledSteps:
    return _make(spec)


def _make(spec: StepSpec) -> CompiledSteps:
    init, form = states.make_init(
        spec.module,
        spec.options.optimizer.init,
        settings=states.settings_form(spec.num_classes, recipe=spec.options.recipe),
        image_size=spec.image_size,
        ema=spec.options.keeps_evaluation_params,
        lora=spec.options.lora,
        mesh=spec.mesh,
        rules=spec.rules,
    )
    shardings = jax.tree.map(lambda leaf: leaf.sharding, form)
    train_steps = {
        steps: make_train_step(
            spec.module,
            spec.options,
            spec.mesh,
            shardings,
            image_sharding=spec.image_sharding,
            steps=steps,
            donate=spec.donate,
        )
        for steps in {1, spec.steps_per_call}
    }
    eval_step = make_eval_step(
        spec.module,
        spec.mesh,
        shardings,
        image_sharding=spec.image_sharding,
        stain=spec.options.stain,
    )
    return CompiledSteps(init, form, train_steps, eval_step)
