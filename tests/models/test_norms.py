"""Normalisation with its own backward pass, against Flax's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from leukjax.errors import UserError
from leukjax.models.norms import BatchNorm, GroupNorm, Layers, make_norm

SHAPE = (8, 5, 4, 6)


def _features(shape=SHAPE, offset=1.5):
    return (np.random.default_rng(0).normal(size=shape) * 2 + offset).astype(np.float32)


def _variables(channels):
    draw = np.random.default_rng(1).normal
    params = {
        "scale": 1 + 0.3 * draw(size=channels).astype(np.float32),
        "bias": draw(size=channels).astype(np.float32),
    }
    statistics = {
        "mean": draw(size=channels).astype(np.float32),
        "var": np.exp(draw(size=channels)).astype(np.float32),
    }
    return {"params": params, "batch_stats": statistics}


def _gradients(apply, variables, x):
    weights = jnp.asarray(np.random.default_rng(2).normal(size=x.shape), jnp.float32)

    def loss(params, x):
        return jnp.sum(weights * jnp.tanh(apply({**variables, "params": params}, x)))

    return jax.jit(jax.grad(loss, (0, 1)))(variables["params"], x)


def _assert_trees_close(ours, theirs, tolerance=1e-5):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance * (1 + np.abs(b).max())),
        ours,
        theirs,
    )


def _train(module, **options):
    return lambda variables, x: module.apply(variables, x, mutable=["batch_stats"], **options)


def test_batch_norm_is_flaxs():
    x, variables = _features(), _variables(6)
    ours = _train(BatchNorm(), train=True)
    theirs = _train(nn.BatchNorm(momentum=0.9, epsilon=1e-5), use_running_average=False)
    _assert_trees_close(ours(variables, x), theirs(variables, x))
    _assert_trees_close(
        _gradients(lambda v, x: ours(v, x)[0], variables, x),
        _gradients(lambda v, x: theirs(v, x)[0], variables, x),
    )


def test_a_large_mean_costs_no_digits():
    # The one-pass formula is wrong in every digit here.
    x = _features(offset=3000.0)
    y, updated = _train(BatchNorm(), train=True)(_variables(6), x)
    wide = x.astype(np.float64)
    mean, var = wide.mean((0, 1, 2)), wide.var((0, 1, 2))
    params = _variables(6)["params"]
    expected = (wide - mean) / np.sqrt(var + 1e-5) * params["scale"] + params["bias"]
    np.testing.assert_allclose(y, expected, atol=2e-3)
    running = updated["batch_stats"]["var"]
    np.testing.assert_allclose(
        running, 0.9 * _variables(6)["batch_stats"]["var"] + 0.1 * var, rtol=1e-3
    )


def test_evaluation_and_frozen_use_the_running_averages():
    x, variables = _features(), _variables(6)
    theirs = nn.BatchNorm(use_running_average=True, epsilon=1e-5).apply(variables, x)
    np.testing.assert_allclose(BatchNorm().apply(variables, x, train=False), theirs, atol=1e-5)
    y, updated = _train(BatchNorm(frozen=True), train=True)(variables, x)
    np.testing.assert_allclose(y, theirs, atol=1e-5)
    _assert_trees_close(updated["batch_stats"], variables["batch_stats"], 0)


def test_sub_batches_are_batches_of_their_own():
    x, variables = _features(), _variables(6)
    whole, parts = _train(BatchNorm(), train=True), _train(BatchNorm(sub_batch=2), train=True)
    y, updated = parts(variables, x)
    each = [whole(variables, x[start : start + 2]) for start in range(0, 8, 2)]
    np.testing.assert_allclose(y, np.concatenate([out for out, _ in each]), atol=1e-5)
    mean = jax.tree.map(lambda *leaves: np.mean(leaves, 0), *[stats for _, stats in each])
    _assert_trees_close(updated, mean)

    def one_by_one(variables, x):
        return jnp.concatenate([whole(variables, x[i : i + 2])[0] for i in range(0, 8, 2)])

    _assert_trees_close(
        _gradients(lambda v, x: parts(v, x)[0], variables, x), _gradients(one_by_one, variables, x)
    )


def test_a_sub_batch_that_does_not_divide_the_batch_is_refused():
    with pytest.raises(UserError, match="norm_batch=3"):
        _train(BatchNorm(sub_batch=3), train=True)(_variables(6), _features())


@pytest.mark.parametrize("sub_batch", [0, 2, 8])
def test_any_number_of_devices_gives_the_same(sub_batch):
    x, variables = _features((16, 5, 4, 6)), _variables(6)
    module = BatchNorm(sub_batch=sub_batch)

    def step(variables, x):
        apply = functools.partial(module.apply, train=True, mutable=["batch_stats"])
        gradients = _gradients(lambda v, x: apply(v, x)[0], variables, x)
        return apply(variables, x), gradients

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    whole = NamedSharding(mesh, PartitionSpec())
    sharded = jax.jit(step, in_shardings=(whole, NamedSharding(mesh, PartitionSpec("data"))))
    _assert_trees_close(sharded(variables, x), jax.jit(step)(variables, x))
    if sub_batch == 2:  # as many images as a device holds: the forward pass needs no other
        forward = jax.jit(
            lambda variables, x: module.apply(variables, x, train=True, mutable=["batch_stats"])[0],
            in_shardings=(whole, NamedSharding(mesh, PartitionSpec("data"))),
        )
        text = forward.lower(variables, x).compile().as_text()
        assert "all-reduce" not in text
        assert "all-gather" not in text


def test_the_same_bits_every_time():
    x, variables = _features((8, 12, 12, 32)), _variables(32)
    module = BatchNorm()
    step = jax.jit(
        lambda v, x: _gradients(
            lambda v, x: module.apply(v, x, train=True, mutable=["batch_stats"])[0], v, x
        )
    )
    first = step(variables, x)
    for _ in range(5):
        _assert_trees_close(step(variables, x), first, 0)


@pytest.mark.parametrize(("images", "channels"), [(8, 64), (1, 64), (3, 48)])
def test_group_norm_is_flaxs(images, channels):
    x = _features((images, 5, 4, channels))
    variables = {"params": _variables(channels)["params"]}
    groups = {64: 32, 48: 16}[channels]  # 32 does not divide 48
    theirs = nn.GroupNorm(groups, use_fast_variance=False)
    ours = functools.partial(GroupNorm().apply, train=True)
    np.testing.assert_allclose(ours(variables, x), theirs.apply(variables, x), atol=1e-5)
    _assert_trees_close(_gradients(ours, variables, x), _gradients(theirs.apply, variables, x))


def test_statistics_are_float32_in_bfloat16_models():
    x = _features().astype(jnp.bfloat16)
    y, updated = _train(BatchNorm(), train=True)(_variables(6), x)
    assert y.dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(updated))
    exact, _ = _train(BatchNorm(), train=True)(_variables(6), x.astype(jnp.float32))
    np.testing.assert_allclose(y.astype(jnp.float32), exact, atol=0.05)


def test_the_layer_of_an_option():
    assert make_norm("group", 0, Layers())() == GroupNorm()
    assert make_norm("batch", 4, Layers())() == BatchNorm(sub_batch=4)
    assert make_norm("frozen", 0, Layers(), epsilon=1e-3)() == BatchNorm(frozen=True, epsilon=1e-3)
