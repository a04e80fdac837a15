"""Training that diverges: no NaN is saved, and none is resumed from."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from leukjax.checkpoints.writer import Checkpoints
from leukjax.errors import Diverged, UserError
from leukjax.training import divergence
from leukjax.training.state import Settings, Totals, TrainState


def _state(**changes):
    zero = jnp.zeros(())
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params={"conv1": {"kernel": jnp.ones((4, 3))}, "fc": {"bias": jnp.ones(2)}},
        batch_stats={"norm1": {"var": jnp.ones(3)}},
        opt_state={"best": jnp.array(jnp.inf)},
        ema_params={},
        ema_batch_stats={},
        totals=Totals(*[zero] * 5),
        settings=Settings(*[zero] * 8),
    )
    return state.replace(**changes)


@pytest.fixture
def checkpoints(tmp_path):
    made = Checkpoints(tmp_path / "checkpoints", keep_latest=2, lower_is_better=False)
    yield made
    made.close()


def _metrics(loss, grad_norm):
    rates = np.array([0.1, 0.2, 0.3], np.float32)
    return {
        "loss": np.array(loss, np.float32),
        "grad_norm": np.array(grad_norm, np.float32),
        "learning_rate": rates,
    }


@pytest.mark.parametrize(
    ("loss", "grad_norm", "message"),
    [
        ([0.5, np.nan, np.nan], [1, 1, 1], r"the loss is nan at step 8, learning rate 0\.2"),
        # The parameters are lost already, and the loss does not show it.
        (
            [0.5, 0.5, 0.5],
            [1, 1, np.inf],
            r"the gradient norm is inf at step 9, learning rate 0\.3",
        ),
        ([0.5, 0.5, np.nan], [1, np.nan, 1], r"the gradient norm is nan at step 8"),
    ],
)
def test_metrics_are_named_at_their_own_step(checkpoints, loss, grad_norm, message):
    with pytest.raises(Diverged, match=message + ".*no checkpoint was saved before"):
        divergence.check_metrics(_metrics(loss, grad_norm), 9, checkpoints)
    checkpoints.save(4, {"x": jnp.ones(3)}, {}, None)
    with pytest.raises(Diverged, match=rf"is {re.escape(str(checkpoints.folder))}/4$") as raised:
        divergence.check_metrics(_metrics(loss, grad_norm), 9, checkpoints)
    assert "\n" not in str(raised.value)


def test_the_last_metrics_of_a_dispatch(checkpoints):
    values = divergence.check_metrics(_metrics([0.5, 0.4, 0.25], [1, 2, 3]), 9, checkpoints)
    assert values == {"loss": 0.25, "grad_norm": 3.0, "learning_rate": pytest.approx(0.3)}


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize("part", ["params", "batch_stats", "ema_params", "ema_batch_stats"])
def test_a_state_that_is_not_finite_is_named(checkpoints, part, value):
    state = _state(**{part: {"a": jnp.ones(3), "b": {"c": jnp.ones((2, 2)).at[1, 0].set(value)}}})
    with pytest.raises(Diverged, match=rf"^{part}/b/c is not finite after step 7: lower .*before$"):
        divergence.check_state(state, 7, checkpoints)


def test_a_finite_state_passes_whatever_its_optimizer_holds():
    assert divergence.not_finite(_state()) == ""


def test_every_part_of_a_sharded_array_is_looked_at():
    from jax.sharding import NamedSharding, PartitionSpec

    mesh = jax.make_mesh((8,), ("data",))
    values = np.ones((16, 2), np.float32)
    values[13, 1] = np.nan
    spread = jax.device_put(values, NamedSharding(mesh, PartitionSpec("data")))
    assert divergence.not_finite(_state(params={"w": spread})) == "params/w"


def test_a_checkpoint_that_is_not_finite_is_not_resumed_from(checkpoints):
    state = _state(params={"w": jnp.array([1.0, jnp.nan])})
    checkpoints.save(3, state, {}, 0.5)
    checkpoints.wait()
    with pytest.raises(UserError, match="checkpoints/3: params/w is not finite") as raised:
        divergence.restore(checkpoints, 3, state)
    assert "\n" not in str(raised.value)
