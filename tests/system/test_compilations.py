"""One compilation serves every fold, seed, learning rate and length of a config."""

import logging

import jax
import pytest
from runs import TINY

from leukjax import config
from leukjax.training.trainer import train

FOLDS = {"split.protocol": "kfold", "split.folds": 3, "split.held_out": "subject"}
# Everything that may differ between the runs of a cross-validation of one config.
VALUES = [
    {"split.fold": 0, "seed": 0},
    {"split.fold": 1, "seed": 5, "optimizer.learning_rate": 3e-4, "optimizer.warmup": "3 steps"},
    {"split.fold": 2, "seed": 7, "train.epochs": 2.0, "loss.class_weights": "balanced"},
]


class Compiled(logging.Handler):
    """Names of the functions that JAX compiles, from its own log."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        words = record.getMessage().split()
        if words[:2] == ["Finished", "XLA"]:  # "Finished XLA compilation of jit(NAME) in …"
            self.names.append(words[4])


@pytest.fixture
def compiled():
    handler, log = Compiled(), logging.getLogger("jax._src.dispatch")
    log.addHandler(handler)
    with jax.log_compiles():
        yield handler.names
    log.removeHandler(handler)


@pytest.mark.slow
def test_one_compilation_serves_all(tmp_path, monkeypatch, compiled):
    monkeypatch.setenv("LEUKJAX_CACHE", str(tmp_path / "cache"))
    once = {"train.epochs": 1.0, "runtime.compilation_cache": "none", "mesh.data": 1}
    for number, values in enumerate(VALUES):
        chosen = config.load("cnn", TINY | FOLDS | once | values)
        train(chosen, tmp_path / str(number))
    counts = {name: compiled.count(f"jit({name})") for name in ("init", "train_step", "eval_step")}
    assert counts == {"init": 1, "train_step": 1, "eval_step": 1}

    # And what is compiled in is compiled again: the count can differ.
    chosen = config.load("cnn", TINY | FOLDS | once | {"augment.flip": False})
    train(chosen, tmp_path / "other")
    assert compiled.count("jit(train_step)") == 2
