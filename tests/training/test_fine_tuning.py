"""Frozen parameters keep every bit and no optimiser slot; rates follow the depth."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_step import Small

from leukjax import config as configs
from leukjax.errors import UserError
from leukjax.models.registry import create_model
from leukjax.models.summary import layer_groups
from leukjax.sharding import path_name
from leukjax.training import optimizers, pretrained
from leukjax.training.fine_tuning import FineTuning


def named(tree):
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    return {path_name(path): np.asarray(leaf) for path, leaf in leaves}


def moved(trainer, steps=2):
    """Names of the parameters that a few steps change, what they were, and the state after them."""
    before = named(trainer.state.params)
    state, _, _ = trainer.run(steps)
    after = named(state.params)
    changed = {name for name in before if before[name].tobytes() != after[name].tobytes()}
    return changed, before, state


def test_frozen_parameters_keep_every_bit_and_no_slot():
    trainer = Small(
        "cnn",
        1,
        optimizer__freeze="^conv[12]/|norm3/bias",
        # All that could move a parameter: decoupled decay, clipping, rates, averages.
        optimizer__name="adamw",
        optimizer__weight_decay=0.1,
        optimizer__clip_norm=1.0,
        optimizer__layer_decay=0.5,
        train__ema_decay=0.9,
    )
    changed, start, state = moved(trainer)
    frozen = {"conv1/kernel", "conv2/kernel", "norm3/bias"}
    assert changed == set(start) - frozen
    averages = named(state.ema_params)
    assert all(averages[name].tobytes() == start[name].tobytes() for name in frozen)
    slots = set(named(state.opt_state))
    for name in start:
        held = any(slot.endswith(f"mu/{name}") for slot in slots)
        assert held == (name not in frozen), name
    assert trainer.train_step._cache_size() == 1


def test_a_linear_probe_changes_the_head_alone():
    trainer = Small("cnn", 1, optimizer__freeze_stages=-1, model__norm="frozen")
    statistics = named(trainer.state.batch_stats)
    changed, _, state = moved(trainer)
    assert changed == {"fc/kernel", "fc/bias"}
    for name, value in named(state.batch_stats).items():
        np.testing.assert_array_equal(value, statistics[name])


def test_rates_follow_the_depth():
    params = {name: {"kernel": jnp.ones(2)} for name in ("conv1", "layer1_0", "layer2_0", "fc")}
    options = configs.load(
        "default", {"optimizer.name": "sgd", "optimizer.momentum": 0.0}
    ).optimizer
    options.update(layer_decay=0.5, head_rate=3.0, freeze_stages=1)
    transform = optimizers.from_config(options)
    stop = FineTuning.of(options).stop_frozen
    gradients = jax.grad(lambda p: sum(x.sum() for x in jax.tree.leaves(stop(p))))(params)
    updates, _ = transform.update(gradients, transform.init(params), params, 2.0)
    found = {name: float(value["kernel"][0]) for name, value in updates.items()}
    assert found == {"conv1": 0.0, "layer1_0": -0.5, "layer2_0": -1.0, "fc": -6.0}


def test_no_optimizer_moves_a_frozen_parameter():
    """Weight decay of an optimizer that was not made from the config, for instance."""
    adamw = optax.adamw(1e-2, weight_decay=0.5)
    trainer = Small("cnn", 1, transform=adamw, optimizer__freeze="^(?!fc/)")
    assert moved(trainer, 1)[0] == {"fc/kernel", "fc/bias"}


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("resnet", {"depth": 18, "width": 4}, {"conv1": 0, "norm1": 0, "layer1_0": 1, "fc": 5}),
        ("bit", {"width": 32}, {"stem_conv": 0, "stage4_2": 4, "norm": 5, "head": 6}),
        (
            "hybrid_vit",
            {"norm": "group"},
            {"stem_norm": 0, "stage2_0": 2, "cls_token": 3, "block0": 4, "block5": 9, "norm": 10},
        ),
        (
            "vit",
            {"variant": "s14_reg4"},
            {"embedding": 0, "reg_token": 0, "block0": 1, "block11": 12, "norm": 13, "head": 14},
        ),
    ],
)
def test_every_family_has_an_order(name, options, expected):
    size = 28 if name == "vit" else 32
    params = pretrained.shapes(create_model(name, 2, **options), size)["params"]
    stages = layer_groups(
        path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)
    )
    for module, stage in expected.items():
        found = {stages[path] for path in stages if path.split("/")[0] == module}
        assert found == {stage}, module


PARAMS = {"conv1": {"kernel": jnp.ones((2, 2))}, "fc": {"kernel": jnp.ones(3)}}


def test_what_is_frozen_is_said_and_mistakes_are_refused():
    assert FineTuning().check(PARAMS) == ""
    assert FineTuning(freeze_stages=-1).check(PARAMS).startswith("3 of 7 parameters are trained")
    with pytest.raises(UserError, match=r"freeze=layer9: matches no parameter; .* conv1/kernel"):
        FineTuning(freeze="layer9").check(PARAMS)
    with pytest.raises(UserError, match=r"freeze_stages=2: freezes every parameter"):
        FineTuning(freeze_stages=2).check(PARAMS)
