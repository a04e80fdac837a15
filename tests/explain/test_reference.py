"""The maps are those of pytorch-grad-cam and captum (`golden/attribution.py`), weight by weight."""

import functools

import fill
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from leukjax.explain import maps as cam
from leukjax.explain.methods import Settings, attribute
from leukjax.explain.network import Network, layer_gradient
from leukjax.models.registry import create_model
from leukjax.weights.axes import to_torch
from leukjax.weights.layouts import TIMM

TARGETS = (2, 0)
CASES = {
    "cnn": ("cnn", {"width": 8}, 32),
    "resnet18": ("resnet", {"depth": 18}, 64),
    "hybrid": ("hybrid_vit", {"variant": "r26_s32", "gelu_tanh": False}, 96),
}
CNN_NAMES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


@functools.cache
def filled(case: str) -> Network:
    family, options, size = CASES[case]
    module = create_model(family, 3, **options)
    image = jnp.zeros((1, size, size, 3))
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), image, train=False))

    def value(path, leaf):
        name = path[1] + "." + CNN_NAMES.get(path[-1], path[-1])
        (theirs,) = (name,) if family == "cnn" else TIMM[family].names(path)
        numbers = fill.parameter(theirs, to_torch(np.empty(leaf.shape, np.int8), theirs).shape)
        return TIMM["resnet" if family == "cnn" else family].axes.convert([numbers], leaf.shape)

    flat = traverse_util.flatten_dict(
        {k: shapes[k] for k in ("params", "batch_stats") if k in shapes}
    )
    flat = {path: value(path, leaf) for path, leaf in flat.items()}
    return Network(module, traverse_util.unflatten_dict(flat))


@pytest.fixture(scope="module")
def golden(repository):
    return np.load(repository / "tests" / "golden" / "attribution.npz")


def agrees(result, expected, tolerance):
    top = np.abs(expected).max()
    assert top > 0
    assert np.abs(np.asarray(result) - expected).max() < tolerance * top


@pytest.mark.parametrize(
    ("case", "layer", "kind"),
    [
        ("cnn", "feature_map", "log_odds"),
        ("cnn", "feature_map", "logit"),
        ("resnet18", "layer3_1", "log_odds"),
        pytest.param("resnet18", "layer3_1", "logit", marks=pytest.mark.slow),
        pytest.param("resnet18", "feature_map", "log_odds", marks=pytest.mark.slow),
        ("resnet18", "feature_map", "logit"),
    ],
)
def test_activation_maps(golden, case, layer, kind):
    net, size = filled(case), CASES[case][2]
    images, targets = jnp.asarray(fill.images(2, size)), jnp.array(TARGETS)
    output, gradient = jax.jit(
        lambda v, x: layer_gradient(net._replace(variables=v), x, targets, layer, kind)
    )(net.variables, images)
    result = {
        "gradcam": cam.grad_cam(output, gradient),
        "gradcam++": cam.grad_cam_plus_plus(output, gradient, epsilon=1e-6),  # as the reference
        "hirescam": cam.hires_cam(output, gradient),
    }
    for method, maps in result.items():
        agrees(maps, golden[f"{case}/{layer}/{kind}/{method}"], 2e-3)


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        ("cnn", "log_odds"),
        ("cnn", "logit"),
        pytest.param("resnet18", "log_odds", marks=pytest.mark.slow),
    ],
)
def test_pixel_maps(golden, case, kind):
    net, size = filled(case), CASES[case][2]
    settings = Settings(kind=kind, steps=32, window=12, stride=5)
    blank = jnp.full((1, 1, 1, 3), 0.25)
    for method in ("integrated_gradients", "occlusion"):
        expected = golden[f"{case}/pixels/{kind}/{method}"]
        images = jnp.asarray(fill.images(len(expected), size))
        targets = jnp.array(TARGETS[: len(expected)])
        result = jax.jit(
            lambda v, x, t, method=method: attribute(
                net._replace(variables=v), x, t, method, settings, blank
            )
        )(net.variables, images, targets)
        agrees(result, expected, 1e-2 if method == "integrated_gradients" else 2e-3)


@pytest.mark.slow
def test_attention_maps(golden):
    net, size = filled("hybrid"), CASES["hybrid"][2]
    images, targets = jnp.asarray(fill.images(2, size)), jnp.array(TARGETS)
    for method in ("rollout", "attention"):
        result = jax.jit(
            lambda v, x, method=method: attribute(
                net._replace(variables=v), x, targets, method, Settings(), jnp.zeros((1, 1, 1, 3))
            )
        )(net.variables, images)
        agrees(result, golden[f"hybrid/attention/log_odds/{method}"], 2e-3)
