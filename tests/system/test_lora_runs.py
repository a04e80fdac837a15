"""Runs with LoRA: what they save, that they resume bit-exactly, and what predicts from them."""

import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util
from safetensors.numpy import save_file

from leukjax import Arrays, Trainer, load, split_by_group
from leukjax import config as configs
from leukjax.checkpoints import reader
from leukjax.data.datasets import make_dataset
from leukjax.errors import UserError
from leukjax.export.cli import write_safetensors
from leukjax.models.registry import create_model
from leukjax.rundir import RunDir
from leukjax.training.trainer import train
from leukjax.weights import base, cli, layouts
from leukjax.weights.source import of_file

pytestmark = pytest.mark.slow

SMALL = {
    "data.smears_subjects": 12,
    "data.smears_cells": 6,
    "data.image_size": 16,
    "data.mean": "0.5,0.5,0.5",
    "data.std": "0.25,0.25,0.25",
    "train.batch_size": 16,
    "train.epochs": 2,
    "optimizer.learning_rate": 1e-2,
    "optimizer.lora_rank": 2,
}


def settings(folder: Path, **changes):
    fields = {"data.cache_dir": str(folder / "cache"), "init.weights": str(folder / "base")}
    fields |= {name.replace("__", "."): value for name, value in changes.items()}
    return configs.load("vit", SMALL | fields)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """The base, a file of weights, and a finished run."""
    folder = tmp_path_factory.mktemp("lora")
    shapes = jax.eval_shape(
        lambda: create_model("vit", 2).init(
            jax.random.key(0), jnp.zeros((1, 16, 16, 3)), train=False
        )
    )
    random = np.random.default_rng(0)
    variables = {
        path: (0.05 * random.normal(size=leaf.shape)).astype(np.float32)
        for path, leaf in traverse_util.flatten_dict(shapes).items()
    }
    tensors = layouts.timm_tensors("vit", variables, 0)
    without_head = {name: value for name, value in tensors.items() if "head" not in name}
    save_file(without_head, folder / "base")
    train(settings(folder), folder / "run")
    return folder


def checkpoint(run: Path) -> dict[str, np.ndarray]:
    _, tree = reader.for_evaluation(run / "checkpoints", "latest", lower_is_better=False)
    return traverse_util.flatten_dict(tree["params"], sep="/")


def images(count: int = 3) -> list[np.ndarray]:
    random = np.random.default_rng(1)
    return list(random.integers(0, 256, (count, 16, 16, 3), np.uint8))


def test_a_checkpoint_holds_updates_and_head_and_no_base(place):
    saved = checkpoint(place / "run")
    assert {path for path in saved if not path.endswith(("lora_a", "lora_b"))} == {
        "head/kernel",
        "head/bias",
    }
    assert any(np.any(value) for path, value in saved.items() if path.endswith("lora_b"))
    size = sum(f.stat().st_size for f in (place / "run" / "checkpoints").rglob("*") if f.is_file())
    assert size < (place / "base").stat().st_size


def test_merged_equals_unmerged(place, tmp_path):
    """The run scored test with base and updates apart; `load` and the export merge them."""
    run = load(place / "run")
    table = RunDir(place / "run").predictions("test")
    scored = run.evaluate(make_dataset(settings(place).data)).predictions
    row = {name: number for number, name in enumerate(scored.id.tolist())}
    rows = [row[name] for name in table.id.tolist()]
    np.testing.assert_allclose(scored.probabilities[rows], table.probabilities, atol=1e-6)

    write_safetensors(place / "run", tmp_path / "out")
    flat = traverse_util.flatten_dict({"params": run.members[0].variables["params"]})
    source = of_file(tmp_path / "out" / "model.safetensors")
    mapped = base.mapped(source, flat, allow="", new_head=False)
    for path, value in flat.items():
        np.testing.assert_array_equal(mapped.values[path], value, err_msg=str(path))


def test_a_resumed_run_ends_with_the_same_bits(place, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(place / "run", run)
    newest = max(int(name) for name in os.listdir(run / "checkpoints") if name.isdigit())
    shutil.rmtree(run / "checkpoints" / str(newest))
    shutil.rmtree(run / "predictions")
    train(settings(place), run)
    assert checkpoint(run).keys() == checkpoint(place / "run").keys()
    for path, value in checkpoint(place / "run").items():
        np.testing.assert_array_equal(checkpoint(run)[path], value, err_msg=path)
    again, first = (RunDir(each).predictions("test") for each in (run, place / "run"))
    np.testing.assert_array_equal(again.probabilities, first.probabilities)


def test_the_base_is_found_by_its_checksum_alone(place, tmp_path, monkeypatch):
    expected = load(place / "run").predict(images())
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    monkeypatch.setenv("LEUKJAX_CACHE", str(moved / "cache"))
    run = moved / "run"
    shutil.copytree(place / "run", run)
    with pytest.raises(UserError, match=r"this machine does not know the file.*weights add FILE"):
        load(run)
    shutil.copy(place / "base", moved / "base")
    cli.main([], [], ["add", str(moved / "base")])
    np.testing.assert_array_equal(load(run).predict(images()), expected)
    (moved / "base").write_bytes((place / "base").read_bytes() + b" ")
    with pytest.raises(UserError, match="has changed"):
        load(run)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init__weights": ""}, "random weights would be frozen"),
        ({"optimizer__freeze_stages": 2}, "freezes all but its updates"),
        ({"init__weights": "RUN"}, "is a run, and LoRA needs a file"),
    ],
)
def test_what_lora_cannot_do_is_one_line(place, tmp_path, changes, message):
    changes = {k: str(place / "run") if v == "RUN" else v for k, v in changes.items()}
    with pytest.raises(UserError, match=message) as error:
        train(settings(place, **changes), tmp_path / "run")
    assert "\n" not in str(error.value)


def test_a_run_with_lora_is_no_file_of_weights(place, tmp_path):
    changes = {"init__weights": str(place / "run"), "optimizer__lora_rank": 0}
    with pytest.raises(UserError, match="is a run with LoRA"):
        train(settings(place, **changes), tmp_path / "run")


def test_a_trainer_in_python_trains_the_updates_alone(place, tmp_path):
    pixels = np.stack(images(48))
    brightness = pixels.mean((1, 2, 3))
    data = Arrays(pixels, (brightness > np.median(brightness)).astype(int))
    trainer = Trainer(
        create_model("vit", 2),
        optimizer=optax.adam(1e-2),
        weights=place / "base",
        lora_rank=2,
        image_size=16,
        batch_size=16,
        epochs=2,
    )
    split = split_by_group(data, seed=0)
    trainer.fit(split.train, split.val, workdir=tmp_path / "run")
    saved = checkpoint(tmp_path / "run")
    updates = {path for path in saved if path.endswith(("lora_a", "lora_b"))}
    assert set(saved) - updates == {"head/kernel", "head/bias"}
    assert all(np.any(saved[path]) for path in updates)
    probabilities = load(tmp_path / "run").predict(images())
    assert probabilities.shape == (3, 2)


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("vit", "", "^lora_rank=2: random weights would be frozen; give weights=FILE"),
        ("cnn", "base", "^lora_rank=2: the model has no attn/qkv"),
    ],
)
def test_a_trainer_in_python_names_its_argument(place, name, weights, message):
    file = place / weights if weights else ""
    with pytest.raises(ValueError, match=message):
        Trainer(create_model(name, 2), weights=file, lora_rank=2, image_size=16).init_state(
            steps_per_epoch=1
        )
