"""The models are those of the literature: same logits as timm's and google-research's code."""

import json

import fill
import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from leukjax.models.registry import create_model
from leukjax.weights.axes import to_torch
from leukjax.weights.layouts import TIMM

CASES = {
    "resnet50": ("logits_timm", "resnet", {"depth": 50}),
    "resnet18": ("logits_timm", "resnet", {"depth": 18}),
    "vit_small_r26_s32_224": ("logits_timm", "hybrid_vit", {"variant": "r26_s32"}),
    "R50+ViT-B_16": ("logits_vision_transformer", "hybrid_vit", {"variant": "r50_b16"}),
}


def _golden(repository, name):
    file, family, options = CASES[name]
    text = (repository / "tests" / "golden" / f"{file}.json").read_text()
    options = {**options, "norm": "batch" if family == "resnet" else "group"}
    return json.loads(text)["models"][name], family, options


def filled(family, shapes):
    """A tree of variables like ``shapes``, with the numbers of timm's parameters."""
    layout = TIMM[family]

    def value(path, leaf):
        (name,) = layout.names(path)
        theirs = to_torch(np.broadcast_to(np.float32(0), leaf.shape), name).shape
        return layout.axes.convert([fill.parameter(name, theirs)], leaf.shape)

    flat = flax.traverse_util.flatten_dict(shapes)
    return flax.traverse_util.unflatten_dict({p: value(p, leaf) for p, leaf in flat.items()})


@pytest.mark.smoke
@pytest.mark.parametrize("name", CASES)
def test_logits_agree_with_the_reference(repository, name):
    golden, family, options = _golden(repository, name)
    expected = np.array(golden["logits"])
    module = create_model(family, expected.shape[1], **options)
    if name.startswith("vit"):
        module = module.clone(gelu_tanh=False)  # timm computes GELU exactly
    images = fill.images(len(expected), golden["image_size"])

    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), images, train=False))
    variables = filled(family, shapes)
    logits = jax.jit(lambda v, x: module.apply(v, x, train=False))(variables, images)

    difference = np.abs(logits - expected).max() / np.abs(expected).max()
    assert difference < 1e-4, (
        f"{name}: relative difference {difference:.1e}; the model computes something else than its "
        "reference, and imported weights would give other predictions"
    )


@pytest.mark.parametrize("name", CASES)
def test_parameter_counts_agree_with_the_reference(repository, name):
    golden, family, options = _golden(repository, name)
    module = create_model(family, 1000, **options)
    image = jnp.zeros((1, 224, 224, 3))
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), image, train=False))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    assert count == golden["parameters_1000_classes"]
