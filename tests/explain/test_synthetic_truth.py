"""Maps of a network that can only learn nucleoli must point at them."""

import functools
import os

import explanation_checks as checks
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from leukjax.data.synthetic import specimens
from leukjax.explain import explainer
from leukjax.explain.methods import METHODS, Settings, attribute, fits
from leukjax.explain.network import Network
from leukjax.models.registry import create_model

SIZE = 48
STEPS = 300
UNSEEN = range(30, 34)
SETTINGS = Settings(window=8, stride=4, steps=32)


def cells_with(subjects: range, *, nucleoli: bool):
    """Returns cells with one large nucleolus off the centre, or the same cells without."""
    changed = {
        "nucleolus_radius": (0.3 * nucleoli, 0, 0, 0),
        "nucleolus_distance": 0.6,
        "nucleolus_pallor": 0.8,
        "chromatin_contrast": 0.05,
    }
    blocks = [specimens.draw_block(7, i, 0, 12, SIZE, changed) for i in subjects]
    return np.concatenate([b.images for b in blocks]), np.concatenate([b.nucleoli for b in blocks])


@functools.cache
def learned():
    """Returns a CNN that separates such cells from the same cells without, and unseen images."""
    module = create_model("cnn", 2, width=8)
    without, with_nucleoli = (cells_with(range(24), nucleoli=on)[0] for on in (False, True))
    images = np.concatenate([without, with_nucleoli])
    labels = np.repeat([0, 1], [len(without), len(with_nucleoli)])
    mean, std = images[images.any(-1)].mean(0), images[images.any(-1)].std(0)
    prepare = lambda x: jnp.asarray((x - mean) / std, jnp.float32)  # noqa: E731
    x = jnp.concatenate([jnp.rot90(prepare(images), quarter, (1, 2)) for quarter in range(4)])
    y = jnp.tile(jnp.asarray(labels), 4)
    variables = module.init(jax.random.key(0), x[:1], train=False)
    params, stats = variables["params"], variables["batch_stats"]
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, STEPS))
    state = optimizer.init(params)

    @jax.jit
    def step(params, stats, state, rows):
        def loss(params):
            logits, new = module.apply(
                {"params": params, "batch_stats": stats},
                x[rows],
                train=True,
                mutable=["batch_stats"],
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, y[rows])
            return losses.mean(), new["batch_stats"]

        gradient, new = jax.grad(loss, has_aux=True)(params)
        change, after = optimizer.update(gradient, state)
        return optax.apply_updates(params, change), new, after

    random = np.random.default_rng(0)
    for _ in range(STEPS):
        params, stats, state = step(params, stats, state, random.integers(0, len(x), 32))
    net = Network(module, {"params": params, "batch_stats": stats})
    unseen, truth = cells_with(UNSEEN, nucleoli=True)
    blank, _ = cells_with(UNSEEN, nucleoli=False)
    right = [
        (jax.jit(net.logits)(prepare(x)).argmax(1) == label).mean()
        for x, label in ((unseen, 1), (blank, 0))
    ]
    assert min(right) > 0.9, right
    return net, unseen, truth, prepare


def pointing(maps, truth, cells) -> float:
    """Returns the mean AUROC of the nucleolus among the cell's pixels; 0.5 is chance."""
    result = []
    for map, nucleolus, cell in zip(maps, truth, cells, strict=True):
        if nucleolus.sum() < 4:
            continue
        ranks, inside = scipy.stats.rankdata(map[cell]), nucleolus[cell]
        n, m = inside.sum(), (~inside).sum()
        result.append((ranks[inside].sum() - n * (n + 1) / 2) / (n * m))
    return float(np.mean(result))


@functools.cache
def compiled(method: str):
    net = learned()[0]
    return jax.jit(
        lambda v, x, t, b: attribute(net._replace(variables=v), x, t, method, SETTINGS, b)
    )


@functools.cache
def maps_of(method: str, changed: tuple[str, ...] = (), seed: int = 0, nucleoli: bool = True):
    net, images, _, prepare = learned()
    if not nucleoli:
        images, _ = cells_with(UNSEEN, nucleoli=False)
    if changed:
        net = checks.randomised(net, changed, seed)
    blank = jnp.zeros((1, 1, 1, 3))
    if method in ("integrated_gradients", "occlusion"):
        blank = prepare(
            np.stack([explainer.blurred(image, image.any(-1), SIZE / 8) for image in images])
        )
    targets = jnp.ones(len(images), jnp.int32)
    result = compiled(method)(net.variables, prepare(images), targets, blank)
    return np.asarray(jax.image.resize(result, (len(images), SIZE, SIZE), "linear"))


WANTED = [name for name in METHODS if fits(name, "convolutional")]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("method", WANTED)
def test_maps_point_at_the_only_difference(method):
    """Checks the map, and its change when the nucleolus is removed.

    The images differ nowhere else, and the middle of the cell, where most nucleoli are, is the same
    in both.
    """
    _, images, truth, _ = learned()
    cells = images.any(-1)
    maps = maps_of(method)
    lost = maps - maps_of(method, nucleoli=False)
    result, change = pointing(maps, truth, cells), pointing(lost, truth, cells)
    centre = pointing([checks.centre_gaussian(SIZE)] * len(images), truth, cells)
    chance = pointing([checks.random_map(SIZE, i) for i in range(len(images))], truth, cells)
    if "SHOW" in os.environ:
        print(f"{method}: {result:.2f}, change {change:.2f}; {centre=:.2f} {chance=:.2f}")
    assert abs(chance - 0.5) < 0.05
    assert result > chance + 0.1
    assert change > max(chance, centre) + 0.05


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("method", ["gradcam", "hirescam", "integrated_gradients"])
def test_randomised_parameters_destroy_the_map(method):
    """Cascading from the head and layer by layer, in the cell (the outline is always visible)."""
    net, images, truth, _ = learned()
    cells, plain = images.any(-1), maps_of(method)
    order = checks.layers(net, SIZE)[::-1]

    def remaining(names: list[str]) -> tuple[float, float]:
        """Returns rank correlation with the map, and pointing; means over seeds."""
        after = [maps_of(method, tuple(names), seed) for seed in range(4)]
        correlations = [
            checks.rank_correlation(a[c], b[c])
            for maps in after
            for a, b, c in zip(plain, maps, cells, strict=True)
        ]
        return float(np.mean(correlations)), float(
            np.mean([pointing(m, truth, cells) for m in after])
        )

    cascade = [remaining(order[:count]) for count in (1, 2, 4, 6, len(order))]
    alone = {name: remaining([name])[0] for name in order if not name.startswith("norm")}
    if "SHOW" in os.environ:
        print(method, cascade, alone)
    assert abs(cascade[-1][0]) < 0.3
    centre = pointing([checks.centre_gaussian(SIZE)] * len(images), truth, cells)
    assert cascade[-1][1] < centre
    assert max(alone.values()) < 0.8


@pytest.mark.slow
@pytest.mark.long
def test_deleting_the_pixels_of_a_map_lowers_the_probability():
    """With a blurred and a mean-cell baseline, against maps without information."""
    net, images, _, prepare = learned()
    apply = jax.jit(lambda x: jax.nn.softmax(net.logits(x)))
    predict = lambda x: np.asarray(apply(prepare(x)))  # noqa: E731
    maps = {
        "gradcam": maps_of("gradcam"),
        "random": [checks.random_map(SIZE, i) for i in range(len(images))],
        "centre": [checks.centre_gaussian(SIZE)] * len(images),
    }
    for baseline in (lambda i, c: explainer.blurred(i, c, SIZE / 8), checks.mean_cell):
        area = {}
        for name, values in maps.items():
            areas = []
            for image, map in zip(images[:16], values[:16], strict=True):
                cell = image.any(-1)
                frames = checks.curves(predict, image, baseline(image, cell), map, cell, 1, 10)
                areas.append([curve.mean() for curve in frames])
            area[name] = np.mean(areas, 0)
        if "SHOW" in os.environ:
            print(area)
        for control in ("random", "centre"):
            assert area["gradcam"][0] < area[control][0] - 0.05
            assert area["gradcam"][1] > area[control][1] + 0.05
