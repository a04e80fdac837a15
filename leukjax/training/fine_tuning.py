"""Fine-tuning: frozen parameters, and learning rates by depth.

Each parameter has a factor of the learning rate, 0 if it is frozen. Factors are compiled into the
step: without fine-tuning they cost nothing, and other factors compile another step.
"""

import dataclasses
import re
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from leukjax.errors import UserError
from leukjax.models.summary import layer_groups
from leukjax.sharding import path_name


@dataclasses.dataclass(frozen=True)
class FineTuning:
    """See the fields of the same names in the section ``optimizer`` of configs/default.py."""

    freeze: str = ""
    freeze_stages: int = 0
    layer_decay: float = 1.0
    head_rate: float = 1.0

    @classmethod
    def of(cls, options: ConfigDict) -> "FineTuning":
        """From ``config.optimizer``."""
        return cls(**{field.name: options[field.name] for field in dataclasses.fields(cls)})

    def factors(self, params: Any) -> Any:
        """A tree like `params` of floats: the factor of each parameter's learning rate.

        A stage k stages before the head has ``layer_decay ** k`` (Clark et al. 2020, section
        3.2), the head itself `head_rate`.
        """
        stages = layer_groups(_paths(params))
        frozen = self._frozen(stages)
        head = max(stages.values())

        def factor(path: Any, _: Any) -> float:
            name = path_name(path)
            if name in frozen:
                return 0.0
            if stages[name] == head:
                return self.head_rate
            return self.layer_decay ** (head - stages[name])

        return jax.tree_util.tree_map_with_path(factor, params)

    def _frozen(self, stages: dict[str, int]) -> set[str]:
        """Paths of the frozen parameters, given the stage of each."""
        count = max(stages.values()) if self.freeze_stages < 0 else self.freeze_stages
        frozen = {path for path, stage in stages.items() if stage < count}
        return frozen | (set(_matching(self.freeze, list(stages))) if self.freeze else set())

    @property
    def freezes(self) -> bool:
        """Whether anything may be frozen."""
        return bool(self.freeze or self.freeze_stages)

    def stop_frozen(self, params: Any) -> Any:
        """The same values; no gradient is computed for a frozen parameter."""
        if not self.freezes:
            return params
        return jax.tree.map(
            lambda x, factor: x if factor else jax.lax.stop_gradient(x),
            params,
            self.factors(params),
        )

    def keep_frozen(self, new: Any, params: Any) -> Any:
        """A tree like `params` (or an empty one) with the frozen leaves of `params` in it.

        Moving averages of frozen parameters are then free of rounding, and an optimizer that knows
        nothing of freezing (weight decay) leaves them as they are.
        """
        if not self.freezes or not new:
            return new
        return jax.tree.map(
            lambda changed, x, factor: changed if factor else x,
            new,
            params,
            self.factors(params),
        )

    def wrap(self, transform: optax.GradientTransformation) -> optax.GradientTransformation:
        """An optimizer that keeps no state for frozen parameters and scales the others' updates.

        The gradient of a frozen parameter is 0 (`stop_frozen`) and is not changed.
        """
        if self.freezes:
            transform = optax.masked(
                transform, lambda params: jax.tree.map(bool, self.factors(params))
            )
        if self.layer_decay == self.head_rate == 1:
            return transform

        def scale(updates: Any, params: Any = None) -> Any:
            del params
            return jax.tree.map(lambda u, factor: factor * u, updates, self.factors(updates))

        return optax.chain(transform, optax.stateless(scale))

    def check(self, params: Any) -> str:
        """One line for the log on what is frozen; "" if nothing is.

        Args:
          params: of the model, or their shapes.

        Raises:
          UserError: an expression that matches nothing, or no trainable parameter.
        """
        paths = _paths(params)
        if self.freeze and not _matching(self.freeze, paths):
            raise UserError(
                f"--config.optimizer.freeze={self.freeze}: matches no parameter; paths look like "
                f"{paths[0]} and {paths[-1]}"
            )
        sizes = [leaf.size for leaf in jax.tree.leaves(params)]
        factors = jax.tree.leaves(self.factors(params))
        learning = sum(size for size, factor in zip(sizes, factors, strict=True) if factor)
        if not learning:
            field = "freeze" if self.freeze else "freeze_stages"
            raise UserError(
                f"--config.optimizer.{field}={getattr(self, field)}: freezes every parameter; "
                "keep at least the head trainable"
            )
        if learning == sum(sizes):
            return ""
        return f"{learning:,} of {sum(sizes):,} parameters are trained, the others are frozen"


def _matching(expression: str, paths: list[str]) -> list[str]:
    pattern = re.compile(expression)
    return [path for path in paths if pattern.search(path)]


def _paths(params: Any) -> list[str]:
    return [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
