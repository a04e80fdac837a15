"""Training recipes in the step, against NumPy: mixing, losses for rare classes, averages."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from scipy.special import log_softmax

from leukjax import config as configs
from leukjax import sharding
from leukjax.images.mix import mix
from leukjax.training import state as states
from leukjax.training.compiled import StepSpec, compiled_steps
from leukjax.training.hyperparameters import step_options

SIZE, BATCH = 8, 16
PLAIN = {
    "data.image_size": SIZE,
    "train.batch_size": BATCH,
    "augment.flip": False,
    "augment.quarter_turns": False,
    "optimizer.name": "sgd",
    "optimizer.momentum": 0.0,
}
COUNTS, WEIGHTS = np.array([100.0, 10.0, 1.0]), np.array([0.2, 0.8, 2.0])


class Linear(nn.Module):
    """The smallest model."""

    @nn.compact
    def __call__(self, images, *, train):
        return nn.Dense(3)(images.reshape(len(images), -1))


def settings(**changes):
    zero = jnp.float32(0)
    fields = {
        "seed": jnp.uint32(0),
        "mean": jnp.full(3, 0.5),
        "std": jnp.full(3, 0.25),
        "class_weights": jnp.asarray(WEIGHTS, jnp.float32),
        "learning_rate": jnp.float32(0.1),
        "total_steps": jnp.float32(20),
        "warmup_steps": zero,
        "step_every": jnp.float32(5),
    }
    return (states.RecipeSettings if changes else states.Settings)(**fields, **changes)


def recipe(counts=COUNTS, deferred=0, swa=0):
    numbers = {"deferred_steps": jnp.float32(deferred), "swa_start": jnp.float32(swa)}
    counts = jnp.asarray(counts, jnp.float32)
    return settings(class_counts=counts, stain_target=jnp.zeros((2, 4)), **numbers)


def steps_of(devices=1, **changes):
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    config = configs.load("default", {**PLAIN, "mesh.data": devices, **dotted})
    mesh = sharding.make_mesh(config.mesh, BATCH)
    return compiled_steps(StepSpec(Linear(), 3, SIZE, step_options(config, "black"), mesh))


def batch(seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (BATCH, SIZE, SIZE, 3), dtype=np.uint8)
    return {"image": images, "label": rng.integers(0, 3, BATCH).astype(np.int32)}


@functools.cache
def mixed_batch():
    """What the first step of the seed 0 makes of `batch`, and the shares."""
    key = jax.random.fold_in(jax.random.key(0), 0)
    return mix(key, batch()["image"] / np.float32(255), jnp.arange(BATCH), 0.4, 1.0)


def logits_of(state, images):
    dense = state.params["Dense_0"]
    inputs = ((images - 0.5) / 0.25).reshape(BATCH, -1).astype(np.float64)
    return inputs @ dense["kernel"] + dense["bias"]


def terms(logits, labels, name, smoothing):
    """The loss of each example, by definition."""
    one_hot = np.eye(3)[labels]
    if name == "ldam":
        logits = logits - one_hot * 0.5 * (COUNTS.min() / COUNTS) ** 0.25
    log_p = log_softmax(logits, axis=1)
    if name == "focal":
        log_p = (1 - np.exp(log_p)) ** 2 * log_p
    target = (1 - smoothing) * one_hot + smoothing / 3
    return -(target * log_p).sum(1)


@pytest.mark.parametrize(
    ("name", "smoothing", "devices", "accumulate"),
    [("focal", 0.1, 8, 1), ("ldam", 0.0, 1, 4)],
)
def test_the_loss_of_a_mixed_batch(name, smoothing, devices, accumulate):
    """It is the class-weighted mean over both labels, each with its share."""
    steps = steps_of(
        devices,
        augment__mixup=0.4,
        augment__cutmix=1.0,
        loss__name=name,
        loss__label_smoothing=smoothing,
        train__accumulate=accumulate,
    )
    state = steps.init(recipe() if name == "ldam" else settings())
    before, given = jax.device_get(state), batch()
    state, metrics = steps.train_steps[1](state, given)

    mixed, share = mixed_batch()
    logits, share = logits_of(before, np.asarray(mixed)), np.asarray(share, np.float64)
    labels, others = given["label"], np.roll(given["label"], -1)
    own, other = share * WEIGHTS[labels], (1 - share) * WEIGHTS[others]
    first, second = (terms(logits, y, name, smoothing) for y in (labels, others))
    expected = np.sum(own * first + other * second) / np.sum(own + other)
    assert float(metrics["loss"]) == pytest.approx(expected, rel=2e-5)
    right = share * (logits.argmax(1) == labels) + (1 - share) * (logits.argmax(1) == others)
    assert float(state.totals.correct) == pytest.approx(right.sum(), rel=1e-5)


def test_class_weights_are_used_from_the_deferred_step_on():
    steps = steps_of(loss__deferred="1 steps", loss__class_weights="balanced")
    state = steps.init(recipe(deferred=1))
    for weights in (np.ones(3), WEIGHTS):
        before, given = jax.device_get(state), batch()
        state, metrics = steps.train_steps[1](state, given)
        labels = given["label"]
        losses = terms(logits_of(before, given["image"] / 255), labels, "cross_entropy", 0.0)
        expected = np.average(losses, weights=weights[labels])
        assert float(metrics["loss"]) == pytest.approx(expected, rel=2e-5)


def test_one_compilation_serves_all_counts_and_starts():
    steps = steps_of(loss__name="ldam", train__swa="1 epochs")
    for made in (recipe(swa=2), recipe([3, 4, 5], swa=9)):
        steps.train_steps[1](steps.init(made), batch())
    assert steps.train_steps[1]._cache_size() == 1


def test_the_average_is_the_mean_of_the_parameters_from_its_start_on():
    steps = steps_of(train__swa="3 steps")
    state, kernels = steps.init(recipe(swa=3)), []
    for step in range(6):
        state, _ = steps.train_steps[1](state, batch(step))
        kernels.append(np.asarray(state.params["Dense_0"]["kernel"], np.float64))
        average = np.asarray(state.ema_params["Dense_0"]["kernel"])
        if step < 3:
            np.testing.assert_array_equal(average, state.params["Dense_0"]["kernel"])
    np.testing.assert_allclose(average, np.mean(kernels[2:], axis=0), rtol=1e-6, atol=1e-7)
    assert np.abs(average - kernels[-1]).max() > 1e-3
    evaluated = state.for_evaluation()["params"]["Dense_0"]["kernel"]
    np.testing.assert_array_equal(evaluated, average)


def test_runs_without_a_recipe_keep_their_state():
    """More fields would make the checkpoints of earlier versions unreadable."""
    assert list(vars(states.settings_form(3))) == [
        *("seed", "mean", "std", "class_weights"),
        *("learning_rate", "total_steps", "warmup_steps", "step_every"),
    ]
    assert type(steps_of().form.settings) is states.Settings
