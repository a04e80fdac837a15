"""The model of a config."""

import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from leukjax import models, runtime


def make_module(config: ConfigDict, classes: int, platform: str) -> nn.Module:
    """The model of a config in the form that is fast on a platform: cpu, gpu or tpu."""
    dtype = runtime.compute_dtype(config.compute_dtype, platform)
    options = {
        **config.model,
        "remat": config.train.remat,
        "fold": platform != "cpu" and dtype == jnp.bfloat16,
        "lean": platform in ("gpu", "cuda") and dtype == jnp.bfloat16,
    }
    name = config.model.name
    return models.create(name, classes, dtype=dtype, **models.select(name, options))
