"""Values that are allowed and do not fit each other are warned of, with what to set."""

import jax.numpy as jnp
import pytest

from leukjax import config as configs
from leukjax.training import hyperparameters as train_settings
from leukjax.training import state as states


@pytest.fixture
def warnings(caplog):
    """What `settings.warn` says of a config, for a training of 24 steps in 2 epochs."""

    def of(name, **changes):
        dotted = {key.replace("__", "."): value for key, value in changes.items()}
        config = configs.load(name, {"train.epochs": 2.0} | dotted)

        def steps(text):
            length = configs.steps(text, steps_per_epoch=12, batch_size=32, field="")
            return jnp.float32(length)

        zero = jnp.zeros(())
        values = states.Settings(
            *[zero] * 5, jnp.float32(24), *map(steps, (config.optimizer.warmup, "10 epochs"))
        )
        if "step_every" in config.optimizer:
            values = values.replace(step_every=steps(config.optimizer.step_every))
        caplog.clear()
        train_settings.warn(config, values)
        return [record.getMessage() for record in caplog.records]

    return of


def test_a_warm_up_as_long_as_the_training(warnings):
    (line,) = warnings("hybrid_vit", optimizer__warmup="2 epochs")
    assert line.startswith("optimizer.warmup=2 epochs is not shorter than the training (24 of 24")
    assert "--config.optimizer.warmup='0.2 epochs'" in line
    assert warnings("hybrid_vit", optimizer__warmup="23 steps") == []


def test_a_drop_that_never_comes(warnings):
    (line,) = warnings("cnn", optimizer__schedule="step", optimizer__step_every="24 steps")
    assert "optimizer.step_every=24 steps is not shorter than the training (24 of 24" in line
    assert warnings("cnn", optimizer__schedule="step", optimizer__step_every="23 steps") == []
    assert warnings("cnn", optimizer__step_every="24 steps") == []  # no step schedule


def test_a_start_after_the_end(caplog):
    config = configs.load("cnn", {"train.epochs": 2.0, "train.swa": "2 epochs"})
    zero = jnp.zeros(())
    values = states.RecipeSettings(
        *[zero] * 5, jnp.float32(24), zero, zero, zero, zero, jnp.float32(24), zero
    )
    train_settings.warn(config, values)
    (record,) = caplog.records
    assert record.getMessage() == (
        "train.swa=2 epochs is not before the end of the training (24 of 24 steps) and changes "
        "nothing; set --config.train.swa='1.5 epochs' or a larger train.epochs"
    )
    caplog.clear()
    train_settings.warn(config, values.replace(swa_start=jnp.float32(23)))
    assert not caplog.records


def test_two_corrections_for_class_frequencies(warnings):
    balanced = {"loss__class_weights": "balanced", "optimizer__warmup": "1 steps"}
    (line,) = warnings("cnn", loss__name="logit_adjusted", **balanced)
    assert line.startswith("loss.name=logit_adjusted corrects for the class frequencies, and so")
    assert warnings("cnn", **balanced) == []


def test_a_hybrid_with_few_tokens(warnings):
    short = {"optimizer__warmup": "1 steps"}
    (line,) = warnings("hybrid_vit:image_folder", data__image_size=48, **short)
    assert line == (
        "model.variant=r26_s32 leaves 2 x 2 tokens of an image of 48 px; use "
        "--config.model.variant=small or set --config.data.image_size=128 or more"
    )
    (line,) = warnings("hybrid_vit", data__image_size=24, **short)
    assert line.endswith(
        "3 x 3 tokens of an image of 24 px; set --config.data.image_size=32 or more"
    )
    assert warnings("hybrid_vit:image_folder", **short) == []
    assert warnings("hybrid_vit", **short) == []


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("hybrid_vit", "small"),
        ("hybrid_vit:smears", "small"),  # 48 px, like the one before
        ("literature:smears,vit", "small"),
        ("hybrid_vit:image_folder", "r26_s32"),
        ("hybrid_vit:smears,r26_s32", "r26_s32"),
        ("hybrid_vit:smears,pretrained", "r26_s32"),  # the only one that has weights
        ("literature:cnmc,vit", "r26_s32"),
    ],
)
def test_the_size_of_the_images_chooses_the_hybrid(name, variant):
    assert configs.load(name).model.variant == variant
