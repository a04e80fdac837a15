"""The state of a run: one on the devices at every start, and saved only while it is finite."""

import gc
import json
import shutil

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from leukjax import config as configs
from leukjax.errors import Diverged, Stopped
from leukjax.training import final_evaluation, trainer
from leukjax.training.run import Run


def _live() -> int:
    """Bytes of all arrays over all devices; arrays of one device are views of their parts."""
    gc.collect()
    whole = (a for a in jax.live_arrays() if len(a.sharding.device_set) == len(jax.devices()))
    return sum(array.nbytes for array in whole)


@pytest.fixture
def measure(monkeypatch):
    """Runs a start; returns live bytes, in states, where training and each scoring begin."""

    def start(config, folder, *, stop):
        before, found, size = _live(), [], 0
        train, predict = trainer.train_loop, final_evaluation.predict

        def training(run, state, *rest):
            nonlocal size
            size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
            found.append(_live() - before)
            if stop:
                raise Stopped("measured")
            # As `Trainer.run` does: the only reference to the state is handed on.
            held = [state]
            del state
            train(run, held.pop(), *rest)

        def predicting(run, state, part):
            found.append(_live() - before)
            return predict(run, state, part)

        with monkeypatch.context() as patch:
            patch.setattr(trainer, "train_loop", training)
            patch.setattr(final_evaluation, "predict", predicting)
            try:
                trainer.train(config, folder)
            except Stopped:
                assert stop
        return [bytes_ / size for bytes_ in found]

    return start


@pytest.fixture
def config(trained_run):
    """That of the trained run, whose compiled functions are still there."""
    return ConfigDict(json.loads((trained_run / "config.json").read_text()))


def test_every_start_holds_one_state(measure, config, trained_run, tmp_path):
    assert measure(config, tmp_path / "fresh", stop=True) == [pytest.approx(1, abs=0.02)]

    pretrained = config.copy_and_resolve_references()
    configs.set_field(pretrained, "init.weights", str(trained_run))
    assert measure(pretrained, tmp_path / "pretrained", stop=True) == [pytest.approx(1, abs=0.02)]

    again = shutil.copytree(trained_run, tmp_path / "again")
    (again / "predictions" / "test.csv").unlink()
    # The last state while the run would train; the best alone while it is scored, on two parts.
    found = measure(config, again, stop=False)
    assert found == [pytest.approx(1, abs=0.02)] * 3


def test_a_state_that_is_not_finite_is_not_saved(config, tmp_path, monkeypatch):
    """Running statistics have no part in the loss of a training step, which stays finite."""
    fresh = Run.fresh_state

    def poisoned(run):
        state = fresh(run)
        spoil = jax.tree.map(lambda x: jax.device_put(x * jnp.nan, x.sharding), state.batch_stats)
        return state.replace(batch_stats=spoil)

    monkeypatch.setattr(Run, "fresh_state", poisoned)
    with pytest.raises(Diverged, match=r"batch_stats/\S+ is not finite after step 5: .* no check"):
        trainer.train(config, tmp_path / "run")
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []
    assert not (tmp_path / "run" / "predictions").exists()
