"""Eight fake devices for every test, and the real images where they are."""

import json
import os
import shutil
from pathlib import Path

# Before JAX is first imported by a test: devices cannot be added later. Commands that tests start
# as subprocesses do not inherit this.
import jax

jax.config.update("jax_num_cpu_devices", 8)
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images, which is no part of the project."""
    folder = REPOSITORY.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("the real images (../shared/data) are not on this machine")
    return folder


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Prepared images and compiled functions of tests never reach the user's cache folder."""
    if "LEUKJAX_CACHE" not in os.environ:
        os.environ["LEUKJAX_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory) -> Path:
    """The work directory of a small finished run on synthetic cells; to be read, not written."""
    from leukjax import config
    from leukjax.training.trainer import train

    folder = tmp_path_factory.mktemp("trained")
    small = {
        "data.cache_dir": str(folder / "cache"),
        "data.smears_subjects": 18,
        "data.smears_cells": 8,
        "data.image_size": 24,
        "model.width": 8,
        "train.batch_size": 16,
        "train.epochs": 2,
    }
    train(config.load("cnn", small), folder / "run")
    return folder / "run"


@pytest.fixture(scope="session")
def finished_run(trained_run, tmp_path_factory) -> Path:
    """The same run with the summary that the command writes at its end; to be read."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    shutil.copytree(trained_run, folder)
    preprocessing = json.loads((folder / "preprocessing.json").read_text())
    summary = {
        "model": "CNN",
        "parameters": 100,
        "flops_per_image": 1e6,
        "data": "smears",
        "synthetic": True,
        "subjects_known": True,
        "protocol": "subject",
        "leaky": False,
        "classes": preprocessing["classes"],
        "positive": preprocessing["positive"],
        "epoch_chosen": 1.0,
        "chosen_by": "balanced_accuracy on val",
        "test_openings": 1,
        "seconds_trained": 3.0,
        "device": "1 x CPU",
        "versions": preprocessing["versions"],
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder
