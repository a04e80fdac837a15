"""Maps of vision transformers are of the patches: not of the class token, nor of registers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from leukjax.explain import maps
from leukjax.explain.methods import METHODS, Settings, attribute, defaults, fits
from leukjax.explain.network import Network, check_layer, choose_layer, form_of
from leukjax.models import hybrid_vit
from leukjax.models.registry import create_model
from leukjax.models.vit import VARIANTS, Variant

SIZE, SIDE = 32, 4  # pixels, patches


@pytest.fixture
def network(monkeypatch):
    """A small network with registers and random parameters."""
    variant = Variant(8, 32, 2, 2, layer_scale=0.5, registers=3)
    monkeypatch.setitem(VARIANTS, "small_registers", variant)
    module = create_model("vit", 3, variant="small_registers")
    draw = np.random.default_rng(0)
    shapes = jax.eval_shape(
        lambda: module.init(jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)), train=False)
    )["params"]

    def value(path, leaf):
        scale = 1.5 / np.sqrt(leaf.shape[0]) if path[-1].key == "kernel" else 0.5
        return jnp.asarray(scale * draw.normal(size=leaf.shape), jnp.float32)

    return Network(module, {"params": jax.tree_util.tree_map_with_path(value, shapes)})


def transposed(network):
    """The network that sees rows as columns."""
    params = dict(network.variables["params"])
    kernel = params["embedding"]["kernel"]
    params["embedding"] = {**params["embedding"], "kernel": kernel.swapaxes(0, 1)}
    grid = params["pos_embed"].reshape(1, SIDE, SIDE, -1).swapaxes(1, 2)
    params["pos_embed"] = grid.reshape(params["pos_embed"].shape)
    return network._replace(variables={"params": params})


@pytest.mark.slow
def test_maps_turn_with_image_and_network(network):
    wanted = [name for name in METHODS if fits(name, "vit") and not METHODS[name].pixels]
    assert wanted == ["gradcam", "hirescam", "rollout", "attention"]
    images = jax.random.normal(jax.random.key(2), (2, SIZE, SIZE, 3))
    targets, blank = jnp.array([2, 0]), jnp.zeros((1, 1, 1, 3))

    @jax.jit
    def run(variables, images):
        sampled = network._replace(variables=variables)
        return {m: attribute(sampled, images, targets, m, Settings(), blank) for m in wanted}

    plain = run(network.variables, images)
    turned = run(transposed(network).variables, images.swapaxes(1, 2))
    for method in wanted:
        expected = np.asarray(plain[method].swapaxes(1, 2))
        assert expected.shape == (2, SIDE, SIDE)
        top = np.abs(expected).max()
        assert np.abs(expected - np.asarray(plain[method])).max() > 0.05 * top > 0, method
        np.testing.assert_allclose(turned[method], expected, atol=1e-3 * top, err_msg=method)


def test_the_form_of_the_network_and_what_it_has(network, monkeypatch):
    assert form_of(network, SIZE) == "vit"
    assert defaults("vit") == ("attention", "integrated_gradients")
    assert choose_layer(network, SIZE) == "feature_map"
    check_layer(network, SIZE, "embedding")
    variant = hybrid_vit.Variant(stages=(1, 1), features=16, depth=1, heads=2)
    monkeypatch.setitem(hybrid_vit.VARIANTS, "small", variant)
    hybrid = create_model("hybrid_vit", 2, norm="group")
    shapes = jax.eval_shape(
        lambda: hybrid.init(jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)), train=False)
    )
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    assert form_of(Network(hybrid, {"params": variables["params"]}), SIZE) == "transformer"


@pytest.mark.parametrize("pool", ["class", "mean", "both"])
def test_rollout_is_that_of_the_tokens_that_the_head_reads(pool):
    draw = np.random.default_rng(1)
    blocks = [draw.dirichlet(np.ones(8), (2, 3, 8)) for _ in range(2)]  # 1 + 3 + 4 tokens
    first, second = (0.5 * (block.mean(1) + np.eye(8)) for block in blocks)
    flow = second @ first
    expected = {"class": flow[:, 0, 4:], "mean": flow[:, 4:, 4:].mean(1)}
    expected["both"] = (expected["class"] + expected["mean"]) / 2
    result = maps.rollout([jnp.asarray(block) for block in blocks], patches=4, pool=pool)
    np.testing.assert_allclose(result, expected[pool].reshape(2, 2, 2), rtol=1e-5)
