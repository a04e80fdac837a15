"""A network that had nothing to learn but nucleoli: do its maps point at them?"""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from leukjax.data.synthetic import specimens
from leukjax.explain.attribution import curves, randomised
from leukjax.explain.attribution.methods import METHODS, Settings, attribute, fits
from leukjax.explain.attribution.network import Network
from leukjax.models.registry import create_model

SIZE = 48
STEPS = 300
UNSEEN = range(30, 34)
SETTINGS = Settings(window=8, stride=4, steps=32)


def drawn(subjects: range, *, nucleoli: bool):
    """One large nucleolus off the centre, or none, in cells that are else the same."""
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
    """A CNN that tells such cells from the same cells without, and images it has not seen."""
    module = create_model("cnn", 2, width=8)
    one, other = (drawn(range(24), nucleoli=on)[0] for on in (False, True))
    images, labels = np.concatenate([one, other]), np.repeat([0, 1], [len(one), len(other)])
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
            each = optax.softmax_cross_entropy_with_integer_labels(logits, y[rows])
            return each.mean(), new["batch_stats"]

        gradient, new = jax.grad(loss, has_aux=True)(params)
        change, after = optimizer.update(gradient, state)
        return optax.apply_updates(params, change), new, after

    random = np.random.default_rng(0)
    for _ in range(STEPS):
        params, stats, state = step(params, stats, state, random.integers(0, len(x), 32))
    net = Network(module, {"params": params, "batch_stats": stats})
    unseen, truth = drawn(UNSEEN, nucleoli=True)
    blank, _ = drawn(UNSEEN, nucleoli=False)
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
def compiled(method: str):
    net = learned()[0]
    return jax.jit(
        lambda v, x, t, b: attribute(net._replace(variables=v), x, t, method, SETTINGS, b)
    )


@functools.cache
def maps_of(method: str, redrawn: tuple[str, ...] = (), seed: int = 0, nucleoli: bool = True):
    net, images, _, prepare = learned()
    if not nucleoli:
        images, _ = drawn(UNSEEN, nucleoli=False)
    if redrawn:
        net = randomised.redrawn(net, redrawn, seed)
    blank = jnp.zeros((1, 1, 1, 3))
    if method in ("integrated_gradients", "occlusion"):
        blank = prepare(
            np.stack([curves.blurred(image, image.any(-1), SIZE / 8) for image in images])
        )
    targets = jnp.ones(len(images), jnp.int32)
    found = compiled(method)(net.variables, prepare(images), targets, blank)
    return np.asarray(jax.image.resize(found, (len(images), SIZE, SIZE), "linear"))


WANTED = [name for name in METHODS if fits(name, "convolutional")]


@pytest.mark.slow
@pytest.mark.parametrize("method", WANTED)
def test_maps_point_at_what_was_drawn_to_differ(method):
    """The map does, and most of all what it loses when the nucleolus is taken away.

    The latter has no doubt: the images differ nowhere else, and the middle of the cell, which is
    where nucleoli mostly are, is the same in both.
    """
    _, images, truth, _ = learned()
    cells = images.any(-1)
    maps = maps_of(method)
    lost = maps - maps_of(method, nucleoli=False)
    found, change = pointing(maps, truth, cells), pointing(lost, truth, cells)
    centre = pointing([curves.centre_gaussian(SIZE)] * len(images), truth, cells)
    chance = pointing([curves.random_map(SIZE, i) for i in range(len(images))], truth, cells)
    if "SHOW" in os.environ:
        print(f"{method}: {found:.2f}, change {change:.2f}; {centre=:.2f} {chance=:.2f}")
    assert abs(chance - 0.5) < 0.05
    assert found > chance + 0.1
    assert change > max(chance, centre) + 0.05


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gradcam", "hirescam", "integrated_gradients"])
def test_redrawn_parameters_destroy_the_map(method):
    """Cascading from the head, and part by part; in the cell, whose outline any network sees."""
    net, images, truth, _ = learned()
    cells, plain = images.any(-1), maps_of(method)
    order = randomised.parts(net, SIZE)[::-1]

    def left(parts: list[str]) -> tuple[float, float]:
        """Rank correlation with the map, and pointing; mean over draws."""
        after = [maps_of(method, tuple(parts), seed) for seed in range(4)]
        like = [
            randomised.rank_correlation(a[c], b[c])
            for maps in after
            for a, b, c in zip(plain, maps, cells, strict=True)
        ]
        return float(np.mean(like)), float(np.mean([pointing(m, truth, cells) for m in after]))

    cascade = [left(order[:count]) for count in (1, 2, 4, 6, len(order))]
    alone = {part: left([part])[0] for part in order if not part.startswith("norm")}
    if "SHOW" in os.environ:
        print(method, cascade, alone)
    assert abs(cascade[-1][0]) < 0.3
    centre = pointing([curves.centre_gaussian(SIZE)] * len(images), truth, cells)
    assert cascade[-1][1] < centre
    assert max(alone.values()) < 0.8


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
    for baseline in (lambda i, c: curves.blurred(i, c, SIZE / 8), curves.mean_cell):
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
