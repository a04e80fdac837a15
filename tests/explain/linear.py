"""Networks whose maps are known in closed form."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from leukjax.explain.network import Network


class Linear(nn.Module):
    """Logits are linear in the pixels."""

    @nn.compact
    def __call__(self, images, *, train):
        return nn.Dense(3, name="head")(images.reshape(len(images), -1))


class Pooled(nn.Module):
    """A 1x1 convolution, a ReLU, the mean over positions, and a linear head."""

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.relu(nn.Conv(5, (1, 1), name="conv")(images))
        if self.has_variable("perturbations", "feature_map"):
            x = x + self.get_variable("perturbations", "feature_map")
        self.sow("intermediates", "feature_map", x)
        return nn.Dense(3, name="head")(x.mean((1, 2)))


def network(module: nn.Module, size: int, seed: int = 0) -> Network:
    variables = module.init(jax.random.key(seed), jnp.zeros((1, size, size, 3)), train=False)
    return Network(module, {"params": variables["params"]})
