"""Maps of networks with a closed form, and properties of the maps of all networks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from linear import Linear, Pooled, network

from leukjax.explain.methods import METHODS, Settings, attribute, fits
from leukjax.explain.network import Network, choose_layer, form_of, layers, score
from leukjax.models.registry import create_model

SIZE = 12
IMAGES = jax.random.normal(jax.random.key(1), (3, SIZE, SIZE, 3))
TARGETS = jnp.array([2, 0, 1])
NOTHING = jnp.full((1, 1, 1, 3), 0.3)


def maps(net, method, images=IMAGES, targets=TARGETS, **settings):
    chosen = Settings(**{"kind": "logit", "window": 5, "stride": 3, **settings})
    return np.asarray(attribute(net, images, targets, method, chosen, NOTHING))


def shares(net):
    """(x - b) w of the linear network, for each image's class."""
    kernel = net.variables["params"]["head"]["kernel"].reshape(SIZE, SIZE, 3, 3)
    return np.asarray(((IMAGES - NOTHING) * jnp.moveaxis(kernel[..., TARGETS], -1, 0)).sum(-1))


def test_integrated_gradients_of_a_linear_network_are_its_terms():
    net = network(Linear(), SIZE)
    result = maps(net, "integrated_gradients", steps=2)
    np.testing.assert_allclose(result, shares(net), atol=1e-5)


def test_occlusion_of_a_linear_network_sums_its_terms():
    net = network(Linear(), SIZE)
    terms, result = shares(net), maps(net, "occlusion")
    expected, times = np.zeros_like(terms), np.zeros((SIZE, SIZE))
    for top in (0, 3, 6, 9):
        for left in (0, 3, 6, 9):
            window = (slice(top, top + 5), slice(left, left + 5))
            expected[:, *window] += terms[:, *window].sum((1, 2))[:, None, None]
            times[window] += 1
    np.testing.assert_allclose(result, expected / times, atol=1e-4)


@pytest.mark.parametrize("method", ["gradcam", "hirescam"])
def test_activation_maps_before_a_mean_are_the_class_activation_map(method):
    """Zhou et al. 2016: weights of the head times the features, over the number of positions."""
    net = network(Pooled(), SIZE)
    features = net.intermediates(IMAGES)["feature_map"][0]
    weights = net.variables["params"]["head"]["kernel"][:, TARGETS].T[:, None, None]
    expected = jnp.maximum((features * weights).sum(-1) / SIZE**2, 0)
    np.testing.assert_allclose(maps(net, method), expected, atol=1e-6)
    assert np.ptp(expected) > 1e-3


def test_grad_cam_plus_plus_in_closed_form():
    """There alpha is 1 / (2 + sum(A) G), and G is equal at every position."""
    net = network(Pooled(), SIZE)
    features = np.asarray(net.intermediates(IMAGES)["feature_map"][0])
    slope = np.asarray(net.variables["params"]["head"]["kernel"][:, TARGETS].T) / SIZE**2
    total = features.sum((1, 2))
    weights = SIZE**2 * np.maximum(slope, 0) / (2 + total * slope)
    expected = np.maximum((features * weights[:, None, None]).sum(-1), 0)
    np.testing.assert_allclose(maps(net, "gradcam++"), expected, rtol=1e-4, atol=1e-6)


def test_log_odds_are_those_of_the_probability():
    logits = jnp.array([[1.0, -2.0, 0.5], [3.0, 0.0, 9.0]])
    targets = jnp.array([0, 1])
    p = jax.nn.softmax(logits)[jnp.arange(2), targets]
    np.testing.assert_allclose(score(logits, targets, "log_odds"), jnp.log(p / (1 - p)), rtol=1e-5)
    both = score(jnp.array([[1.5, -0.5]]), jnp.array([1]), "log_odds")
    np.testing.assert_allclose(both, -2.0)
    # What all logits share changes the logit only.
    np.testing.assert_allclose(
        score(logits + 7, targets, "log_odds"), score(logits, targets, "log_odds"), rtol=1e-5
    )


FAMILIES = {
    "cnn": ({"width": 4}, 32),
    "resnet": ({"depth": 18, "width": 8}, 64),
    "bit": ({"depth": 50, "width": 8}, 64),
}


@functools.cache
def random_network(family: str) -> tuple[Network, int]:
    """Randomises every parameter, including zero-initialised ones, so that each layer matters."""
    options, size = FAMILIES[family]
    module = create_model(family, 3, **options)
    shapes = jax.eval_shape(
        lambda: module.init(jax.random.key(0), jnp.zeros((1, size, size, 3)), train=False)
    )
    random = np.random.default_rng(5)

    def draw(path, leaf):
        name = path[-1].key
        if name == "var":
            return jnp.ones(leaf.shape)
        noise = random.standard_normal(leaf.shape)
        if name == "kernel":
            return jnp.asarray(noise / np.sqrt(np.prod(leaf.shape[:-1]) / 2), jnp.float32)
        return jnp.asarray((name == "scale") + 0.2 * noise, jnp.float32)

    kept = {name: shapes[name] for name in ("params", "batch_stats") if name in shapes}
    return Network(module, jax.tree_util.tree_map_with_path(draw, kept)), size


def _images(size):
    return jax.random.normal(jax.random.key(2), (2, size, size, 3))


SLOW = ["cnn", *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet", "bit"))]


@pytest.mark.parametrize("family", SLOW[:2])  # bit is too rough with random parameters
def test_integrated_gradients_are_complete(family):
    net, size = random_network(family)
    images, targets = _images(size), jnp.array([2, 0])
    # Not far away: a network of random parameters is rough, and the integral is not what is tried.
    settings, blank = Settings(steps=64), 0.8 * images + 0.2 * images[::-1]

    @jax.jit
    def run(variables):
        sampled = net._replace(variables=variables)
        result = attribute(sampled, images, targets, "integrated_gradients", settings, blank)
        base, kind = sampled.logits(blank), settings.kind
        return result, score(sampled.logits(images), targets, kind) - score(base, targets, kind)

    result, difference = run(net.variables)
    assert np.abs(difference).max() > 0.05
    np.testing.assert_allclose(result.sum((1, 2)), difference, atol=0.05 * np.abs(difference).max())


@pytest.mark.parametrize("family", SLOW)
def test_maps_turn_with_image_and_network(family):
    """Rows and columns of images and of weights exchanged: every map has them exchanged."""
    net, size = random_network(family)
    images, targets = _images(size), jnp.array([2, 0])
    window, stride = 9, 5

    def flip(path, leaf):
        """Transposes the spatial axes."""
        names = [key.key for key in path]
        if leaf.ndim == 4 and names[-1] == "kernel":
            return leaf.swapaxes(0, 1)
        if family == "cnn" and names[-2:] == ["hidden", "kernel"]:
            side = size // 16
            square = leaf.reshape(side, side, -1, leaf.shape[-1])
            return square.swapaxes(0, 1).reshape(leaf.shape)
        return leaf

    flipped = net._replace(variables=jax.tree_util.tree_map_with_path(flip, net.variables))
    layer = choose_layer(net, size)
    settings = Settings(layer=layer, steps=4, window=window, stride=stride)
    wanted = [method for method in METHODS if fits(method, form_of(net, size))]

    @jax.jit
    def run(variables, images):
        sampled, blank = net._replace(variables=variables), images[::-1]
        return {m: attribute(sampled, images, targets, m, settings, blank) for m in wanted}

    plain = run(net.variables, images)
    transposed = run(flipped.variables, images.swapaxes(1, 2))
    for method in wanted:
        expected = np.asarray(plain[method].swapaxes(1, 2))
        top = np.abs(expected).max()
        assert top > 0, method
        assert np.abs(expected - np.asarray(plain[method])).max() > 0.05 * top, method
        np.testing.assert_allclose(transposed[method], expected, atol=2e-3 * top, err_msg=method)


@pytest.mark.parametrize(
    ("family", "options", "size", "layer"),
    [
        ("resnet", {"depth": 50, "width": 8}, 224, "feature_map"),
        pytest.param("resnet", {"depth": 50, "width": 8}, 64, "layer3_5", marks=pytest.mark.slow),
        ("resnet", {"depth": 18, "width": 8}, 48, "layer2_1"),
        ("bit", {"depth": 50, "width": 8}, 64, "stage3_5"),
        ("cnn", {"width": 4}, 48, "feature_map"),
        ("cnn", {"width": 4}, 24, "feature_map"),
    ],
)
def test_the_deepest_layer_that_points_at_places_is_chosen(family, options, size, layer):
    module = create_model(family, 2, **options)
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    variables = jax.eval_shape(
        functools.partial(module.init, train=False), jax.random.key(0), images
    )
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), variables)
    net = Network(module, {k: v for k, v in variables.items() if k != "intermediates"})
    assert choose_layer(net, size) == layer
    known = layers(net, size)
    assert list(known)[-1] == "feature_map"
    if family != "cnn":
        assert known["feature_map"][:2] == (-(-size // 32),) * 2


class Unperturbed(nn.Module):
    """A registered model may sow a feature map without adding the perturbation of a caller."""

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.relu(nn.Conv(5, (3, 3), name="conv")(images))
        self.sow("intermediates", "feature_map", x)
        return nn.Dense(3, name="head")(x.mean((1, 2)))


def test_a_feature_map_without_perturbation_is_not_used():
    net = network(Unperturbed(), SIZE)
    assert list(layers(net, SIZE)) == ["conv"]
    assert choose_layer(net, SIZE) == "conv"
    assert form_of(net, SIZE) == "convolutional"
    assert np.ptp(maps(net, "gradcam", layer="conv")) > 0
    assert list(layers(network(Pooled(), SIZE), SIZE)) == ["conv", "feature_map"]
