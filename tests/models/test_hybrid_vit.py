"""The hybrid transformer: tokens, attention, positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from leukjax.errors import UserError
from leukjax.models.hybrid_vit import VARIANTS, Variant
from leukjax.models.registry import create_model
from leukjax.models.tokens import resize_position_embeddings


@pytest.fixture
def tiny(monkeypatch):
    """Compiles in a moment."""
    monkeypatch.setitem(VARIANTS, "tiny", Variant(stages=(1, 1), features=32, depth=2, heads=2))

    def create(**options):
        return create_model("hybrid_vit", 2, variant="tiny", **{"norm": "group", **options})

    return create


def _images(size, count=2):
    return np.random.default_rng(0).normal(size=(count, size, size, 3)).astype(np.float32)


def _init(module, images):
    return jax.jit(lambda: module.init(jax.random.key(0), images, train=False))()


def _apply(module, variables, images):
    return jax.jit(lambda v: module.apply(v, images, train=False))(variables)


@pytest.mark.parametrize(
    ("variant", "size", "grid"),
    [
        ("small", 48, 6),
        ("small", 128, 16),
        ("r26_s32", 224, 7),
        ("r26_s32", 96, 3),
        ("r50_b16", 224, 14),
        ("r50_b16", 100, 7),
    ],
)
def test_the_feature_map_becomes_the_tokens(variant, size, grid):
    module = create_model("hybrid_vit", 4, variant=variant, norm="group")
    sizes = VARIANTS[variant]

    def run():
        images = jnp.zeros((2, size, size, 3))
        variables = module.init(jax.random.key(0), images, train=False)
        return module.apply(variables, images, train=False, mutable=["intermediates"])

    logits, state = jax.eval_shape(run)
    named = state["intermediates"]
    assert logits.shape == (2, 4)
    assert named["feature_map"][0].shape[1:3] == (grid, grid)
    assert named["pooled"][0].shape == (2, sizes.features)
    tokens = 1 + grid * grid
    assert len(named["attention"]) == sizes.depth
    assert named["attention"][-1].shape == (2, sizes.heads, tokens, tokens)


def test_attention_weights_are_float32_shares_in_bfloat16_models(tiny):
    module = tiny(dtype=jnp.bfloat16)
    images = _images(32)
    variables = _init(module, images)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    logits, state = jax.jit(
        lambda v: module.apply(v, images, train=False, mutable=["intermediates"])
    )(variables)
    assert logits.dtype == jnp.float32
    for weights in state["intermediates"]["attention"]:
        assert weights.dtype == jnp.float32
        np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize("norm", ["batch", "group", "frozen"])
def test_every_norm_and_option_trains(tiny, norm):
    module = tiny(norm=norm, dropout=0.1, stochastic_depth=0.1)
    images = _images(16, 4)
    variables = _init(module, images)
    # The head starts at zero, as in the reference, and would hide all gradients below it.
    variables["params"]["head"]["kernel"] += 0.1

    @jax.jit
    def gradient(params):
        def loss(params):
            logits, _ = module.apply(
                {**variables, "params": params},
                images,
                train=True,
                rngs={"dropout": jax.random.key(1)},
                mutable=["batch_stats"],
            )
            return jnp.sum(logits[:, 0] ** 2)

        return jax.grad(loss)(params)

    values = gradient(variables["params"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(values))
    assert np.abs(values["stem_conv"]["kernel"]).max() > 0
    assert ("batch_stats" in variables) == (norm != "group")


@pytest.mark.parametrize(("variant", "size"), [("small", 8), ("r26_s32", 32), ("r50_b16", 16)])
def test_images_of_one_place_are_refused(variant, size):
    module = create_model("hybrid_vit", 2, variant=variant)

    def init(size):
        return module.init(jax.random.key(0), jnp.zeros((1, size, size, 3)), train=False)

    with pytest.raises(UserError, match=rf"^image_size={size}: .* give more than {size}"):
        jax.eval_shape(lambda: init(size))
    jax.eval_shape(lambda: init(size + 1))


def test_images_of_another_size_want_other_position_embeddings(tiny):
    module = tiny()
    variables = _init(module, _images(32))
    larger = _images(48)
    with pytest.raises(UserError, match="image_size: these images"):
        module.apply(variables, larger, train=False)
    positions = variables["params"]["pos_embed"]
    variables["params"]["pos_embed"] = resize_position_embeddings(positions, (6, 6))
    assert _apply(module, variables, larger).shape == (2, 2)


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_resized_position_embeddings_keep_their_shape_in_space(method):
    rows, columns = np.mgrid[0:8, 0:8] / 8
    grid = np.stack([np.sin(3 * rows), columns, np.full_like(rows, 2.0)], -1).reshape(1, 64, 3)
    embeddings = jnp.concatenate([jnp.full((1, 1, 3), 7.0), grid], 1)
    assert resize_position_embeddings(embeddings, (8, 8), method) is embeddings

    larger = resize_position_embeddings(embeddings, (16, 12), method)
    assert larger.shape == (1, 1 + 16 * 12, 3)
    np.testing.assert_array_equal(larger[:, 0], embeddings[:, 0])  # the class token has no position
    positions = np.asarray(larger[0, 1:]).reshape(16, 12, 3)
    np.testing.assert_allclose(positions[..., 2], 2, atol=1e-5)
    np.testing.assert_allclose(np.ptp(positions[..., 0], 1), 0, atol=1e-5)  # varies by row only
    assert (np.diff(positions[3:-3, :, 1].mean(0)) > -1e-6).all()


def test_gelu_may_be_exact(tiny):
    images = _images(32)
    module = tiny()
    variables = _init(module, images)
    variables["params"]["head"]["kernel"] += 0.1 * np.random.default_rng(0).normal(size=(32, 2))
    tanh = _apply(module, variables, images)
    exact = _apply(module.clone(gelu_tanh=False), variables, images)
    difference = np.abs(tanh - exact).max()
    assert 0 < difference < 1e-2
