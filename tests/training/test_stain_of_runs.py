"""Stain normalisation of a run: fitted to training images, recorded, applied by every command."""

import json
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import linen as nn
from scipy.special import log_softmax

import leukjax as lj
from leukjax import config as configs
from leukjax.export.stablehlo import probabilities_of
from leukjax.images import stain as stains
from leukjax.rundir import RunDir
from leukjax.sharding import make_mesh
from leukjax.training.compiled import StepSpec, compiled_steps
from leukjax.training.hyperparameters import fit_stain, step_options
from leukjax.training.trainer import train

PLAIN = {"augment.flip": False, "augment.quarter_turns": False, "train.batch_size": 8}


def test_only_training_images_are_measured():
    rng, asked = np.random.default_rng(0), []

    def images(rows):
        asked.extend(rows.tolist())
        return rng.integers(1, 256, (len(rows), 16, 16, 3), dtype=np.uint8)

    records = SimpleNamespace(images=images, background="bright")
    config = configs.load("cnn", {"data.stain": "reinhard"})
    rows = np.arange(0, 3000, 3)
    fitted = fit_stain(config, records, rows)
    assert set(asked) <= set(rows.tolist())
    assert len(set(asked)) == 256
    assert {0, 2997} <= set(asked)
    assert fitted.target.shape == (2, 4)
    assert fit_stain(configs.load("cnn"), records, rows) is None


TARGET = [[-0.4, 0.05, 0.02, 0.0], [0.2, 0.05, 0.03, 0.0]]


def _reinhard(images):
    floats = images.astype(np.float32) / 255
    return stains.normalize(floats, np.float32(TARGET), stains.Stain("reinhard", True))


def test_a_recorded_target_is_applied(finished_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    plain = lj.load(folder)
    recorded = json.loads((folder / "preprocessing.json").read_text())
    assert recorded["stain"] == "none"
    recorded |= {"stain": "reinhard", "stain_target": TARGET, "background": "black"}
    config = json.loads((folder / "config.json").read_text())
    config["data"]["stain"] = "reinhard"
    (folder / "preprocessing.json").write_text(json.dumps(recorded))
    (folder / "config.json").write_text(json.dumps(config))
    member, other = lj.load(folder).member, plain.member
    images = np.random.default_rng(0).integers(0, 256, (3, 24, 24, 3), dtype=np.uint8)
    expected = (_reinhard(images) - np.float32(recorded["mean"])) / np.float32(recorded["std"])
    np.testing.assert_allclose(member.normalize(images), expected, rtol=1e-3, atol=1e-3)
    assert np.abs(member.outputs(images).probabilities - other.outputs(images).probabilities).max()


class Linear(nn.Module):
    """The smallest model."""

    @nn.compact
    def __call__(self, images, *, train):
        return nn.Dense(2)(images.reshape(len(images), -1))


def test_training_and_validation_see_normalised_images():
    config = configs.load("default", {"data.stain": "reinhard", "mesh.data": 1} | PLAIN)
    spec = StepSpec(Linear(), 2, 8, step_options(config, "black"), make_mesh(config.mesh, 8))
    steps, half = compiled_steps(spec), np.full(3, 0.5, np.float32)
    fields = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), steps.form.settings)
    state = steps.init(
        fields.replace(mean=half, std=half, stain_target=np.float32(TARGET), swa_start=half[0])
    )
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    batch = {"image": images, "label": rng.integers(0, 2, 8).astype(np.int32)}
    dense = jax.device_get(state.params["Dense_0"])
    inputs = ((np.asarray(_reinhard(images)) - 0.5) / 0.5).reshape(8, -1)
    logits = inputs @ dense["kernel"] + dense["bias"]
    np.testing.assert_allclose(steps.eval_step(state, batch), logits, rtol=1e-3, atol=1e-3)
    loss = -log_softmax(logits, 1)[np.arange(8), batch["label"]].mean()
    assert float(steps.train_steps[1](state, batch)[1]["loss"]) == pytest.approx(loss, rel=1e-3)


@pytest.mark.slow
def test_a_run_with_stain_normalisation(tmp_path, monkeypatch):
    """Training, `load` and export give the same predictions."""
    monkeypatch.setenv("LEUKJAX_CACHE", str(tmp_path / "cache"))
    fields = {
        "data.smears_subjects": 12,
        "data.smears_cells": 6,
        "data.image_size": 24,
        "model.width": 8,
        "train.batch_size": 16,
        "train.epochs": 1,
        "data.stain": "macenko",
    }
    outcome = train(configs.load("cnn", fields), tmp_path / "run")
    run, records = lj.load(tmp_path / "run"), outcome.run.data.records
    recorded = json.loads((tmp_path / "run" / "preprocessing.json").read_text())
    assert recorded["stain"] == "macenko"
    target = np.array(recorded["stain_target"])
    np.testing.assert_allclose(np.linalg.norm(target[:, :3], axis=1), 1, rtol=1e-5)

    rows = outcome.run.data.rows("test")
    images = records.images(rows)
    probabilities = run.predict(images)
    exported = jax.jit(probabilities_of(run.member))(images)
    np.testing.assert_allclose(probabilities, exported, atol=1e-5)
    table = RunDir(tmp_path / "run").predictions("test")
    np.testing.assert_allclose(probabilities, table.probabilities, atol=1e-5)
    # Without its target the network sees other images.
    member = run.member
    raw = member.normalization.replace(stain=None)(images)
    assert np.abs(member.normalize(images) - raw).max() > 0.05
