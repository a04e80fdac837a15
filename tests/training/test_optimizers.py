"""Optimisers against PyTorch's and optax' definitions, schedules against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from leukjax import config
from leukjax.training.optimizers import average_decay, decays, learning_rate, make_transform

PARAMS = {"dense": {"kernel": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "bias": jnp.array([0.1, 0.2])}}
GRADS = {"dense": {"kernel": jnp.array([[0.3, -0.1], [0.2, 4.0]]), "bias": jnp.array([1.0, -1.0])}}


def _options(**changes) -> ConfigDict:
    options = config.load("default").optimizer
    options.update(changes)
    return options


def _run(options, rate=0.1, steps=5):
    transform, params = make_transform(options), PARAMS
    state = transform.init(params)
    for index in range(steps):
        grads = jax.tree.map(lambda g: g * (1 + index), GRADS)  # noqa: B023
        updates, state = transform.update(grads, state, params, learning_rate=rate)
        params = optax.apply_updates(params, updates)
    return params


def _reference(transform, steps=5):
    params, state = PARAMS, transform.init(PARAMS)
    for index in range(steps):
        grads = jax.tree.map(lambda g: g * (1 + index), GRADS)  # noqa: B023
        updates, state = transform.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params


MASK = {"dense": {"kernel": True, "bias": False}}


@pytest.mark.parametrize(
    ("options", "reference"),
    [
        ({"name": "adam"}, optax.adam(0.1)),
        (
            {"name": "adam", "weight_decay": 0.3},
            optax.chain(optax.add_decayed_weights(0.3, MASK), optax.adam(0.1)),
        ),
        (
            {"name": "adamw", "weight_decay": 0.3, "b2": 0.9},
            optax.adamw(0.1, b2=0.9, weight_decay=0.3, mask=MASK),
        ),
        ({"name": "sgd", "momentum": 0.8}, optax.sgd(0.1, momentum=0.8)),
        (
            {"name": "sgd", "momentum": 0.0, "clip_norm": 0.5},
            optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.1)),
        ),
    ],
)
def test_equal_to_optax(options, reference):
    ours, theirs = _run(_options(**options)), _reference(reference)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_the_decay_mask_is_a_regular_expression_over_paths():
    assert decays("kernel$")(PARAMS) == MASK
    assert decays("^dense/bias")(PARAMS) == {"dense": {"kernel": False, "bias": True}}


def _rates(schedule, steps, **changes):
    values = {"peak": 0.4, "total_steps": 100.0, "warmup_steps": 0.0, "step_every": 30.0} | changes
    traced = jax.jit(
        lambda step, v: learning_rate(step, schedule=schedule, final=0.1, step_factor=0.5, **v)
    )
    as_arrays = {name: jnp.float32(value) for name, value in values.items()}
    return [float(traced(jnp.int32(step), as_arrays)) for step in steps]


def test_schedules():
    assert _rates("constant", [0, 99]) == pytest.approx([0.4, 0.4])
    assert _rates("cosine", [0, 50, 100]) == pytest.approx([0.4, 0.22, 0.04])
    assert _rates("step", [0, 29, 30, 60]) == pytest.approx([0.4, 0.4, 0.2, 0.1])


def test_warm_up_is_linear_and_ends_at_the_peak():
    rates = _rates("cosine", [0, 4, 9, 10], warmup_steps=10.0)
    assert rates == pytest.approx([0.04, 0.2, 0.4, 0.4])


def test_cosine_agrees_with_optax():
    reference = optax.warmup_cosine_decay_schedule(0.0, 0.4, 10, 100, end_value=0.04)
    steps = list(range(10, 100, 7))
    ours = _rates("cosine", steps, warmup_steps=10.0)
    assert ours == pytest.approx([float(reference(step)) for step in steps], rel=1e-5)


def test_the_decay_of_averages_starts_low_and_ends_at_the_field():
    decays = [float(average_decay(jnp.int32(step), 0.999)) for step in (0, 1, 90, 8989, 8992)]
    assert decays == pytest.approx([0.1, 2 / 11, 0.91, 8990 / 8999, 0.999], rel=1e-6)
    assert decays[3] < 0.999


def test_averages_forget_the_random_start():
    """A constant decay of 0.999 left 81 % of the initial weights after 210 steps."""
    remaining = np.prod([float(average_decay(jnp.int32(step), 0.999)) for step in range(210)])
    assert remaining < 1e-12
