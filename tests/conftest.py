"""Eight fake devices for every test, and the real images where they are."""

import json
import os
import random
import shutil
import time
from pathlib import Path

# Before JAX is first imported by a test: devices cannot be added later. Commands that tests start
# as subprocesses do not inherit this.
import jax

jax.config.update("jax_num_cpu_devices", 8)
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[1]

# XLA compiles the small programs of tests in half the time with these. jax 0.11 has no fusion
# emitters to switch off, and XLA ends a process that names an unknown flag.
FAST_COMPILATION = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"


def pytest_configure(config):
    """Quick tests, and the commands they start, compile fast; slow ones compile as users do."""
    if "not slow" in config.option.markexpr and jax.__version_info__ < (0, 11):
        os.environ.setdefault("XLA_FLAGS", FAST_COMPILATION)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Skips slow tests after PROOFS_UNTIL, in seconds since 1970, which CI sets."""
    until = float(os.environ.get("PROOFS_UNTIL", "inf"))
    if item.get_closest_marker("slow") and time.time() > until:
        pytest.skip("no time was left for it in CI: run `make proofs`")


def pytest_collection_modifyitems(items):
    """Where slow tests may be skipped, each run begins with other modules."""
    if until := os.environ.get("PROOFS_UNTIL"):
        rank = {path: random.Random(f"{until} {path}").random() for path in {i.path for i in items}}
        items.sort(key=lambda item: rank[item.path])


@pytest.fixture(scope="module", autouse=True)
def no_compiled_functions_are_kept():
    """Without this the functions of all modules fill the memory, and each compilation is slower."""
    yield
    jax.clear_caches()


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
