"""A model of your own, for the API and for every command.

python -m leukjax.main --import=examples/custom_model.py \\
    --config=configs/cnn.py --config.model.name=patch_mixer --config.model.branches=4

A model is a Flax module ``(images float32[b, s, s, 3], *, train) -> logits``. Fields that leukjax's
configs do not have are declared where it is registered.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

import leukjax as lj
from leukjax.fields import Whole


@lj.register_model("patch_mixer", fields={"branches": Whole(2, (1, 16), "number of branches")})
class PatchMixer(nn.Module):
    """Patches, parallel branches of pointwise and depthwise convolutions, a linear head."""

    num_classes: int
    width: int = 32
    branches: int = 2
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Logits float32[b, num_classes]."""
        x = nn.Conv(self.width, (4, 4), (4, 4), dtype=self.dtype, name="patches")(images)
        branches = [
            nn.gelu(
                nn.Conv(
                    self.width,
                    (3 + 2 * index, 3 + 2 * index),
                    feature_group_count=self.width,
                    dtype=self.dtype,
                    name=f"branch{index}",
                )(x)
            )
            for index in range(self.branches)
        ]
        x = nn.BatchNorm(not train, dtype=self.dtype, name="norm")(x + sum(branches))
        self.sow("intermediates", "feature_map", x)  # for leukjax.explain: Grad-CAM
        pooled = jnp.mean(nn.relu(x), axis=(1, 2))
        self.sow("intermediates", "pooled", pooled)  # for features and out-of-distribution scores
        return nn.Dense(self.num_classes, name="head")(pooled.astype(jnp.float32))
