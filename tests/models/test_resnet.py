"""ResNets: their structure and what each option promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from leukjax.models.registry import create_model


def _images(count=2, size=32):
    return np.random.default_rng(0).normal(size=(count, size, size, 3)).astype(np.float32)


def _small(**options):
    return create_model("resnet", 3, **{"depth": 18, "width": 8, **options})


def _init(module, images):
    return jax.jit(lambda: module.init(jax.random.key(0), images, train=False))()


def test_the_stride_of_a_bottleneck_sits_in_its_3x3_convolution():
    module = create_model("resnet", 2, depth=50)
    images = jnp.zeros((1, 64, 64, 3))
    _, state = jax.eval_shape(
        lambda: module.init_with_output(
            jax.random.key(0), images, train=False, capture_intermediates=True
        )
    )
    inside = state["intermediates"]["layer2_0"]
    assert inside["conv1"]["__call__"][0].shape[1] == 16
    assert inside["conv2"]["__call__"][0].shape[1] == 8


@pytest.mark.parametrize("bottleneck", [False, True])
def test_zero_init_makes_blocks_the_identity(bottleneck):
    module = _small(depth=50 if bottleneck else 18)
    images = _images()
    variables = _init(module, images)
    last = "norm3" if bottleneck else "norm2"
    params = variables["params"]
    assert all(not block[last]["scale"].any() for name, block in params.items() if "layer" in name)
    _, state = jax.jit(lambda v: module.apply(v, images, train=False, capture_intermediates=True))(
        variables
    )
    blocks = state["intermediates"]
    np.testing.assert_array_equal(blocks["layer1_1"]["__call__"], blocks["layer1_0"]["__call__"])
    ones = _init(_small(zero_init=False), images)["params"]
    assert ones["layer1_0"]["norm2"]["scale"].all()


@pytest.mark.parametrize("norm", ["batch", "group", "frozen"])
def test_every_norm_trains(norm):
    module = _small(norm=norm)
    images = _images(4)
    variables = _init(module, images)

    @jax.jit
    def step(variables):
        def loss(params):
            logits, updated = module.apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
            )
            return jnp.sum(logits[:2, 0] - logits[2:, 0]), updated

        return jax.grad(loss, has_aux=True)(variables["params"])

    gradient, updated = step(variables)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert np.abs(gradient["conv1"]["kernel"]).max() > 0
    if norm == "group":
        assert "batch_stats" not in variables
    else:
        moved = jax.tree.map(
            lambda a, b: bool((a != b).any()), variables["batch_stats"], updated["batch_stats"]
        )
        assert any(jax.tree.leaves(moved)) == (norm == "batch")


def test_dropout_and_stochastic_depth_act_in_training_only():
    images = _images(4)
    module = _small(dropout=0.5, stochastic_depth=0.5, zero_init=False)
    variables = _init(module, images)

    def run(key):
        apply = jax.jit(
            lambda key: module.apply(
                variables, images, train=True, rngs={"dropout": key}, mutable=["batch_stats"]
            )[0]
        )
        return np.asarray(apply(jax.random.key(key)))

    assert (run(0) == run(0)).all()
    assert (run(0) != run(1)).any()
    plain = _small(zero_init=False)
    evaluate = [jax.jit(lambda v, m=m: m.apply(v, images, train=False)) for m in (module, plain)]
    np.testing.assert_array_equal(evaluate[0](variables), evaluate[1](variables))
