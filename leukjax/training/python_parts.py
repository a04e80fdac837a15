"""What users give to a Trainer in Python: checked early, and recognised when a run is resumed.

A config is compared field by field at resume; an optimizer, a loss, an augmentation or a model of
one's own cannot be. So each is tried on small fixed inputs, and a digest of the rounded results is
recorded: another learning rate, another loss or another width gives another digest.
"""

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from leukjax.images.augment import Augment
from leukjax.training.optimizers import Optimizer

_PLAIN = (str, int, float, bool, type(None))


def check_model(model: Any, image_size: int, batch_size: int) -> int:
    """Checks that a model can be trained, and returns its number of classes.

    Raises:
      TypeError: it is no linen module, or takes other arguments.
      ValueError: it does not return logits [b, c] with at least two classes, or needs another rng
        than ``dropout`` or another collection than ``batch_stats``.
    """
    if isinstance(model, type) and issubclass(model, nn.Module):
        raise TypeError(f"model: got the class {model.__name__}; give an instance of it")
    if not isinstance(model, nn.Module):
        hint = f"; did you mean leukjax.create_model({model!r}, …)?" if type(model) is str else ""
        raise TypeError(f"model: expected a flax linen module, got {type(model).__name__}{hint}")
    images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), "float32")
    try:
        logits, variables = jax.eval_shape(
            lambda x: model.init_with_output(jax.random.key(0), x, train=False), images
        )
    except TypeError as error:
        if "'train'" not in str(error):
            raise
        raise TypeError(
            f"model: leukjax calls it as model(images, train=True or False), and "
            f"{type(model).__name__}.__call__ takes no 'train'"
        ) from error
    shape = getattr(logits, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != 1 or shape[1] < 2:
        raise ValueError(f"model: must return logits [b, classes], and returns {shape} for b=1")
    if not type(model).__module__.startswith("leukjax.models."):
        batch = jax.ShapeDtypeStruct((batch_size, *images.shape[1:]), images.dtype)
        _check_variables(model, variables, batch)
    return int(shape[1])


def _check_variables(model: nn.Module, variables: Any, images: jax.ShapeDtypeStruct) -> None:
    """Traces a training step of a model with the rngs and collections that leukjax gives it."""
    kept = {name: tree for name, tree in variables.items() if name in ("params", "batch_stats")}
    try:
        jax.eval_shape(
            lambda held, x: model.apply(
                held,
                x,
                train=True,
                rngs={"dropout": jax.random.key(0)},
                mutable=["batch_stats"],
            ),
            kept,
            images,
        )
    except flax.errors.FlaxError as error:
        others = sorted(set(variables) - set(kept))
        needs = f"needs the collection {others[0]!r}" if others else _first_line(error)
        raise ValueError(
            "model: only the rng 'dropout' and the collection 'batch_stats' are supported in "
            f"training; {type(model).__name__} {needs}"
        ) from error


def check_arguments(
    augment: Any, metrics: Any, callbacks: Any, built_in_scores: Sequence[str]
) -> None:
    """Checks the types of arguments that would fail far from their cause.

    Raises:
      TypeError: an argument of another type, or a function of other arguments.
      ValueError: a metric with the name of a built-in score.
    """
    if not (augment is None or callable(augment) or isinstance(augment, Augment)):
        raise TypeError("augment: expected leukjax.Augment(…) or a function")
    if not (metrics is None or isinstance(metrics, Mapping)):
        raise TypeError("metrics: expected a dictionary of name and function")
    for name, metric in (metrics or {}).items():
        if not callable(metric):
            raise TypeError(f"metrics: {name!r} is not a function")
        if name in built_in_scores:
            raise ValueError(f"metrics: {name!r} is the name of a built-in score; rename it")
        _check_call(f"metrics: {name!r}", metric, "labels int[n]", "probabilities float32[n, c]")
    if callable(callbacks) or not all(map(callable, callbacks)):
        raise TypeError("callbacks: expected a list of functions")
    for number, callback in enumerate(callbacks):
        _check_call(f"callbacks: number {number}", callback, "an lj.Event")


def _check_call(what: str, function: Any, *arguments: str) -> None:
    """Raises TypeError if a function cannot be called with these arguments, by position."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some built-in functions have none
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise TypeError(
            f"{what} is called with {', '.join(arguments)}, and its arguments are {signature}"
        ) from error


def check_functions(python: Mapping[str, Any], num_classes: int, image_size: int) -> None:
    """Checks the arguments, shapes and dtypes of a loss and an augmentation; computes nothing.

    Raises:
      TypeError: a function that fails when it is called.
      ValueError: another shape or dtype of its result.
    """
    size = num_classes + 2  # no other axis is as long, so that nothing broadcasts by chance
    if callable(python.get("loss")):
        logits, labels = jnp.zeros((size, num_classes)), jnp.zeros(size, jnp.int32)
        call = "logits float[b, c] and labels int[b], which are class indices"
        values = _returned("loss", call, python["loss"], logits, labels)
        if not _is_float(values, (size,)):
            raise ValueError(
                f"loss: must return one value per image, float[b]; for b={size} it returns "
                f"{_form(values)} (leukjax averages over the batch)"
            )
    if callable(python.get("augment")):
        images = jnp.zeros((4, image_size, image_size, 3))
        call = "a key, images float32[b, s, s, 3] and positions int32[b]"
        key, positions = jax.random.key(0), jnp.arange(4)
        views = _returned("augment", call, python["augment"], key, images, positions)
        if not _is_float(views, images.shape):
            raise ValueError(
                "augment: must return float images in [0, 1] of the shape that it is given, "
                f"{_form(images)}; it returns {_form(views)}"
            )


def _returned(argument: str, call: str, function: Any, *values: Any) -> Any:
    """The shapes and dtypes that a function returns."""
    try:
        return jax.eval_shape(function, *values)
    except Exception as error:  # whatever the user's function raises
        raise TypeError(
            f"{argument}: is called with {call}, and fails with {_first_line(error)}"
        ) from error


def _is_float(value: Any, shape: tuple[int, ...]) -> bool:
    if not hasattr(value, "dtype"):
        return False
    return bool(jnp.issubdtype(value.dtype, jnp.floating)) and value.shape == shape


def _form(value: Any) -> str:
    """``float32[4, 2]``, or the type of what is no array."""
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{value.dtype}{list(value.shape)}"
    return type(value).__name__


def _first_line(error: Exception) -> str:
    line = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {line[:200]}"


def check_batch(
    batch: Any, image_size: int, num_classes: int, devices: int, *, name: str, labels: bool = True
) -> None:
    """Checks a batch that is given in Python; fields that are not needed may have any value.

    Raises:
      TypeError: no dictionary, a missing field, or another dtype.
      ValueError: another shape, a label that is no class, or a length that `devices` do not divide.
    """
    needed = ("image", "label") if labels else ("image",)
    if not isinstance(batch, Mapping) or any(field not in batch for field in needed):
        has = f", and has {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else ""
        raise TypeError(f"{name}: must be a dictionary with the fields {', '.join(needed)}{has}")
    image = batch["image"]
    if image.dtype != np.uint8:
        raise TypeError(
            f"{name}: image is {image.dtype}; expected uint8 in 0 to 255: (255 * x).astype('uint8')"
        )
    expected = (image.shape[0], image_size, image_size, 3)
    if image.shape != expected:
        raise ValueError(f"{name}: image is {image.shape}; expected {expected} (image_size)")
    if len(image) % devices:
        raise ValueError(
            f"{name}: has {len(image)} images, not a multiple of the {devices} devices of the "
            "mesh's data axis; change the batch size"
        )
    if not labels:
        return
    label = batch["label"]
    if not np.issubdtype(label.dtype, np.integer) or label.shape != (image.shape[0],):
        raise TypeError(
            f"{name}: label is {label.dtype}{list(label.shape)}; expected int[{image.shape[0]}]"
        )
    if isinstance(label, np.ndarray) and len(label):
        low, high = int(label.min()), int(label.max())
        if low < 0 or high >= num_classes:
            raise ValueError(f"{name}: labels are in {low}..{high}; expected 0..{num_classes - 1}")


def digests(
    python: Mapping[str, Any], model: nn.Module | None, num_classes: int, image_size: int
) -> dict[str, str]:
    """Returns a digest of everything that was given in Python.

    Args:
      python: fields of `StepOptions`.
      model: given if its class is not registered, so that a config does not describe it.
      num_classes: of the model.
      image_size: pixels per side.
    """
    result: dict[str, str] = {}
    if "optimizer" in python:
        result["optimizer"] = _digest(_try_optimizer(python["optimizer"]))
    if callable(python.get("loss")):
        logits = jnp.linspace(-2.0, 3.0, 6 * num_classes).reshape(6, num_classes)
        result["loss"] = _digest(python["loss"](logits, jnp.arange(6) % num_classes))
    if callable(python.get("augment")):
        shape = (2, image_size, image_size, 3)
        images = jnp.linspace(0.0, 1.0, int(np.prod(shape))).reshape(shape)
        views = python["augment"](jax.random.key(1), images, jnp.arange(2))
        result["augment"] = _digest([views.mean((1, 2)), views.std((1, 2)), views[:, ::7, ::7]])
    if model is not None:
        fields = {name: getattr(model, name) for name in type(model).__dataclass_fields__}
        plain = {name: value for name, value in fields.items() if _is_plain(value)}
        plain = {k: v for k, v in sorted(plain.items()) if k not in ("parent", "name")}
        result["model"] = _hash(f"{type(model).__qualname__} {plain}")
    return result


def _try_optimizer(optimizer: Optimizer) -> Any:
    """Updates of a few steps on small parameters; the error if it needs those of its model."""
    params = {"kernel": jnp.linspace(-1, 1, 6).reshape(2, 3), "bias": jnp.linspace(0, 1, 3)}
    try:
        state, seen = optimizer.init(params), []
        for step in range(3):
            grads = jax.tree.map(lambda p: (step + 1) * p + 0.1, params)  # noqa: B023
            updates, state = optimizer.update(grads, state, params, jnp.float32(1))
            params = jax.tree.map(jnp.add, params, updates)
            seen.append(updates)
        return seen
    except Exception as error:  # labels by the names of the model's own parameters
        return type(error).__name__


def _digest(values: Any) -> str:
    if isinstance(values, str):
        return _hash(values)
    # Three digits: the last bits differ between machines.
    numbers = np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(values)])
    return _hash(" ".join(f"{number:.3g}" for number in numbers + 0.0))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN)
