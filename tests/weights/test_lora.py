"""LoRA: what is trained, what is frozen, and what both compute together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from leukjax.errors import UserError
from leukjax.models.registry import create_model
from leukjax.weights.lora import Lora, merge

LORA = Lora(rank=2, alpha=4.0)


@pytest.fixture(scope="module")
def values():
    """Parameters with the names of a vision transformer of two blocks."""
    block = {
        "attn": {"qkv": dense(8, 3, 2, 4), "proj": dense(8, 8)},
        "fc1": dense(8, 32),
        "fc2": dense(32, 8),
        "norm1": {"scale": np.ones(8, np.float32)},
    }
    return {"embedding": dense(4, 4, 3, 8), "block0": block, "block1": block, "head": dense(8, 3)}


def dense(*shape):
    random = np.random.default_rng(len(shape))
    return {"kernel": random.normal(size=shape).astype(np.float32), "bias": np.zeros(shape[1:])}


def flat(tree):
    return traverse_util.flatten_dict(tree, sep="/")


def test_the_start_is_the_published_model(values):
    base, trained = LORA.split(values, jax.random.key(0))
    merged = merge(base, trained, LORA.scale)
    assert flat(merged).keys() == flat(values).keys()
    for path, value in flat(merged).items():
        np.testing.assert_array_equal(value, flat(values)[path], err_msg=path)


def test_only_updates_and_head_are_trained(values):
    base, trained = LORA.split(values, jax.random.key(0))
    names = {path.split("/", 1)[1] for path in flat(trained) if path.startswith("block0")}
    assert names == {
        f"{layer}/lora_{each}" for layer in ("attn/qkv", "attn/proj", "fc1", "fc2") for each in "ab"
    }
    assert {path for path in flat(trained) if "lora" not in path} == {"head/kernel", "head/bias"}
    assert trained["block0"]["attn"]["qkv"]["lora_a"].shape == (8, 2)
    assert trained["block0"]["attn"]["qkv"]["lora_b"].shape == (2, 3, 2, 4)
    assert not any(path.startswith("head") for path in flat(base))


def test_both_matrices_of_swiglu_are_updated(values):
    block = {**values["block0"], "w12": dense(8, 32), "w3": dense(16, 8)}
    block = {name: block[name] for name in ("attn", "w12", "w3", "norm1")}
    _, trained = LORA.split({**values, "block0": block}, jax.random.key(0))
    assert {path.rsplit("/", 1)[0] for path in flat(trained) if path.startswith("block0")} == {
        f"block0/{layer}" for layer in ("attn/qkv", "attn/proj", "w12", "w3")
    }


def test_every_matrix_of_the_blocks_of_a_vit_is_a_target():
    """The names that the models use: of a giant, by shapes alone."""
    for variant in ("tiny", "g14"):
        model = create_model("vit", 2, variant=variant)
        images = jnp.zeros((1, 112, 112, 3))
        params = jax.eval_shape(lambda m=model, x=images: m.init(jax.random.key(0), x, train=False))
        _, trained = LORA.shapes(params["params"])
        blocks = {path for path in flat(params["params"]) if path.startswith("block")}
        matrices = {path.removesuffix("/kernel") for path in blocks if path.endswith("/kernel")}
        assert {path.rsplit("/", 1)[0] for path in flat(trained) if "lora_a" in path} == matrices


def test_an_update_is_the_product_times_alpha_over_rank(values):
    base, trained = LORA.split(values, jax.random.key(0))
    random = np.random.default_rng(1)
    b = random.normal(size=(2, 3, 2, 4)).astype(np.float32)
    trained["block1"]["attn"]["qkv"]["lora_b"] = b
    merged = merge(base, trained, LORA.scale)["block1"]["attn"]["qkv"]["kernel"]
    a = np.asarray(trained["block1"]["attn"]["qkv"]["lora_a"])
    expected = values["block1"]["attn"]["qkv"]["kernel"] + 4 / 2 * np.einsum("ir,rkhs->ikhs", a, b)
    np.testing.assert_allclose(merged, expected, rtol=1e-5, atol=1e-5)
    assert np.abs(a).max() <= 1 / np.sqrt(8)


def test_the_base_has_no_gradient(values):
    base, trained = LORA.split(values, jax.random.key(0))

    def total(base, trained):
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(merge(base, trained, LORA.scale)))

    of_base, of_trained = jax.jit(jax.grad(total, argnums=(0, 1)))(base, trained)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(of_base))
    assert np.any(of_trained["block0"]["fc1"]["lora_b"])


def test_a_model_without_such_matrices_is_refused():
    params = {"conv1": {"kernel": np.zeros((3, 3, 3, 8))}, "fc": {"kernel": np.zeros((8, 2))}}
    with pytest.raises(UserError, match="LoRA is for transformers"):
        LORA.split(params, jax.random.key(0))


def test_without_a_rank_everything_is_trained(values):
    assert Lora().split(values, jax.random.key(0)) == ({}, values)
