"""Configs: found by path or name, strict about fields, values and combinations."""

import json
from pathlib import Path

import pytest

from leukjax import config
from leukjax.errors import UserError
from leukjax.fields import Whole

SHIPPED = ("cnn", "resnet50", "hybrid_vit", "vit", "literature", "default")


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("dataset", ["", ":cnmc", ":all_idb2", ":image_folder"])
def test_every_shipped_config_loads_and_is_json(name, dataset):
    loaded = config.load(name + dataset)
    assert loaded.data.name == (dataset[1:] or "smears")
    assert json.loads(json.dumps(loaded.to_dict())) == loaded.to_dict()


def test_path_and_bare_name_are_the_same(repository):
    path = config.load(str(repository / "configs" / "resnet50.py") + ":cnmc")
    assert path.to_dict() == config.load("resnet50:cnmc").to_dict()


def test_published_protocol():
    loaded = config.load("resnet50:cnmc")
    assert (loaded.data.image_size, loaded.train.batch_size, loaded.train.epochs) == (224, 32, 50)
    assert loaded.optimizer.name == "adam"
    assert loaded.data.positive == "all"
    large = config.load("resnet50:cnmc,large")
    assert large.train.batch_size == 1024
    assert large.model.norm_batch > 0
    assert large.optimizer.learning_rate > loaded.optimizer.learning_rate


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("resnet50:cnmc,pretrained", "resnet"),
        ("resnet50:cnmc,group_norm", "resnet"),
        ("resnet50:cnmc,bit", "bit"),
        ("hybrid_vit:cnmc,pretrained", "hybrid_vit"),
    ],
)
def test_fine_tuning_recipes_are_complete(name, model):
    loaded = config.load(name)
    assert loaded.init.weights.startswith("hf://timm/")
    assert loaded.model.name == model
    assert loaded.data.mean == loaded.data.std == "auto"  # the weights' own


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model.name": "bit", "model.depth": 18}, r"model\.depth=18: bit has 50, 101 and 152"),
        ({"init.allow": "x"}, r"init\.allow=x: needs init\.weights"),
        ({"init.weights": "x", "init.sha256": "12"}, r"init\.sha256=12: must be 64 hex"),
        ({"optimizer.freeze": "("}, r"optimizer\.freeze=\(: not a regular expression"),
    ],
)
def test_fields_of_weights_are_checked_together(changes, says):
    with pytest.raises(UserError, match=says):
        config.load("default", changes)


def test_a_file_with_a_value_of_no_type_is_told_so_before_the_changes(tmp_path):
    file = tmp_path / "odd.py"
    file.write_text(
        "from leukjax.config import load\n\n\ndef get_config(argument=''):\n"
        "    config = load('default')\n    with config.ignore_type():\n"
        "        config.data.image_size = b'x'\n    return config\n"
    )
    for changes in ({}, {"data.image_size": 32}):
        with pytest.raises(UserError, match=r"data\.image_size=b'x': expected a whole number"):
            config.load(str(file), changes)


def test_overrides_take_the_type_of_the_field():
    loaded = config.load(
        "cnn", [("data.image_size", "96"), ("augment.flip", "false"), ("train.epochs", "3")]
    )
    assert (loaded.data.image_size, loaded.augment.flip, loaded.train.epochs) == (96, False, 3.0)
    assert isinstance(loaded.train.epochs, float)
    assert config.load("cnn", {"data.image_size": 64}).data.image_size == 64


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("data.imagesize", "3", "did you mean --config.data.image_size"),
        ("batch_size", "3", "did you mean --config.train.batch_size"),
        ("data", "3", "it is a section"),
        ("train.batch_size", "32.5", "a whole number"),
        ("train.epochs", "many", "a number"),
        ("train.epochs", "nan", "must be between"),
        ("augment.flip", "maybe", "true or false"),
        ("data.denoise", "wavelet", "must be one of none, median"),
        ("model.depth", "51", "must be one of 18"),
        ("seed", "-1", "must be between 0 and"),
        ("train.epochs", "0", "above 0"),
        ("optimizer.warmup", "5", "must read like"),
        ("optimizer.decay_mask", "(", "not a regular expression"),
        ("data.subject_pattern", "BloodImage", "group in brackets"),
        ("train.accumulate", "5", "must divide train.batch_size=32"),
        ("model.norm_batch", "5", "must divide"),
        ("split.fold", "5", "must be below split.folds=5"),
        ("mesh.data", "0", "must be -1"),
        ("loss.deferred", "5 epochs", "needs loss.class_weights"),
        ("train.swa", "often", "must read like"),
    ],
)
def test_a_wrong_override_names_the_field_and_the_fix(field, value, says):
    with pytest.raises(UserError) as caught:
        config.load("resnet50", [(field, value)])
    message = str(caught.value)
    assert field in message
    assert says in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nowhere.py", "no such file"),
        ("resnet51", "one of: cnn, default, hybrid_vit, literature, resnet50, vit"),
        ("resnet50:cmnc", "no such data set"),
        ("resnet50:cnmc,huge", "known: large"),
    ],
)
def test_a_wrong_name_lists_what_there_is(name, says):
    with pytest.raises(UserError, match=says):
        config.load(name)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = (", "SyntaxError"),
        ("x = 1", "defines no get_config"),
        ("def get_config(argument):\n    return {}", "must return an ml_collections.ConfigDict"),
        ("def get_config(argument):\n    return 1 / 0", "ZeroDivisionError"),
        ("def get_config(argument):\n    raise SystemExit(3)", "SystemExit: 3; fix the config"),
        (
            "from leukjax.config import load\n"
            "def get_config(argument):\n"
            "    config = load('default')\n"
            "    with config.ignore_type():\n"
            "        config.train.batch_size = '32'\n"
            "    return config",
            "train.batch_size=32: expected a whole number, got text",
        ),
        (
            "from leukjax.config import load\n"
            "def get_config(argument):\n"
            "    config = load('default')\n"
            "    with config.ignore_type():\n"
            "        config.seed = config\n"
            "    return config",
            "a section of the config contains itself",
        ),
        (
            "from leukjax.config import load\n"
            "def get_config(argument):\n"
            "    config = load('default')\n"
            "    config.data.imagesize = 3\n"
            "    return config",
            "did you mean --config.data.image_size",
        ),
    ],
)
def test_a_users_own_file_with_a_mistake(tmp_path: Path, text, says):
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(UserError, match=says):
        config.load(str(file))


def test_durations():
    def steps(text):
        return config.steps(text, steps_per_epoch=26, batch_size=32, field="train.eval_every")

    assert steps("2 epochs") == 52
    assert steps("0.5 epochs") == 13
    assert steps("7 steps") == 7
    assert steps("1 step") == 1
    assert steps("3.2e2 examples") == 10


def test_two_averages_are_refused():
    both = {"train.swa": "3 epochs", "train.ema_decay": 0.9}
    with pytest.raises(UserError, match=r"train\.swa=3 epochs: give either this or train\.ema_de"):
        config.load("cnn", both)


def test_differences_name_both_values_and_leave_out_what_is_free():
    before = config.load("cnn").to_dict()
    after = config.load(
        "cnn", {"data.threads": 3, "train.epochs": 9, "runtime.timeout": 5}
    ).to_dict()
    assert config.differences(before, after, ignore=config.free_fields()) == [
        "train.epochs: 20.0 -> 9.0"
    ]
    assert len(config.differences(before, after)) == 3


def test_every_free_field_exists():
    flat = config.flatten(config.load("default"))
    for name in config.free_fields():
        assert any(field == name or field.startswith(name) for field in flat), name


@pytest.mark.parametrize("model", ["cnn", "resnet50", "vit"])
def test_the_protocol_of_the_literature_and_its_honest_twin(model):
    published = config.load(f"literature:cnmc,{model}")
    honest = config.load(f"literature:cnmc,{model},subject")
    assert config.differences(published, honest) == ["split.protocol: 'image' -> 'subject'"]
    train, optimizer = published.train, published.optimizer
    assert (published.data.image_size, train.epochs, train.batch_size) == (224, 50, 32)
    assert (optimizer.name, optimizer.schedule) == ("adam", "constant")
    own = {"cnn": "cnn", "resnet50": "resnet50", "vit": "hybrid_vit"}[model]
    assert published.model == config.load(f"{own}:cnmc").model


def test_a_declared_field_is_in_every_config_and_its_rule_holds(monkeypatch):
    monkeypatch.setattr(config, "_declared", {})
    config.declare("model.my_width", Whole(8, (1, 64), "channels"))
    assert config.load("cnn").model.my_width == 8
    assert config.load("cnn", {"model.my_width": "16"}).model.my_width == 16
    with pytest.raises(UserError, match=r"model\.my_width=65: must be between 1 and 64"):
        config.load("cnn", {"model.my_width": 65})
    for name in ("model.width", "model.update", "width", "model.a-b"):
        with pytest.raises(ValueError, match="config field"):
            config.declare(name, Whole(8, (1, 64), "channels"))


def test_every_default_is_allowed_and_documented():
    for name, field in config.fields().items():
        assert field.parse(field.default, name) == field.default
        assert type(field.parse(field.default, name)) is type(field.default)
        field.check(field.default, name)
        assert field.doc


def test_a_field_that_is_new_with_its_default_is_no_difference():
    before, after = config.load("cnn").to_dict(), config.load("cnn").to_dict()
    del before["loss"]["focal_gamma"]
    assert config.differences(before, after) == []
    after["loss"]["focal_gamma"] = 1.0
    assert config.differences(before, after) == ["loss.focal_gamma: 2.0 -> 1.0"]
