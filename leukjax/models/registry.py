"""The registry of models: `create_model`, `list_models`, `register_model`.

A model is a Flax module whose ``__call__(images, *, train)`` takes normalised images
float[n, h, w, 3] and returns logits float32[n, num_classes]. It is registered under a name with a
factory ``(num_classes, **options) -> module``, usually the class of the module. ``dtype`` (of
convolutions and matrix products) and ``remat`` are passed to factories that take them.

A config creates the model of ``model.name`` with those fields of its section ``model`` that the
factory takes.
"""

import difflib
import fnmatch
import functools
import importlib
import inspect
import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from leukjax import config as configs
from leukjax.errors import UserError
from leukjax.fields import Field

# Modules of leukjax.models that register a model of their own name and its presets. They are
# imported at first use: a config needs the names only, and importing JAX takes seconds.
_BUILT_IN = ("cnn", "resnet", "hybrid_vit", "bit", "vit")

# What a config records of a model whose class is not registered.
CUSTOM = "custom"

_factories: dict[str, Callable[..., Any]] = {}
_presets: set[str] = set()
_config_fields: dict[str, tuple[str, ...]] = {}  # that the registration of a model declared


def create_model(name: str, num_classes: int, *, dtype: Any = None, **options: Any) -> Any:
    """Returns a model by name.

    Args:
      name: one of `list_models`.
      num_classes: number of logits, at least 2.
      dtype: of convolutions and matrix products; None is the model's default, float32.
      **options: fields of the model, such as ``width`` or ``dropout``.

    Returns:
      A `flax.linen.Module`.

    Raises:
      ValueError: an unknown name, or a value that the model cannot have.
      TypeError: an option that the model does not have.
    """
    factory = _find(name)
    if isinstance(num_classes, bool) or not isinstance(num_classes, numbers.Integral):
        raise TypeError(f"num_classes: expected a whole number, got {num_classes!r}")
    if num_classes < 2:
        raise UserError(f"num_classes={num_classes}: a classifier needs at least 2 classes")
    if dtype is not None:
        _check_dtype(dtype)
        options["dtype"] = dtype
    known = option_names(name)
    for option in options:
        if option not in known and not _takes_any(factory):
            raise TypeError(
                f"model {name!r} has no option {option!r}{_did_you_mean(option, known)} "
                f"(options: {', '.join(known)})"
            )
    module = factory(num_classes=num_classes, **options)
    if not callable(getattr(module, "apply", None)):
        raise TypeError(f"model {name!r}: its factory returned {module!r}, not a Flax module")
    return module


def _check_dtype(dtype: Any) -> None:
    import jax.numpy as jnp

    try:
        is_floating = jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except TypeError:
        is_floating = False
    if not is_floating:
        raise TypeError(f"dtype: {dtype!r} is no floating dtype; give jnp.bfloat16 or jnp.float32")


def list_models(pattern: str = "*") -> list[str]:
    """Returns the sorted names of all models that match a pattern, as in ``"resnet*"``."""
    _import_built_in()
    return fnmatch.filter(sorted(_factories), pattern)


def register_model(
    name: str,
    factory: Callable[..., Any] | None = None,
    *,
    fields: Mapping[str, Field] | None = None,
) -> Any:
    """Registers a model, so that `create_model` and ``--config.model.name`` know it.

    May be used as a decorator::

        @register_model("my_model", fields={"branches": Whole(3, (1, 8), "number of branches")})
        class MyModel(nn.Module):
            num_classes: int
            branches: int = 3

    A config's value replaces the default of the class: an option with the name of a field that
    configs have already, as ``width``, gets that field's default, 64.

    Args:
      name: an identifier that no other model has.
      factory: takes ``num_classes`` and options, returns a module.
      fields: config fields of the section ``model`` that leukjax does not have.

    Returns:
      The factory.

    Raises:
      ValueError: the name is taken or no identifier, or a field exists already.
      TypeError: the factory does not take ``num_classes``, or one of the fields.
    """
    if factory is None:
        return functools.partial(register_model, name, fields=fields)
    if not callable(factory):
        raise TypeError(f"factory: expected a class or function, got {type(factory).__name__}")
    _check_name(name, factory)
    parameters = _parameters(factory)
    for parameter in ("num_classes", *(fields or {})):
        if parameter not in parameters and not _takes_any(factory):
            raise TypeError(f"model {name!r}: its factory takes no argument {parameter!r}")
    for field, rule in (fields or {}).items():
        configs.declare(f"model.{field}", rule)
    _factories[name] = factory
    _config_fields[name] = tuple(fields or ())
    return factory


def register_preset(name: str, model: str, **options: Any) -> None:
    """Registers a name for a model with some options set, for `create_model` only."""
    factory = _find(model)
    _check_name(name, factory)
    _factories[name] = functools.partial(factory, **options)
    _config_fields[name] = _config_fields[model]
    _presets.add(name)


def config_names() -> tuple[str, ...]:
    """Returns the values that ``model.name`` can have: all models, without presets."""
    registered = [name for name in _factories if name not in _presets]
    return tuple(dict.fromkeys([*_BUILT_IN, *registered, CUSTOM]))


def name_of(module: Any) -> str | None:
    """Returns the name that a module's class is registered under; None if it is not."""
    _import_built_in()
    for name, factory in _factories.items():
        if name not in _presets and factory is type(module):
            return name
    return None


def option_names(name: str) -> tuple[str, ...]:
    """Returns the sorted names of a model's options."""
    names = _parameters(_find(name)) | {*_config_fields[name]}
    return tuple(sorted(names - {"num_classes", "parent", "name"}))


def model_from_config(config: ConfigDict, num_classes: int, platform: str) -> Any:
    """Returns the model of a config.

    Args:
      config: of the run.
      num_classes: number of logits.
      platform: ``cpu``, ``gpu`` or ``tpu``; chooses the dtype, and the fused forms of
        ``model.fused``.

    Raises:
      ValueError: a value that the model cannot have.
    """
    from leukjax import runtime

    dtype = runtime.compute_dtype(config.compute_dtype, platform)
    if config.train.remat and "remat" not in option_names(config.model.name):
        raise UserError(f"--config.train.remat=True: {config.model.name} has no option remat")
    module = model_from_fields(config.model, num_classes, dtype=dtype, remat=config.train.remat)
    # Imported by name: it imports the models, which import this module.
    fused = importlib.import_module("leukjax.models.fused")
    return fused.apply(module, config.model.fused, platform, dtype)


def model_from_fields(fields: Mapping[str, Any], num_classes: int, **options: Any) -> Any:
    """Returns the model of a config's section ``model``.

    Args:
      fields: of the section; those of other models are ignored.
      num_classes: number of logits.
      **options: further options, such as ``dtype``, for models that have them.
    """
    name = fields["name"]
    return create_model(name, num_classes, **select_options(name, {**fields, **options}))


def select_options(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those fields that are options of a model and that its registration leaves open."""
    set_already = getattr(_find(name), "keywords", {})
    return {
        option: fields[option]
        for option in option_names(name)
        if option in fields and option not in set_already
    }


def describe(fields: Mapping[str, Any]) -> str:
    """Returns a model's name for readers, from a config's section ``model``.

    It is the attribute ``description`` of the module, or else the registered name.
    """
    try:
        return str(getattr(model_from_fields(fields, 2), "description", fields["name"]))
    except UserError:  # not registered
        return str(fields["name"])


def _find(name: str) -> Callable[..., Any]:
    if name not in _factories:
        _import_built_in()
    if name == CUSTOM:
        raise UserError(
            "the model was given in Python and has no name: pass it to leukjax.load(run, model=…), "
            "or register it before training and use --import"
        )
    if name not in _factories:
        guess = _did_you_mean(name, _factories)
        raise UserError(f"unknown model {name!r}{guess} (leukjax.list_models() lists all)")
    return _factories[name]


@functools.cache
def _import_built_in() -> None:
    for module in _BUILT_IN:
        importlib.import_module(f"leukjax.models.{module}")


def _check_name(name: str, factory: Callable[..., Any]) -> None:
    if not name.isidentifier():
        raise ValueError(f"model name {name!r}: must be an identifier, such as my_model")
    if not _is_built_in(factory):
        _import_built_in()
    old = _factories.get(name)
    # The same code may run twice: a cell of a notebook, a reloaded module.
    if old is not None and _origin(old) != _origin(factory):
        raise ValueError(f"model name {name!r}: another model has it")


def _origin(factory: Callable[..., Any]) -> tuple[str, str]:
    """Module and name of a class or function."""
    function = getattr(factory, "func", factory)  # of a functools.partial
    return function.__module__, function.__qualname__


def _is_built_in(factory: Callable[..., Any]) -> bool:
    is_class = not isinstance(factory, functools.partial)
    return is_class and factory.__module__.startswith("leukjax.models.")


def _parameters(factory: Callable[..., Any]) -> set[str]:
    """Names of the arguments that a factory takes by keyword."""
    parameters = inspect.signature(factory).parameters.values()
    return {
        parameter.name
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }


def _takes_any(factory: Callable[..., Any]) -> bool:
    """Whether a factory takes ``**options``."""
    parameters = inspect.signature(factory).parameters.values()
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
