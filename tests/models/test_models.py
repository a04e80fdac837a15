"""What every registered model promises, at a small size, and the published sizes of presets."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from leukjax.models import hybrid_vit, resnet, vit
from leukjax.models.registry import CUSTOM, config_names, create_model, list_models
from leukjax.models.summary import layer_groups, table

# Options with which a model compiles in seconds; a new model without an entry has its defaults.
SMALL: dict[str, dict[str, Any]] = {
    "cnn": {"width": 4},
    "resnet": {"depth": 18, "width": 8},
    "bit": {"depth": 50, "width": 8},
    "hybrid_vit": {"variant": "tiny"},
    "vit": {"variant": "small"},
}
MODELS = sorted({*config_names()} - {CUSTOM})
SIZE, CLASSES = 32, 3
FIRST = ("conv1", "stem_conv", "embedding")  # layers on the image

# Millions of parameters with 1,000 classes, as timm lists them; hybrid_vit_small and
# vit_tiny_patch8 are our own.
PARAMETERS = {
    "resnet18": 11.69,
    "resnet34": 21.80,
    "resnet50": 25.56,
    "resnet101": 44.55,
    "resnet152": 60.19,
    "resnetv2_50x1_bit": 25.55,
    "resnetv2_50x3_bit": 217.32,
    "resnetv2_101x1_bit": 44.54,
    "resnetv2_101x3_bit": 387.93,
    "resnetv2_152x2_bit": 236.34,
    "resnetv2_152x4_bit": 936.53,
    "vit_small_r26_s32_224": 36.43,
    "vit_base_r50_s16": 98.66,
    "hybrid_vit_small": 3.93,
    "vit_tiny_patch8": 3.05,
    "vit_small_patch16_224": 22.05,
    "vit_base_patch16_224": 86.57,
    "vit_large_patch16_224": 304.33,
}
# The same without a head, for images of the size of the weights: timm, DinoBloom's paper, UNI's
# pages.
FEATURES = {
    "vit_small_patch14_dinov2": (518, 22.06),
    "vit_base_patch14_dinov2": (518, 86.58),
    "vit_large_patch14_dinov2": (518, 304.37),
    "vit_giant_patch14_dinov2": (518, 1136.48),
    "vit_small_patch14_reg4_dinov2": (518, 22.06),
    "vit_base_patch14_reg4_dinov2": (518, 86.58),
    "vit_large_patch14_reg4_dinov2": (518, 304.37),
    "vit_giant_patch14_reg4_dinov2": (518, 1136.48),
    "dinobloom_s": (224, 21.63),
    "dinobloom_b": (224, 85.72),
    "dinobloom_l": (224, 303.23),
    "dinobloom_g": (224, 1134.77),
    "reddino_small": (224, 21.63),
    "reddino_base": (224, 85.72),
    "reddino_large": (224, 303.23),
    "uni": (224, 303.35),
    "uni2_h": (224, 681.39),
}


@pytest.fixture(scope="module", autouse=True)
def small_stages():
    """One block per stage where no option of a model gives fewer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.STAGES, 50, (1, 1, 1, 1))
        variant = hybrid_vit.Variant(stages=(1, 1), features=32, depth=2, heads=2)
        patch.setitem(hybrid_vit.VARIANTS, "tiny", variant)
        variant = vit.Variant(8, 32, 2, 2, "swiglu", layer_scale=0.5, registers=2)
        patch.setitem(vit.VARIANTS, "small", variant)
        yield


def images(count=2):
    return np.random.default_rng(0).normal(size=(count, SIZE, SIZE, 3)).astype(np.float32)


def create(name, **options):
    return create_model(name, CLASSES, **SMALL.get(name, {}), **options)


@functools.cache
def variables_of(name):
    """Initial variables with a head that is not zero, as some models start with."""
    module = create(name)
    values = jax.jit(lambda: module.init(jax.random.key(0), images(), train=False))()
    head = next(key for key in ("fc", "head") if key in values["params"])
    values["params"][head]["kernel"] += 0.1 * np.random.default_rng(1).normal(
        size=values["params"][head]["kernel"].shape
    ).astype(np.float32)
    return values


def apply(module, variables):
    """Logits and intermediates in evaluation."""
    run = jax.jit(lambda v: module.apply(v, images(), train=False, mutable=["intermediates"]))
    logits, state = run(variables)
    return logits, state["intermediates"]


def gradient(module, variables):
    """Of a loss in training."""

    def loss(params):
        logits, _ = module.apply(
            {**variables, "params": params},
            images(4),
            train=True,
            rngs={"dropout": jax.random.key(1)},
            mutable=["batch_stats"],
        )
        return jnp.sum(jnp.sin(logits))

    return jax.jit(jax.grad(loss))(variables["params"])


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_intermediates(name):
    logits, named = apply(create(name), variables_of(name))
    assert logits.shape == (2, CLASSES)
    assert np.isfinite(logits).all()
    assert named["feature_map"][0].ndim == 4
    assert named["pooled"][0].ndim == 2
    np.testing.assert_array_equal(named["logits"][0], logits)


@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_keeps_parameters_and_logits_float32(name):
    half = create(name, dtype=jnp.bfloat16)
    shapes = jax.eval_shape(lambda: half.init(jax.random.key(0), images(), train=False))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    exact, _ = apply(create(name), variables_of(name))
    logits, _ = apply(half, variables_of(name))
    assert logits.dtype == jnp.float32
    assert 0 < np.linalg.norm(logits - exact) < 0.3 * np.linalg.norm(exact)


@pytest.mark.parametrize("name", MODELS)
def test_gradients_reach_every_parameter_and_remat_does_not_change_them(name):
    plain = gradient(create(name), variables_of(name))
    first = next(key for key in FIRST if key in plain)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(plain))
    assert np.abs(plain[first]["kernel"]).max() > 0
    again = gradient(create(name, remat=True), variables_of(name))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), again, plain)


@pytest.mark.parametrize("name", MODELS)
def test_dropout_acts_in_training_only(name):
    module, variables = create(name, dropout=0.5), variables_of(name)
    np.testing.assert_array_equal(apply(module, variables)[0], apply(create(name), variables)[0])

    @jax.jit
    def train(key):
        keys = {"dropout": key}
        return module.apply(variables, images(), train=True, rngs=keys, mutable=["batch_stats"])[0]

    first, same, other = (train(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


@pytest.mark.parametrize("name", MODELS)
def test_summary_and_layer_groups_cover_every_parameter(name):
    params = variables_of(name)["params"]
    summary = table(create(name), SIZE)
    assert summary.parameters == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert summary.flops > 0
    paths = ["/".join(str(key.key) for key in path)
             for path, _ in jax.tree_util.tree_leaves_with_path(params)]  # fmt: skip
    groups = layer_groups(paths)
    head = {path for path in paths if groups[path] == max(groups.values())}
    assert head in ({"fc/kernel", "fc/bias"}, {"head/kernel", "head/bias"})
    assert params[min(head).split("/")[0]]["bias"].shape == (CLASSES,)
    assert min(groups[path] for path in paths if path.startswith(FIRST)) == 0


def count(name, size=224, head=True):
    """Parameters of a preset for 1,000 classes."""
    module = create_model(name, 1000)
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), image)
    kept = {key: tree for key, tree in shapes["params"].items() if head or key != "head"}
    return sum(leaf.size for leaf in jax.tree.leaves(kept))


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_presets_have_their_published_number_of_parameters(name, monkeypatch):
    monkeypatch.setitem(resnet.STAGES, 50, (3, 4, 6, 3))
    assert round(count(name) / 1e6, 2) == PARAMETERS[name]


@pytest.mark.parametrize("name", sorted(FEATURES))
def test_foundation_models_have_their_published_number_of_parameters(name, monkeypatch):
    size, published = FEATURES[name]
    variant = create_model(name, 2).variant
    sizes = vit.VARIANTS[variant]
    counts = []
    for depth in (1, 2):  # tracing all blocks takes seconds, and they are equal
        monkeypatch.setitem(vit.VARIANTS, variant, sizes._replace(depth=depth))
        counts.append(count(name, size, head=False))
    total = counts[0] + (sizes.depth - 1) * (counts[1] - counts[0])
    assert round(total / 1e6, 2) == published


def test_every_preset_is_counted():
    assert {*list_models()} - {*MODELS} == {*PARAMETERS, *FEATURES}
