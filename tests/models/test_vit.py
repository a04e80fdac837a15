"""Vision transformers: tokens, registers, pooling, the exposed patches, resized positions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from leukjax import config as configs
from leukjax.errors import UserError
from leukjax.models.registry import create_model, model_from_config
from leukjax.models.tokens import position_grid, resize_position_embeddings
from leukjax.models.vit import VARIANTS, Variant


@pytest.fixture
def tiny(monkeypatch):
    """Compiles in a moment; has every part."""
    small = Variant(8, 32, 2, 2, "swiglu", layer_scale=0.5, registers=3)
    monkeypatch.setitem(VARIANTS, "small_swiglu", small)
    return functools.partial(create_model, "vit", 2, variant="small_swiglu")


def _images(size, count=2):
    return np.random.default_rng(0).normal(size=(count, size, size, 3)).astype(np.float32)


def _init(module, size):
    images = jnp.zeros((1, size, size, 3))
    variables = jax.jit(lambda: module.init(jax.random.key(0), images, train=False))()
    return {"params": variables["params"]}


def _run(module, variables, images):
    run = jax.jit(lambda v, x: module.apply(v, x, train=False, mutable=["intermediates"]))
    logits, state = run(variables, images)
    return logits, state["intermediates"]


@pytest.mark.parametrize(
    ("variant", "size", "grid"),
    [("tiny", 48, 6), ("s16", 224, 14), ("s14", 224, 16), ("g14_reg4", 98, 7), ("uni2_h", 224, 16)],
)
def test_patches_become_the_tokens(variant, size, grid, monkeypatch):
    parts = VARIANTS[variant]._replace(depth=2)
    monkeypatch.setitem(VARIANTS, variant, parts)
    module = create_model("vit", 4, variant=variant)

    def run():
        images = jnp.zeros((2, size, size, 3))
        variables = module.init(jax.random.key(0), images, train=False)
        return variables["params"], _run(module, {"params": variables["params"]}, images)

    params, (logits, named) = jax.eval_shape(run)
    assert logits.shape == (2, 4)
    assert named["pooled"][0].shape == (2, parts.width)
    for name in ("feature_map", "patch_tokens"):
        assert named[name][0].shape == (2, grid, grid, parts.width)
    tokens = 1 + parts.registers + grid * grid
    assert len(named["attention"]) == parts.depth
    assert named["attention"][-1].shape == (2, parts.heads, tokens, tokens)
    # With registers the class token has no position.
    assert params["pos_embed"].shape[1] == grid * grid + (parts.registers == 0)
    assert ("ls1" in params["block0"]) == (parts.layer_scale > 0)


def test_every_variant_is_a_value_of_the_config():
    choices = configs.fields()["model.variant"].values
    assert {*choices} - {"small", "r26_s32", "r50_b16"} == {*VARIANTS}
    config = configs.load("vit:cnmc", {"model.pool": "both", "model.variant": "b14"})
    module = model_from_config(config, 3, "cpu")
    assert (module.variant, module.pool, module.gelu_tanh) == ("b14", "both", False)
    assert module.description == "ViT (b14)"
    with pytest.raises(ValueError, match=r"variant=small: must be one of tiny, s16, "):
        create_model("vit", 2, variant="small")
    with pytest.raises(ValueError, match="pool=max: must be one of class, mean, both"):
        create_model("vit", 2, pool="max")


@pytest.mark.parametrize(
    ("variant", "size", "fix"),
    [("s14", 100, "98 or 112"), ("b16", 8, "16"), ("tiny", 50, "48 or 56")],
)
def test_images_that_patches_do_not_divide_are_refused(variant, size, fix):
    module = create_model("vit", 2, variant=variant)
    message = rf"^image_size={size}: not a multiple of \d+, .* of the vit {variant}; give {fix}"
    with pytest.raises(UserError, match=message):
        module.apply({}, _images(size), train=False)


def test_images_of_another_size_want_other_position_embeddings(tiny):
    module = tiny()
    variables = _init(module, 16)
    with pytest.raises(UserError, match="image_size: these images give a feature map of 3 x 3"):
        module.apply(variables, _images(24), train=False)
    positions = variables["params"]["pos_embed"]
    variables["params"]["pos_embed"] = resize_position_embeddings(positions, (3, 3), "bicubic")
    larger = jax.eval_shape(lambda: module.apply(variables, _images(24), train=False))
    assert larger.shape == (2, 2)


def test_the_head_reads_the_tokens_of_the_pool(tiny):
    variables, images = _init(tiny(pool="both"), 16), _images(16)

    @jax.jit
    def run(variables):
        found = {"both": _run(tiny(pool="both"), variables, images)[1]}
        head = {**variables["params"], "head": {"kernel": jnp.zeros((32, 2)), "bias": jnp.zeros(2)}}
        for pool in ("class", "mean"):
            found[pool] = _run(tiny(pool=pool), {"params": head}, images)[1]
        return found

    found = run(variables)
    pooled = {pool: np.asarray(named["pooled"][0]) for pool, named in found.items()}
    patches = np.asarray(found["mean"]["patch_tokens"][0])
    np.testing.assert_allclose(pooled["mean"], patches.mean((1, 2)), rtol=1e-5, atol=1e-5)
    assert np.abs(pooled["class"] - pooled["mean"]).max() > 0.1
    both = np.concatenate([pooled["class"], pooled["mean"]], -1)
    np.testing.assert_allclose(pooled["both"], both, rtol=1e-5, atol=1e-5)


def test_the_exposed_patches_reach_the_class_token_and_registers_are_not_among_them(tiny):
    module, images = tiny(), _images(16)
    variables = _init(module, 16)
    variables["params"]["head"]["kernel"] += np.random.default_rng(1).normal(size=(32, 2))
    logits, named = _run(module, variables, images)
    shape = named["feature_map"][0].shape

    added = np.zeros(shape, np.float32)
    added[:, 1, 0] = 5
    other, again = _run(module, variables | {"perturbations": {"feature_map": added}}, images)
    assert np.abs(other - logits).max() > 1e-3
    before, after = (np.asarray(state["feature_map"][0]) for state in (named, again))
    np.testing.assert_allclose(after, before + added, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("tokens", "parts"), [(17, (1, 4)), (16, (0, 4)), (1370, (1, 37)), (2, (1, 1)), (7, (0, 0))]
)
def test_positions_are_a_square_with_or_without_a_class_token(tokens, parts):
    assert position_grid(tokens) == parts


@pytest.mark.parametrize("method", ["bilinear", "bicubic", "dinov2"])
@pytest.mark.parametrize("first", [0, 1])
def test_resized_positions_keep_their_shape_in_space(method, first):
    rows, columns = np.mgrid[0:8, 0:8] / 8
    grid = np.stack([np.sin(3 * rows), columns, np.full_like(rows, 2.0)], -1).reshape(1, 64, 3)
    embeddings = jnp.concatenate([jnp.full((1, first, 3), 7.0), grid], 1)
    larger = resize_position_embeddings(embeddings, (16, 12), method)
    assert larger.shape == (1, first + 16 * 12, 3)
    np.testing.assert_array_equal(larger[:, :first], embeddings[:, :first])
    positions = np.asarray(larger[0, first:]).reshape(16, 12, 3)
    np.testing.assert_allclose(positions[..., 2], 2, atol=1e-5)
    np.testing.assert_allclose(np.ptp(positions[..., 0], 1), 0, atol=1e-5)  # varies by row only
    assert (np.diff(positions[3:-3, :, 1].mean(0)) > -1e-6).all()
