"""The registry of data sets: by name from a config, shipped or registered.

Every module of this folder is a data set: its name is the value of `data.name`, and its function
``make(data)`` builds it from the `data` section of a config. Outside the package,
`register_dataset` does the same::

    @register_dataset("wells", fields={"data.plate": Text("", "wells: name of the plate")})
    def wells(data):
        return Wells(data.root, plate=data.plate)
"""

import difflib
import importlib
import pkgutil
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from leukjax import config
from leukjax.errors import UserError
from leukjax.fields import Field

if TYPE_CHECKING:  # they import OpenCV and Pillow, which the flags of a command do not need
    from ml_collections import ConfigDict

    from leukjax.data.dataset import Dataset
    from leukjax.data.records import Records

Factory = Callable[["ConfigDict"], "Dataset"]
_F = TypeVar("_F", bound=Callable[..., Any])

_SHIPPED = tuple(module.name for module in pkgutil.iter_modules(__path__))
_registered: dict[str, Factory] = {}

# What a config records of a data set that was given in Python and has no registered name.
CUSTOM = "custom"


def list_datasets() -> tuple[str, ...]:
    """Returns the names of all data sets, sorted."""
    return tuple(sorted({*_SHIPPED, *_registered}))


def config_names() -> tuple[str, ...]:
    """Returns the values that `data.name` can have: `CUSTOM` for a data set without a name."""
    return (*list_datasets(), CUSTOM)


def register_dataset(
    name: str, factory: _F | None = None, *, fields: Mapping[str, Field] | None = None
) -> Any:
    """Gives a data set a name, by which configs and commands know it.

    Also a decorator: ``@register_dataset("wells")``. Registering a name again replaces the
    factory, as when a cell of a notebook is run twice.

    Args:
      name: value of `data.name`; lower-case letters, digits and underscores.
      factory: called with the `data` section of a config; returns a `Dataset`.
      fields: config fields that the factory reads, as in ``{"data.plate": Text("", "…")}``.

    Returns:
      The factory; without one, a decorator.

    Raises:
      ValueError: the name is malformed or that of a shipped data set, or a field exists already.
      TypeError: the factory cannot be called.
    """
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise ValueError(f"data set {name!r}: use lower-case letters, digits and underscores")
    if name in _SHIPPED:
        raise ValueError(f"data set {name!r}: comes with leukjax; choose another name")
    if factory is None:
        return lambda function: register_dataset(name, function, fields=fields)
    if not callable(factory):
        raise TypeError(f"data set {name!r}: the factory must be callable, not {factory!r}")
    for field, rule in (fields or {}).items():
        config.declare(field, rule)
    _registered[name] = factory
    return factory


def make_dataset(data: "ConfigDict") -> "Dataset":
    """Returns the data set that the `data` section of a config describes; reads no image.

    Raises:
      UserError: an unknown name (the nearest one is named), or what the data set raises.
    """
    names, name = list_datasets(), data.name
    if name == CUSTOM:
        raise UserError(
            "the data set was given in Python and has no name: evaluate it in Python with "
            "leukjax.load(run).evaluate(dataset), or register it before training and use --import"
        )
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        guess = f"did you mean {close[0]!r}? " if close else ""
        raise UserError(f"data.name: unknown data set {name!r}; {guess}(known: {', '.join(names)})")
    if name in _registered:
        dataset = _make_registered(name, data)
    else:
        dataset = importlib.import_module(f"{__name__}.{name}").make(data)
    dataset.bad_images = data.bad_images
    return dataset


def _make_registered(name: str, data: "ConfigDict") -> "Dataset":
    try:
        return _registered[name](data)
    except (ValueError, TypeError, OSError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"data set {name!r}: {error}") from error


def prepare(data: "ConfigDict") -> "Records":
    """Returns the records of the data set that the `data` section of a config describes.

    Raises:
      UserError: as `make_dataset` and `Dataset.prepare`.
    """
    return make_dataset(data).prepare(
        data.image_size,
        crop=data.crop,
        denoise=data.denoise,
        cache_dir=data.cache_dir,
        threads=data.threads,
    )
