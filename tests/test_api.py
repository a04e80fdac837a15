"""The public API: what users import, and what it leaves alone."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import leukjax as lj


class NoTrain(nn.Module):
    """A model that leukjax cannot call."""

    @nn.compact
    def __call__(self, images):
        return nn.Dense(2)(jnp.mean(images, (1, 2)))


class Noise(nn.Module):
    """A model with an rng that leukjax does not give."""

    @nn.compact
    def __call__(self, images, *, train):
        x = jnp.mean(images, (1, 2))
        return nn.Dense(2)(x + jax.random.normal(self.make_rng("noise"), x.shape))


class Counter(nn.Module):
    """A model with a collection that leukjax does not keep."""

    @nn.compact
    def __call__(self, images, *, train):
        count = self.variable("counts", "steps", lambda: jnp.zeros(()))
        if train:
            count.value += 1
        return nn.Dense(2)(jnp.mean(images, (1, 2)))


class Tiny(nn.Module):
    """A model that is not registered."""

    width: int = 4

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.relu(nn.Conv(self.width, (3, 3), (4, 4))(images))
        return nn.Dense(2)(jnp.mean(x, (1, 2)))


@pytest.fixture(scope="module")
def data():
    """Squares of two sizes, eight per group."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(24), 6)
    labels = groups % 2
    images = rng.integers(0, 30, (len(labels), 32, 32, 3), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        half = 10 if label else 6
        image[16 - half : 16 + half, 16 - half : 16 + half] += rng.integers(100, 200, 3, np.uint8)
    return lj.Arrays(images, labels, groups=groups, classes=("small", "large"))


@pytest.fixture(scope="module")
def split(data):
    return lj.split_by_group(data, seed=0)


# One object: trainers with equal models and this optimizer share what they compile.
ADAM = optax.adam(3e-3)


def trainer(**options):
    small = {"image_size": 32, "batch_size": 16, "epochs": 2, "optimizer": ADAM}
    model = options.pop("model", None) or lj.create_model("cnn", num_classes=2, width=8)
    return lj.Trainer(model, **{**small, **options})


@pytest.fixture(scope="module")
def workdir(split, tmp_path_factory):
    """A run with own loss, metric and callback, and its test scores."""
    folder = tmp_path_factory.mktemp("api") / "run"
    events = []
    made = trainer(
        loss=lambda logits, labels: optax.softmax_cross_entropy_with_integer_labels(logits, labels),
        augment=lambda key, images, positions: images[:, ::-1],
        metrics={"half_brier": lambda labels, p: np.mean((p[:, 1] - labels) ** 2)},
        callbacks=[events.append],
    )
    run = made.fit(split.train, split.val, workdir=folder, test=split.test)
    assert isinstance(run, lj.Predictor)
    kinds = [event.kind for event in events]
    assert kinds.count("evaluation") == kinds.count("checkpoint") == 2
    assert kinds.count("step") == 2 * (len(split.train) // 16)
    return folder


def test_every_public_name_is_there():
    assert set(lj.__all__) == {*lj._PUBLIC, "__version__"}
    for name in lj.__all__:
        assert getattr(lj, name) is not None
        assert name in dir(lj)
    with pytest.raises(AttributeError, match="no attribute 'Trianer'"):
        _ = lj.Trianer
    # The names for type checkers are the same ones.
    tree = ast.parse(Path(lj.__file__).read_text())
    checked = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module != "typing"
        for alias in node.names
    }
    assert checked == set(lj._PUBLIC)


IMPORT = """
import signal, sys, warnings, logging
before = (signal.getsignal(signal.SIGTERM), list(warnings.filters), logging.root.level)
import leukjax
assert "jax" not in sys.modules, "import leukjax is slow"
for name in leukjax.__all__:
    getattr(leukjax, name)
import cv2, jax
assert cv2.getNumThreads() > 0
assert before == (signal.getsignal(signal.SIGTERM), list(warnings.filters), logging.root.level)
assert jax.config.jax_compilation_cache_dir is None
"""


def test_importing_changes_nothing():
    # What the dependencies add to the warning filters is theirs.
    done = subprocess.run(
        [sys.executable, "-c", IMPORT.replace("list(warnings.filters), ", "")],
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("JAX_")},
    )
    assert done.returncode == 0, done.stderr


def test_a_run_resumes_to_the_same_bits(split, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    trainer().fit(split.train, split.val, workdir=whole)

    class Cut(Exception):
        pass

    def stop(event):
        if event.kind == "checkpoint":
            raise Cut

    with pytest.raises(Cut):
        trainer(callbacks=[stop]).fit(split.train, split.val, workdir=cut)
    trainer().fit(split.train, split.val, workdir=cut)
    for name in ("predictions/val.csv", "split.csv"):
        assert (whole / name).read_bytes() == (cut / name).read_bytes()
    with pytest.raises(ValueError, match=r"seed: 0 -> 1"):
        trainer(seed=1).fit(split.train, split.val, workdir=cut)


def test_predictions_and_scores(workdir, data, split):
    run = lj.load(workdir)
    found = run.predict([data._images[0], data._images[-1]])
    assert found.dtype == np.float32
    assert found.shape == (2, 2)
    scores = run.evaluate(split.test)
    assert scores.by_image["accuracy"].value > 0.9
    assert "balanced accuracy" in str(scores).lower()
    log = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [0 <= line["half_brier"] <= 1 for line in log if line["part"] == "val"] == [True] * 2
    assert "learning_rate" not in log[0]  # the optimizer has its own
    config = json.loads((workdir / "config.json").read_text())
    assert config["optimizer"]["name"] == config["loss"]["name"] == "custom"
    assert config["model"]["name"] == "cnn"
    assert config["model"]["width"] == 8
    assert config["data"]["name"] == "arrays"


def test_runs_are_compared(workdir, tmp_path):
    sentences = lj.compare_runs([workdir, f"again={workdir}"], tmp_path / "report")
    assert sentences
    assert (tmp_path / "report" / "report.html").is_file()


def test_a_model_without_a_name(split, tmp_path):
    run = trainer(model=Tiny()).fit(split.train, split.val, workdir=tmp_path / "run")
    first = run.evaluate(split.val).by_image["accuracy"].value
    again = lj.load(tmp_path / "run", model=Tiny()).evaluate(split.val)
    assert again.by_image["accuracy"].value == first
    with pytest.raises(ValueError, match=r"sows no features; add self\.sow"):
        run.features([np.zeros((40, 40, 3), np.uint8)])
    with pytest.raises(ValueError, match=r"pass it to leukjax\.load\(run, model=…\)"):
        lj.load(tmp_path / "run")
    message = r"^model: does not fit .*/run: Conv_0/bias is \(4,\) in the run, \(6,\) in the model$"
    with pytest.raises(ValueError, match=message):
        lj.load(tmp_path / "run", model=Tiny(width=6))
    config = tmp_path / "run" / "config.json"
    config.write_text(config.read_text().replace('"name": "custom"', '"name": "of_mine"', 1))
    with pytest.raises(ValueError, match="import the file that registers it, or give model="):
        lj.load(tmp_path / "run")


def test_a_loop_of_your_own(split):
    made = trainer(donate=False, class_weights="balanced")
    state = made.init_state(split.train)
    records = split.train.dataset.prepare(32)
    rows = split.train.rows[:16]
    batch = {
        "image": records.images(rows),
        "label": records.manifest.label[rows].astype(np.int32),
    }
    before = made.evaluate(state, split.val)["loss"]
    new = state
    for _ in range(10):
        new, metrics = made.train_step(new, batch)
    assert set(metrics) == {"loss", "grad_norm"}
    assert float(metrics["loss"]) < 0.5
    assert int(new.step) == 10
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(state))  # donate=False
    assert made.evaluate(state, split.val)["loss"] == before
    assert made.eval_step(new, batch).shape == (16, 2)
    assert repr(made) == "Trainer(CNN, 2 classes, 32 px, batches of 16, 2 epochs, 8 devices)"


def test_batches_of_your_own_train_and_resume(split, tmp_path):
    records = split.train.dataset.prepare(32)

    def batches(first):
        for step in range(first, 100):
            rows = np.random.default_rng(step).choice(split.train.rows, 16)
            yield {"image": records.images(rows), "label": records.manifest.label[rows]}

    options = {"mean": (0.3,) * 3, "std": (0.2,) * 3}
    whole = trainer(**options).fit(batches, split.val, workdir=tmp_path / "a", steps_per_epoch=5)
    assert whole.evaluate(split.val).by_image["accuracy"].value > 0.8
    table = (tmp_path / "a" / "predictions" / "val.csv").read_bytes()
    trainer(**options).fit(list(batches(0)), split.val, workdir=tmp_path / "b", steps_per_epoch=5)
    assert (tmp_path / "b" / "predictions" / "val.csv").read_bytes() == table
    few = list(batches(0))[:3]
    with pytest.raises(ValueError, match="ended after 3 batches, and the run needs 10"):
        trainer(**options).fit(few, split.val, workdir=tmp_path / "c", steps_per_epoch=5)
    with pytest.raises(ValueError, match="mean is fitted to training images"):
        trainer().fit(batches, split.val, workdir=tmp_path / "d", steps_per_epoch=5)
    with pytest.raises(ValueError, match=r"^steps_per_epoch: give it"):
        trainer(**options).fit(batches, split.val, workdir=tmp_path / "e")


def test_trainers_that_differ_in_numbers_share_what_is_compiled():
    optimizer = optax.adam(1e-3)
    first = trainer(optimizer=optimizer)
    second = trainer(optimizer=optimizer, seed=5, mean=(0.1,) * 3)
    assert first.compiled() is second.compiled()
    assert trainer(optimizer=optax.adam(1e-3)).compiled() is not first.compiled()


def test_from_config_is_the_command(tmp_path):
    fields = {
        "data.smears_subjects": 18,
        "data.smears_cells": 8,
        "data.image_size": 24,
        "model.width": 8,
        "train.batch_size": 16,
        "train.epochs": 1,
    }
    config = lj.load_config("cnn", fields)
    run = lj.Trainer.from_config(config).fit(workdir=tmp_path / "run")
    assert (tmp_path / "run" / "summary.json").is_file()
    assert run.classes == ("blast", "healthy") or len(run.classes) == 2
    without_data = lj.Trainer.from_config(config, num_classes=2)
    with pytest.raises(ValueError, match="fit needs training and validation images"):
        without_data.fit(workdir=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_what_was_given_in_python_is_recognised_at_resume(split, tmp_path):
    folder = tmp_path / "run"

    def loss(logits, labels):
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)

    same = {"loss": loss, "augment": lambda key, images, positions: images[:, ::-1]}
    trainer(**same).fit(split.train, split.val, workdir=folder)
    trainer(**same, optimizer=optax.adam(3e-3)).fit(split.train, split.val, workdir=folder)
    for changes, name in (
        ({"optimizer": optax.adam(3e-2)}, "optimizer"),
        ({"optimizer": optax.sgd(3e-3)}, "optimizer"),
        ({"loss": lambda logits, labels: 2 * loss(logits, labels)}, "loss"),
        ({"augment": None}, "augment"),
        ({"model": Tiny()}, "model"),
    ):
        with pytest.raises(ValueError, match=rf"differs from this one: .*{name}"):
            trainer(**{**same, **changes}).fit(split.train, split.val, workdir=folder)
    trainer(model=Tiny()).fit(split.train, split.val, workdir=tmp_path / "tiny")
    with pytest.raises(ValueError, match=r"python\.model"):
        trainer(model=Tiny(width=6)).fit(split.train, split.val, workdir=tmp_path / "tiny")


def test_test_images_may_come_after_the_training(split, tmp_path, capsys):
    folder = tmp_path / "run"
    run = trainer().fit(split.train, split.val, workdir=folder)
    assert "images/s" in capsys.readouterr().err  # a line per validation
    with pytest.raises(ValueError, match=r"fit\(…, test=split\.test\)"):
        lj.compare_runs([folder, folder], tmp_path / "report")
    run.evaluate(split.test)
    run.evaluate(split.val)
    trainer().fit(split.train, split.val, workdir=folder, test=split.test, verbose=False)
    assert capsys.readouterr().err == ""
    ledger = (folder / "test_openings.jsonl").read_text().splitlines()
    assert [json.loads(line).get("by", "") for line in ledger] == ["Predictor.evaluate", ""]
    assert (folder / "summary.json").is_file()


def test_batches_of_a_subset_are_those_of_fit(split):
    made = trainer()
    first = next(made.batches(split.train))
    later = next(made.batches(split.train, 3))
    assert first["image"].shape == (16, 32, 32, 3)
    assert not np.array_equal(first["index"], later["index"])
    state = made.init_state(split.train)
    state, _ = made.train_step(state, first)
    assert int(state.step) == 1


def _batch(**changes):
    return {"image": np.zeros((16, 32, 32, 3), np.uint8), "label": np.zeros(16, np.int32)} | changes


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        (_batch(image=np.zeros((16, 32, 32, 3), np.float32)), TypeError, r"uint8 in 0 to 255"),
        (_batch(image=np.zeros((16, 40, 40, 3), np.uint8)), ValueError, r"expected \(16, 32"),
        (_batch(image=np.zeros((16, 32, 32, 1), np.uint8)), ValueError, r"expected \(16, 32"),
        (_batch(label=np.full(16, 5)), ValueError, r"labels are in 5\.\.5; expected 0\.\.1"),
        (_batch(label=np.full(16, -1)), ValueError, r"labels are in -1\.\.-1"),
        (_batch(label=np.zeros(16)), TypeError, r"label is float64\[16\]; expected int\[16\]"),
        (_batch(label=np.zeros((16, 2), int)), TypeError, "label is int64"),
        (
            {name: value[:12] for name, value in _batch().items()},
            ValueError,
            "has 12 images, not a multiple of the 8 devices",
        ),
        ({"image": _batch()["image"], "labels": 0}, TypeError, "image, label, and has image"),
        ((1, 2), TypeError, "must be a dictionary"),
    ],
)  # fmt: skip
def test_batches_are_checked(batch, error, message):
    made = trainer(mean=(0.5,) * 3, std=(0.25,) * 3)
    with pytest.raises(error, match=message):
        made.train_step(made.init_state(), batch)


def test_a_state_that_was_used_is_named(split):
    made = trainer(mean=(0.5,) * 3, std=(0.25,) * 3)
    state = made.init_state()
    made.train_step(state, _batch())
    with pytest.raises(ValueError, match="donate=False"):
        made.train_step(state, _batch())
    with pytest.raises(ValueError, match=r"^state: its memory was reused"):
        made.evaluate(state, split.val)
    assert repr(state).startswith("TrainState(memory reused by train_step, ")
    assert repr(made.init_state()).startswith("TrainState(step 0, ")


def test_a_batch_may_have_more_fields():
    made = trainer(mean=(0.5,) * 3, std=(0.25,) * 3)
    state, _ = made.train_step(made.init_state(), _batch(name=["a cell"] * 16))
    assert int(state.step) == 1


def test_a_mesh_of_explicit_axes_is_sharded_by_xla(split):
    made = trainer(mesh=jax.make_mesh((4, 2), ("data", "model")))
    state = made.init_state(split.train)
    state, _ = made.train_step(state, next(made.batches(split.train)))
    assert int(state.step) == 1
    with pytest.raises(ValueError, match=r"^batch_size=18: not divisible by the 4 devices"):
        trainer(batch_size=18, mesh=jax.make_mesh((4, 2), ("data", "model"))).init_state(
            split.train
        )


def test_a_loop_checks_its_data_as_fit_does(data, split):
    parts = lj.split_by_group(lj.Arrays(data._images, np.arange(144) % 3))
    made = trainer(mean=(0.5,) * 3, std=(0.25,) * 3)
    state = made.init_state()
    for call in (made.init_state, made.batches, lambda subset: made.evaluate(state, subset)):
        with pytest.raises(ValueError, match="the model has 2 classes, the data have 3"):
            call(parts.train)
    with pytest.raises(TypeError, match=r"^subset: expected a Subset"):
        made.evaluate(state, (1, 2))


def test_fit_names_the_argument_that_is_missing(split, tmp_path):
    made = trainer(optimizer=optax.sgd(1e30), mean=(0.5,) * 3, std=(0.25,) * 3)
    for arguments, message in (
        ({"train": split.train}, "^val: fit needs validation images"),
        ({"train": [], "steps_per_epoch": 2}, "^val: give a Subset"),
        ({"train": [], "steps_per_epoch": 2, "val": split.val, "test": split.test}, "^test: "),
    ):
        with pytest.raises(ValueError, match=message):
            made.fit(**arguments, workdir=tmp_path / "run")
    with pytest.raises(TypeError, match=r"^train: expected a Subset, as split.train, or batches"):
        made.fit(3, split.val, workdir=tmp_path / "run")
    with pytest.raises(ValueError, match=r"lower the learning rate of your optimizer, or add"):
        made.fit(split.train, split.val, workdir=tmp_path / "run")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: trainer(model=Tiny), TypeError, "got the class Tiny; give an instance"),
        (lambda: trainer(model=NoTrain()), TypeError, "takes no 'train'"),
        (
            lambda: trainer(loss=lambda a, b: jnp.mean(a)),
            ValueError,
            "loss: must return one",
        ),
        (lambda: trainer(loss="custom"), ValueError, "loss=custom: give a function"),
        (lambda: trainer(augment=lambda k, x, p: x[:, :16]), ValueError, "augment: must return"),
        (lambda: trainer(augment={"flip": True}), TypeError, "augment: expected leukjax.Augment"),
        (
            lambda: trainer(metrics={"accuracy": len}),
            ValueError,
            "name of a built-in score",
        ),
        (lambda: trainer(metrics=[len]), TypeError, "metrics: expected a dictionary"),
        (lambda: trainer(callbacks=print), TypeError, "callbacks: expected a list"),
        (lambda: trainer(mesh=jax.devices()), ValueError, "mesh: expected a jax.sharding.Mesh"),
        (lambda: lj.split_by_group([1]), TypeError, "expected a Dataset, as lj.Arrays"),
        (lambda: trainer(epcohs=3), TypeError, "unexpected keyword argument 'epcohs'"),
        (lambda: trainer(optimizer="adam"), TypeError, "expected an optax transformation"),
        (lambda: trainer(optimizer=optax.lbfgs()), ValueError, "line search"),
        (
            lambda: trainer(
                optimizer=optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau())
            ),
            ValueError,
            r"asks for more than .*reduce_on_plateau, cannot be used\): .*value",
        ),
        (lambda: trainer(loss=optax.softmax_cross_entropy), TypeError, "loss: .*class indices"),
        (lambda: trainer(loss=lambda logits: logits), TypeError, "loss: .*positional"),
        (lambda: trainer(augment=lambda images: images), TypeError, "augment: .*positional"),
        (
            lambda: trainer(augment=lambda k, x, p: (255 * x).astype(jnp.uint8)),
            ValueError,
            r"augment: must return float images in \[0, 1\].* returns uint8\[4, 32, 32, 3\]",
        ),
        (lambda: trainer(metrics={"mine": lambda p: 0}), TypeError, "metrics: 'mine' is called"),
        (lambda: trainer(callbacks=[lambda: 0]), TypeError, "callbacks: number 0 is called"),
        (lambda: trainer(mean=0.5), TypeError, "^mean: expected a text, or one number per colour"),
        (lambda: trainer(mean=(0.5,)), ValueError, "^mean=0.5: must be auto, fit, or three"),
        (lambda: trainer(std=(0, 1, 1)), ValueError, "^std=0.0,1.0,1.0: must be above 0"),
        (lambda: trainer(image_size=(32, 32)), ValueError, r"^image_size=.* a whole number$"),
        (lambda: trainer(class_weights=(1, 2, 3)), ValueError, "^class_weights=.*2 numbers above"),
        (lambda: trainer(freeze="stemm"), ValueError, "^freeze=stemm: matches no parameter"),
        (lambda: trainer(freeze=".*"), ValueError, r"^freeze=\.\*: freezes every parameter"),
        (lambda: trainer(augment=lj.Augment(rotate=-5)), ValueError, r"^augment\.rotate=-5"),
        (lambda: trainer(model=Noise()), ValueError, "only the rng 'dropout' .*make_rng|Rng"),
        (lambda: trainer(model=Counter()), ValueError, "needs the collection 'counts'"),
        (lambda: trainer(mean=(0.5,) * 3).evaluate(None, None), TypeError, "^state: expected"),
        (lambda: lj.create_model("resnet18", num_classes="3"), TypeError, "^num_classes: expected"),
        (lambda: lj.create_model("cnn", 3, dtype="bf16"), TypeError, "^dtype: 'bf16' is no"),
        (lambda: trainer(model="resnet50"), TypeError, "did you mean leukjax.create_model"),
        (lambda: trainer(loss="hinge"), ValueError, "^loss=hinge: must be one of .*, ldam$"),
        (lambda: trainer(batch_size=0), ValueError, "batch_size"),
        (lambda: trainer().init_state(), ValueError, r"mean is fitted to training images"),
        (lambda: lj.create_model("resnet51", num_classes=2), ValueError, "did you mean 'resnet50'"),
        (lambda: lj.create_model("cnn", num_classes=2, widht=3), TypeError, "did you mean 'width'"),
        (lambda: lj.register_model("x", 3), TypeError, "^factory: expected a class or function"),
        (lambda: lj.register_optimizer("x", 3), TypeError, "^factory: expected a function"),
        (
            lambda: lj.load_config("cnn", {"data.rot": "x"}),
            ValueError,
            r"^data\.rot: .* data\.root",
        ),
        (lambda: lj.load("nowhere"), ValueError, "nowhere"),
        (lambda: lj.load_config("resnet51"), ValueError, "no shipped config"),
    ],
)
def test_errors_are_of_the_library(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_parts_of_two_data_sets_or_with_shared_images_are_refused(split, data, tmp_path):
    with pytest.raises(ValueError, match="1 groups are in two subsets, as '12' in train and val"):
        trainer().fit(
            data.subset(np.arange(0, 75)), data.subset(np.arange(75, 144)), workdir=tmp_path
        )
    only = data.subset(split.val.rows[data.manifest.label[split.val.rows] == 0])
    with pytest.raises(ValueError, match="val: has no image of the class 'large'"):
        trainer().fit(split.train, only, workdir=tmp_path / "run")
    with pytest.raises(TypeError, match=r"got a Split; give split\.train"):
        trainer().fit(split, workdir=tmp_path / "run")
    other = lj.split_by_group(lj.Arrays(data._images, [0, 1] * 72), seed=0)
    with pytest.raises(ValueError, match="val: must be a subset of the same data set"):
        trainer().fit(split.train, other.val, workdir=tmp_path / "run")
    with pytest.raises(ValueError, match="val: shares images with train"):
        trainer().fit(split.train, split.train, workdir=tmp_path / "run")
    parts = lj.split_by_group(lj.Arrays(data._images, np.arange(144) % 3))
    with pytest.raises(ValueError, match="the model has 2 classes, the data have 3"):
        trainer().fit(parts.train, parts.val, workdir=tmp_path / "run")


def test_the_version(capsys):
    done = subprocess.run(
        [sys.executable, "-m", "leukjax", "--version"], capture_output=True, text=True
    )
    assert done.stdout.strip() == f"leukjax {lj.__version__}" or lj.__version__ in done.stdout
