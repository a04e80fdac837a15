"""Optimisers against PyTorch's and optax' definitions, schedules against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from ml_collections import ConfigDict

from leukjax import config
from leukjax.errors import UserError
from leukjax.training.optimizer_registry import BY_FIELDS, OF_OPTAX, register_optimizer
from leukjax.training.optimizers import (
    Schedule,
    average_decay,
    decays,
    from_config,
    from_optax,
    learning_rate,
    parse_options,
)

PARAMS = {"dense": {"kernel": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "bias": jnp.array([0.1, 0.2])}}
GRADS = {"dense": {"kernel": jnp.array([[0.3, -0.1], [0.2, 4.0]]), "bias": jnp.array([1.0, -1.0])}}


def _options(**changes) -> ConfigDict:
    options = config.load("default").optimizer
    options.update(changes)
    return options


def _run(options, rate=0.1, steps=5):
    optimizer, params = from_config(options), PARAMS
    state = optimizer.init(params)
    for index in range(steps):
        grads = jax.tree.map(lambda g: g * (1 + index), GRADS)  # noqa: B023
        updates, state = optimizer.update(grads, state, params, rate)
        params = optax.apply_updates(params, updates)
    return params


def _reference(transform, steps=5):
    params, state = PARAMS, transform.init(PARAMS)
    for index in range(steps):
        grads = jax.tree.map(lambda g: g * (1 + index), GRADS)  # noqa: B023
        updates, state = transform.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params


def _clipped(transform):
    return optax.chain(optax.clip_by_global_norm(0.5), transform)


def _rmsprop(rate):
    return optax.rmsprop(rate, momentum=0.9, nesterov=True)


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


@pytest.mark.parametrize(
    ("options", "reference"),
    [
        ({"name": "lion", "options": "b1=0.95"}, lambda rate: optax.lion(rate, b1=0.95, mask=MASK)),
        ({"name": "adafactor"}, optax.adafactor),
        ({"name": "lamb", "clip_norm": 0.5}, lambda rate: _clipped(optax.lamb(rate, mask=MASK))),
        (
            {"name": "nadamw", "options": "weight_decay=0.2"},
            lambda rate: optax.nadamw(rate, weight_decay=0.2, mask=MASK),
        ),
        ({"name": "muon"}, optax.contrib.muon),
        ({"name": "rmsprop", "options": "momentum=0.9, nesterov=True"}, _rmsprop),
    ],
)
def test_optimizers_of_optax_by_name(options, reference):
    ours, theirs = _run(_options(**options)), _reference(reference(0.1))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_every_optimizer_on_the_list_updates_its_parameters():
    names = [*BY_FIELDS, *OF_OPTAX]
    assert len(names) > 20
    for name in names:
        params = jax.jit(lambda rate, name=name: _run(_options(name=name), rate, 2))(0.1)
        for new, old in zip(jax.tree.leaves(params), jax.tree.leaves(PARAMS), strict=True):
            assert np.isfinite(new).all(), name
            assert not np.array_equal(new, old), name


def test_schedule_free_evaluates_other_parameters_than_it_trains():
    optimizer = from_config(_options(name="schedule_free_adamw", options="b1=0.95"))
    reference = optax.contrib.schedule_free_adamw(0.1, b1=0.95)
    params, state = PARAMS, optimizer.init(PARAMS)
    theirs, their_state = PARAMS, reference.init(PARAMS)
    for _ in range(3):
        updates, state = optimizer.update(GRADS, state, params, 0.1)
        params = optax.apply_updates(params, updates)
        updates, their_state = reference.update(GRADS, their_state, theirs)
        theirs = optax.apply_updates(theirs, updates)
    found = optimizer.evaluation_params(state, params)
    expected = optax.contrib.schedule_free_eval_params(their_state, theirs)
    for a, b, trained in zip(*map(jax.tree.leaves, (found, expected, params)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
        assert not np.allclose(a, trained)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "lion", "options": "b3=1"}, "lion has no option b3; did you mean b"),
        ({"name": "lion", "options": "b1"}, "must read NAME=VALUE"),
        ({"name": "lion", "options": "b1=__import__('os')"}, "must read NAME=VALUE"),
        ({"name": "lion", "options": "b1='x'"}, "lion refuses it"),
        ({"name": "lion", "options": "learning_rate=1"}, "lion has no option learning_rate"),
        ({"name": "lion", "b1": 0.8}, r"--config\.optimizer\.b1=0.8: belongs to adam, adamw, sgd"),
        ({"name": "adam", "options": "b1=0.8"}, "adam has fields of its own"),
        ({"name": "schedule_free_sgd", "freeze_stages": 1}, "cannot freeze parameters"),
        ({"name": "custom"}, "given in Python"),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        from_config(_options(**options))


def test_options_are_literals_and_bounded():
    assert parse_options("b1=0.9, nesterov=True, shape=(1, 2)") == {
        "b1": 0.9,
        "nesterov": True,
        "shape": (1, 2),
    }
    assert parse_options("") == {}
    for text in ("a=" + "(" * 1500, "a=" + "1" * 3000, "**{}", "1", "a=1)(b=2"):
        with pytest.raises(UserError, match=r"optimizer\.options"):
            parse_options(text)


def test_an_optimizer_with_a_line_search_is_refused_by_name():
    with pytest.raises(ValueError, match=r"line searches such as optax\.lbfgs"):
        from_optax(optax.lbfgs(), PARAMS)
    with pytest.raises(TypeError, match=r"expected an optax transformation, .* got 'adam'"):
        from_optax("adam", PARAMS)


def test_labels_by_the_names_of_a_model_fit_only_that_model():
    transform = optax.multi_transform(
        {"fast": optax.sgd(1.0), "slow": optax.sgd(0.1)},
        {"dense": {"kernel": "fast", "bias": "slow"}},
    )
    assert from_optax(transform, PARAMS).has_own_rate
    with pytest.raises(ValueError, match="does not fit the parameters of the model"):
        from_optax(transform, {"other": {"kernel": jnp.ones(2)}})


def test_registered_optimizers():
    def half_sgd(learning_rate, share=0.5):
        return optax.sgd(share * learning_rate)

    register_optimizer("half_sgd_of_a_test", half_sgd)
    register_optimizer("half_sgd_of_a_test")(half_sgd)  # a cell of a notebook, run twice
    ours = _run(_options(name="half_sgd_of_a_test", options="share=0.25"))
    theirs = _reference(optax.sgd(0.025))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert "half_sgd_of_a_test" in config.fields()["optimizer.name"].values
    with pytest.raises(ValueError, match="'lion' exists already"):
        register_optimizer("lion", half_sgd)
    with pytest.raises(ValueError, match="must be an identifier"):
        register_optimizer("half sgd", half_sgd)


def test_equal_options_are_one_optimizer():
    """Else every run of a cross-validation would compile its own step."""
    assert from_config(_options(learning_rate=0.5)) is from_config(_options(learning_rate=0.1))
    assert from_config(_options(b1=0.5)) is not from_config(_options())


def test_the_decay_mask_is_a_regular_expression_over_paths():
    assert decays("kernel$")(PARAMS) == MASK
    assert decays("^dense/bias")(PARAMS) == {"dense": {"kernel": False, "bias": True}}


def _rates(schedule, steps, **changes):
    values = {"peak": 0.4, "total_steps": 100.0, "warmup_steps": 0.0, "step_every": 30.0} | changes
    traced = jax.jit(
        lambda step, v: learning_rate(step, Schedule(schedule, final=0.1, step_factor=0.5), **v)
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
