"""Classifiers of images: Flax modules that know no config, no data and no optimiser.

``module.apply({"params", "batch_stats"}, images, train=bool)`` takes normalised images
float[n, h, w, 3] and gives logits float32[n, classes]. Intermediate results can be asked for by
name in the collection ``intermediates``: ``feature_map``, ``pooled``, ``logits``, and of
transformers ``attention``. In a collection ``perturbations`` a caller may hand in what is added to
``feature_map`` and to each block's ``attn/attention``, to have gradients by them.
"""

import difflib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import DTypeLike

from leukjax.errors import UserError
from leukjax.models.bit import BiT
from leukjax.models.cnn import CNN
from leukjax.models.hybrid_vit import VARIANTS, HybridViT
from leukjax.models.norms import NORMS
from leukjax.models.resnet import STAGES, ResNet

FAMILIES: dict[str, type[nn.Module]] = {
    "cnn": CNN,
    "resnet": ResNet,
    "hybrid_vit": HybridViT,
    "bit": BiT,
}
_NOT_OPTIONS = {"parent", "name", "classes", "dtype"}


def create(name: str, classes: int, *, dtype: DTypeLike = jnp.float32, **options: Any) -> nn.Module:
    """A model by name.

    Args:
      name: ``cnn``, ``resnet``, ``hybrid_vit`` or ``bit``.
      classes: number of logits, at least 2.
      dtype: of convolutions and matrix products, float32 or bfloat16.
      options: fields of the model; `select` finds them in a section that holds those of all.

    Raises:
      UserError: a value that no model of this family can take.
      TypeError: an option that this family does not have.
    """
    if name not in FAMILIES:
        raise UserError(f"--config.model.name={name}: no such model; one of {', '.join(FAMILIES)}")
    if classes < 2:
        raise UserError(f"classes: {classes}; a classifier needs at least 2 in the data")
    known = _fields(name)
    for field, value in options.items():
        if field not in known:
            close = difflib.get_close_matches(field, known, n=1)
            guess = f"; did you mean {close[0]!r}?" if close else ""
            raise TypeError(
                f"model {name!r} has no option {field!r}{guess} (options: {', '.join(known)})"
            )
        _check(field, value)
    return FAMILIES[name](classes=classes, dtype=dtype, **options)


def select(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that `create` takes for a model, of those of all models (`config.model`)."""
    return {field: options[field] for field in _fields(name) if field in options}


def _fields(name: str) -> tuple[str, ...]:
    """Names of a model's options, sorted; none for a model that does not exist."""
    if name not in FAMILIES:
        return ()
    return tuple(sorted({*FAMILIES[name].__dataclass_fields__} - _NOT_OPTIONS))


def _check(field: str, value: Any) -> None:
    allowed: dict[str, tuple[Any, ...]] = {
        "depth": tuple(STAGES),
        "variant": tuple(VARIANTS),
        "norm": NORMS,
        "zero_init": (True, False),
        "gelu_tanh": (True, False),
    }
    where = f"--config.model.{field}={value}"
    if field in allowed and value not in allowed[field]:
        choices = ", ".join(str(choice) for choice in allowed[field])
        raise UserError(f"{where}: not known; one of {choices}")
    if field == "width" and not value >= 1:
        raise UserError(f"{where}: a number of channels; give at least 1")
    if field == "norm_batch" and not value >= 0:
        raise UserError(f"{where}: a number of images; give 0 for the whole batch, or more")
    if field in ("dropout", "stochastic_depth") and not 0 <= value < 1:
        raise UserError(f"{where}: a probability; give 0 or more and less than 1")
