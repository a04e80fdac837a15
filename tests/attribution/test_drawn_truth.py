"""A network that had nothing to learn but nucleoli: do its maps point at them?"""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from leukjax import models
from leukjax.attribution import curves, randomised
from leukjax.attribution.methods import METHODS, Settings, attribute, fits
from leukjax.attribution.network import Network
from leukjax.data import drawing

SIZE = 32
SETTINGS = Settings(window=6, stride=3, steps=32)


def drawn(subjects: range, *, nucleoli: bool):
    """One large nucleolus off the centre, or none, in cells that are else the same."""
    changed = {
        "nucleolus_radius": (0.3 * nucleoli, 0, 0, 0),
        "nucleolus_distance": 0.6,
        "nucleolus_pallor": 0.8,
        "chromatin_contrast": 0.05,
    }
    blocks = [drawing.draw_block(7, i, 0, 12, SIZE, changed) for i in subjects]
    return np.concatenate([b.images for b in blocks]), np.concatenate([b.nucleoli for b in blocks])


@functools.cache
def learned():
    """A CNN that tells such cells from the same cells without, and images it has not seen."""
    module = models.create("cnn", 2, width=8)
    one, other = (drawn(range(24), nucleoli=on)[0] for on in (False, True))
    images, labels = np.concatenate([one, other]), np.repeat([0, 1], [len(one), len(other)])
    mean, std = images[images.any(-1)].mean(0), images[images.any(-1)].std(0)
    prepare = lambda x: jnp.asarray((x - mean) / std, jnp.float32)  # noqa: E731
    x = prepare(images)
    variables = module.init(jax.random.key(0), x[:1], train=False)
    params, stats = variables["params"], variables["batch_stats"]
    optimizer = optax.adam(3e-3)
    state = optimizer.init(params)

    @jax.jit
    def step(params, stats, state, rows, turns):
        seen = jnp.rot90(x[rows], 1, (1, 2))
        seen = jnp.where(turns[:, None, None, None], seen, x[rows])

        def loss(params):
            logits, new = module.apply(
                {"params": params, "batch_stats": stats}, seen, train=True, mutable=["batch_stats"]
            )
            each = optax.softmax_cross_entropy_with_integer_labels(logits, labels_[rows])
            return each.mean(), new["batch_stats"]

        labels_ = jnp.asarray(labels)
        gradient, new = jax.grad(loss, has_aux=True)(params)
        change, state_ = optimizer.update(gradient, state)
        return optax.apply_updates(params, change), new, state_

    random = np.random.default_rng(0)
    for _ in range(250):
        rows = random.integers(0, len(images), 32)
        params, stats, state = step(params, stats, state, rows, random.random(32) < 0.5)
    net = Network(module, {"params": params, "batch_stats": stats})
    unseen, truth = drawn(range(30, 34), nucleoli=True)
    blank, _ = drawn(range(30, 34), nucleoli=False)
    right = [
        (jax.jit(net.logits)(prepare(x)).argmax(1) == label).mean()
        for x, label in ((unseen, 1), (blank, 0))
    ]
    assert min(right) > 0.9, right
    return net, unseen, truth, prepare


def pointing(maps, truth, cells) -> float:
    """Mean AUROC of the nucleolus among the cell's pixels; 0.5 is chance."""
    found = []
    for map, own, cell in zip(maps, truth, cells, strict=True):
        if own.sum() < 4:
            continue
        ranks, inside = scipy.stats.rankdata(map[cell]), own[cell]
        n, m = inside.sum(), (~inside).sum()
        found.append((ranks[inside].sum() - n * (n + 1) / 2) / (n * m))
    return float(np.mean(found))


@functools.cache
def maps_of(method: str, redrawn: tuple[str, ...] = ()):
    net, images, _, prepare = learned()
    if redrawn:
        net = randomised.redrawn(net, redrawn)
    cells = images.any(-1)
    if method in ("integrated_gradients", "occlusion"):
        pairs = zip(images, cells, strict=True)
        blank = prepare(np.stack([curves.blurred(i, c, SIZE / 6) for i, c in pairs]))
    else:
        blank = jnp.zeros((1, 1, 1, 3))
    targets = jnp.ones(len(images), jnp.int32)
    found = jax.jit(lambda x, b: attribute(net, x, targets, method, SETTINGS, b))(
        prepare(images), blank
    )
    return np.asarray(jax.image.resize(found, (len(images), SIZE, SIZE), "linear"))


WANTED = [name for name in METHODS if fits(name, "cnn")]


@pytest.mark.slow
@pytest.mark.parametrize("method", WANTED)
def test_maps_point_at_what_was_drawn_to_differ(method):
    _, images, truth, _ = learned()
    cells = images.any(-1)
    found = pointing(maps_of(method), truth, cells)
    centre = pointing([curves.centre_gaussian(SIZE)] * len(images), truth, cells)
    chance = pointing([curves.random_map(SIZE, i) for i in range(len(images))], truth, cells)
    if "SHOW" in os.environ:
        print(method, found, "centre", centre, "random", chance)
    assert found > 0.75
    assert found > max(centre, chance) + 0.1


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gradcam", "hirescam", "integrated_gradients"])
def test_redrawn_parameters_destroy_the_map(method):
    """Cascading from the head: what is left is far from the map, and no longer points."""
    net, images, truth, _ = learned()
    order = randomised.parts(net, SIZE)[::-1]
    plain = maps_of(method)
    left = []
    for count in (1, 4, len(order)):
        after = maps_of(method, tuple(order[:count]))
        each = [randomised.rank_correlation(a, b) for a, b in zip(plain, after, strict=True)]
        left.append(np.mean(each))
    if "SHOW" in os.environ:
        print(method, left, pointing(after, truth, images.any(-1)))
    assert abs(left[-1]) < 0.5
    assert pointing(after, truth, images.any(-1)) < pointing(plain, truth, images.any(-1)) - 0.1


@pytest.mark.slow
def test_deleting_what_maps_name_takes_the_answer_away():
    """With a blurred and a mean-cell baseline, against maps that know nothing."""
    net, images, _, prepare = learned()
    apply = jax.jit(lambda x: jax.nn.softmax(net.logits(x)))
    predict = lambda x: np.asarray(apply(prepare(x)))  # noqa: E731
    maps = {
        "gradcam": maps_of("gradcam"),
        "random": [curves.random_map(SIZE, i) for i in range(len(images))],
        "centre": [curves.centre_gaussian(SIZE)] * len(images),
    }
    for baseline in (lambda i, c: curves.blurred(i, c, SIZE / 6), curves.mean_cell):
        area = {}
        for name, each in maps.items():
            both = []
            for image, map in zip(images[:16], each[:16], strict=True):
                cell = image.any(-1)
                frames = curves.curves(predict, image, baseline(image, cell), map, cell, 1, 10)
                both.append([curve.mean() for curve in frames])
            area[name] = np.mean(both, 0)
        if "SHOW" in os.environ:
            print(area)
        for control in ("random", "centre"):
            assert area["gradcam"][0] < area[control][0] - 0.05
            assert area["gradcam"][1] > area[control][1] + 0.05
