"""The plain convolutional network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from leukjax.errors import UserError
from leukjax.models.registry import create_model


def _init(module, size, count=2):
    images = np.random.default_rng(0).normal(size=(count, size, size, 3)).astype(np.float32)
    return images, jax.jit(lambda: module.init(jax.random.key(0), images, train=False))()


def test_images_too_small_to_pool_are_refused():
    with pytest.raises(UserError, match=r"image_size=15: too small"):
        _init(create_model("cnn", 2, width=4), 15)
    _init(create_model("cnn", 2, width=4), 16)


def test_images_of_another_size_than_in_training_are_refused():
    module = create_model("cnn", 2, width=4)
    _, variables = _init(module, 32)
    with pytest.raises(UserError, match=r"image_size=48: gives 288 inputs .* which has 128"):
        module.apply(variables, jnp.zeros((1, 48, 48, 3)), train=False)


def test_it_learns_to_tell_two_textures():
    module = create_model("cnn", 2, width=4)
    images, variables = _init(module, 16, 16)
    labels = np.arange(16) % 2
    images[labels == 1, ::2] = 0

    @jax.jit
    def step(params):
        def loss(params):
            logits, _ = module.apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
            )
            return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(16), labels])

        value, gradient = jax.value_and_grad(loss)(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient), value

    params = variables["params"]
    values = []
    for _ in range(20):
        params, value = step(params)
        values.append(float(value))
    assert values[-1] < 0.1 < values[0]
