"""Names of optimizers: those of a config's fields, those of optax, and registered ones.

Apart from `optimizers`, because checking a config must not import optax and JAX.
"""

import functools
from collections.abc import Callable
from typing import Any

# Their hyperparameters are config fields.
BY_FIELDS = ("adam", "adamw", "sgd")
# Factories of optax and optax.contrib; ``optimizer.options`` holds their hyperparameters.
OF_OPTAX = (
    *("adabelief", "adafactor", "adagrad", "adamax", "adamaxw", "adan", "ademamix", "adopt"),
    *("amsgrad", "lamb", "lars", "lion", "muon", "nadam", "nadamw", "novograd", "radam", "rmsprop"),
    *("schedule_free_adamw", "schedule_free_sgd", "signum", "yogi"),
)
# What a config records of an optimizer that was given in Python.
CUSTOM = "custom"

registered: dict[str, Callable[..., Any]] = {}


def register_optimizer(name: str, factory: Callable[..., Any] | None = None) -> Any:
    """Makes an optimizer available as ``optimizer.name``.

    Args:
      name: a new name.
      factory: ``factory(learning_rate, **options)`` returns an optax transformation; the learning
        rate is a traced scalar, the options are those of ``optimizer.options``. Without it, the
        function is a decorator.

    Raises:
      TypeError: the factory is no function.
      ValueError: the name is taken, or no identifier.
    """
    if factory is None:
        return functools.partial(register_optimizer, name)
    if not callable(factory):
        raise TypeError(
            f"factory: expected a function of learning_rate, got {type(factory).__name__}"
        )
    if not name.isidentifier():
        raise ValueError(f"optimizer {name!r}: the name must be an identifier")
    old = registered.get(name)
    # The same code may run twice: a cell of a notebook, a reloaded module.
    if name in names() and (old is None or _origin(old) != _origin(factory)):
        raise ValueError(f"optimizer {name!r} exists already")
    registered[name] = factory
    return factory


def _origin(factory: Callable[..., Any]) -> tuple[str, str]:
    function = getattr(factory, "func", factory)  # of a functools.partial
    return function.__module__, function.__qualname__


def names() -> tuple[str, ...]:
    """Returns all values of ``optimizer.name``."""
    return (*BY_FIELDS, *OF_OPTAX, *registered, CUSTOM)
