"""The fused transformer block has the parameters and numbers of the plain one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from leukjax.models import fused
from leukjax.models.fused import transformer
from leukjax.models.hybrid_vit import VARIANTS, Variant
from leukjax.models.registry import create_model
from leukjax.models.transformer import TransformerBlock


def normal(seed, *shape, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def with_gradients(function, *arguments):
    @jax.jit
    def run(*arguments):
        y, pull = jax.vjp(function, *arguments)
        return y, pull(normal(9, *y.shape, dtype=y.dtype))

    return jax.tree.leaves(run(*arguments))


def assert_close(ours, theirs, tolerance=1e-5):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance * (1 + float(abs(other).max())))


def test_layer_norm_is_flaxs():
    x, scale, bias = normal(0, 12, 10) * 3 + 1, normal(1, 10), normal(2, 10)
    flax = nn.LayerNorm(epsilon=1e-6)
    theirs = lambda x, s, b: flax.apply({"params": {"scale": s, "bias": b}}, x)  # noqa: E731
    ours = functools.partial(transformer.layer_norm, epsilon=1e-6)
    assert_close(with_gradients(ours, x, scale, bias), with_gradients(theirs, x, scale, bias))


@pytest.mark.parametrize("tanh", [True, False])
def test_gelu_is_jaxs(tanh):
    x, bias = normal(0, 12, 10) * 2, normal(1, 10)
    theirs = lambda x, b: jax.nn.gelu(x + b, approximate=tanh)  # noqa: E731
    ours = functools.partial(transformer.biased_gelu, tanh=tanh)
    assert_close(with_gradients(ours, x, bias), with_gradients(theirs, x, bias))


@pytest.mark.parametrize("tokens", [5, 8, 10])
def test_attention_is_jaxs(tokens):
    qkv = normal(0, 3, tokens, 3 * 12)

    def theirs(qkv):
        query, key, value = qkv.reshape(3, tokens, 3, 2, 6).transpose(2, 0, 1, 3, 4)
        return jax.nn.dot_product_attention(query, key, value).reshape(3, tokens, 12)

    ours = functools.partial(transformer.attend, heads=2)
    assert_close(with_gradients(ours, qkv), with_gradients(theirs, qkv))


@pytest.fixture(params=[{}, {"mlp": "swiglu", "layer_scale": 0.5}], ids=["plain", "dinov2"])
def blocks(request):
    """A fused and a plain block."""
    return [
        block(2, 0.1, 0.3, True, jnp.float32, **request.param)
        for block in (transformer.FusedTransformerBlock, TransformerBlock)
    ]


def test_a_block_has_the_same_parameters(blocks):
    x = normal(0, 2, 5, 12)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    ours, theirs = (jax.jit(lambda b=b: b.init(keys, x, train=True))() for b in blocks)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_a_fused_block_trains_like_the_plain_one_and_drops_the_same(blocks):
    x = normal(0, 6, 5, 12)
    params = jax.jit(lambda: blocks[1].init(jax.random.key(0), x, train=False))()

    def run(block, params, x):
        return block.apply(params, x, train=True, rngs={"dropout": jax.random.key(4)})[0]

    ours, theirs = (with_gradients(functools.partial(run, b), params, x) for b in blocks)
    assert_close(ours, theirs, 2e-5)


@pytest.mark.slow
def test_a_fused_hybrid_in_bfloat16_is_as_accurate(monkeypatch):
    monkeypatch.setitem(VARIANTS, "tiny", Variant(stages=(1,), features=16, depth=1, heads=2))
    make = functools.partial(create_model, "hybrid_vit", 2, variant="tiny", norm="group")
    images = normal(0, 4, 16, 16, 3)
    variables = jax.jit(lambda: make().init(jax.random.key(0), images, train=False))()
    variables["params"]["head"]["kernel"] += 0.1 * normal(1, 16, 2)

    def gradients(module):
        def loss(params):
            return jnp.sum(jnp.sin(module.apply({"params": params}, images, train=True)))

        leaves = jax.tree.leaves(jax.jit(jax.grad(loss))(variables["params"]))
        return jnp.concatenate([leaf.ravel() for leaf in leaves])

    truth = gradients(make())
    errors = [
        float(jnp.linalg.norm(gradients(module) - truth))
        for module in (
            fused.fuse(make(), "gpu"),
            fused.fuse(make(dtype=jnp.bfloat16), "gpu"),
            make(dtype=jnp.bfloat16),
        )
    ]
    assert errors[0] < 1e-3 * float(jnp.linalg.norm(truth))
    assert errors[1] < 1.2 * errors[2]
