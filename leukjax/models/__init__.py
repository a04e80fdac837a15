"""Classifiers of images: Flax modules that know no config, no data and no optimiser.

``module.apply({"params", "batch_stats"}, images, train=bool)`` takes normalised images
float[n, h, w, 3] and gives logits float32[n, classes]. Intermediate results can be asked for by
name in the collection ``intermediates``: ``feature_map``, ``pooled``, ``logits``, and of
transformers ``attention``. In a collection ``perturbations`` a caller may hand in what is added to
``feature_map`` and to each block's ``attn/attention``, to have gradients by them.
"""

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


def create(name: str, classes: int, *, dtype: DTypeLike = jnp.float32, **options: Any) -> nn.Module:
    """A model by name.

    Args:
      name: ``cnn``, ``resnet``, ``hybrid_vit`` or ``bit``.
      classes: number of logits, at least 2.
      dtype: of convolutions and matrix products, float32 or bfloat16.
      options: fields of the model; a family leaves out those of the others.

    Raises:
      UserError: a value that no model of this family can take.
    """
    if name not in FAMILIES:
        raise UserError(f"--config.model.name={name}: no such model; one of {', '.join(FAMILIES)}")
    if classes < 2:
        raise UserError(f"classes: {classes}; a classifier needs at least 2 in the data")
    for field, value in options.items():
        _check(field, value)
    family = FAMILIES[name]
    fields = {field: value for field, value in options.items() if field in _fields(family)}
    return family(classes=classes, dtype=dtype, **fields)


def _fields(family: type[nn.Module]) -> set[str]:
    return set(family.__dataclass_fields__) - {"parent", "name", "classes", "dtype"}


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
