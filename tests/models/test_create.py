"""Models by name, and the one line for whoever asks for one that does not exist."""

import jax.numpy as jnp
import pytest

from leukjax import models
from leukjax.errors import UserError
from leukjax.models.cnn import CNN
from leukjax.models.resnet import ResNet

# A model section of a config holds the fields of all families.
SECTION = {
    "depth": 34,
    "width": 16,
    "variant": "r26_s32",
    "norm": "group",
    "norm_batch": 8,
    "zero_init": False,
    "dropout": 0.1,
    "stochastic_depth": 0.2,
}


def test_a_family_takes_its_own_fields():
    resnet = models.create("resnet", 3, dtype=jnp.bfloat16, **models.select("resnet", SECTION))
    assert resnet == ResNet(
        classes=3,
        depth=34,
        width=16,
        norm="group",
        norm_batch=8,
        zero_init=False,
        dropout=0.1,
        stochastic_depth=0.2,
        dtype=jnp.bfloat16,
    )
    cnn = models.create("cnn", 2, **models.select("cnn", SECTION))
    assert cnn == CNN(classes=2, width=16, norm="group", norm_batch=8, dropout=0.1)
    hybrid = models.create("hybrid_vit", 2, **models.select("hybrid_vit", SECTION))
    assert hybrid.variant == "r26_s32"
    assert hybrid.stochastic_depth == 0.2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("depth", 51),
        ("width", 0),
        ("variant", "l16"),
        ("norm", "layer"),
        ("norm_batch", -1),
        ("zero_init", "yes"),
        ("dropout", 1.0),
        ("stochastic_depth", -0.1),
    ],
)
def test_wrong_values_name_their_field(field, value):
    name = "hybrid_vit" if field == "variant" else "resnet"
    with pytest.raises(UserError, match=rf"^--config\.model\.{field}={value}: ") as error:
        models.create(name, 2, **models.select(name, SECTION | {field: value}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "option", "message"),
    [
        ("resnet", "widht", r"model 'resnet' has no option 'widht'; did you mean 'width'\?"),
        ("cnn", "depth", r"model 'cnn' has no option 'depth'.*\(options: .*norm, norm_batch"),
        ("hybrid_vit", "parent", "no option 'parent'"),
    ],
)
def test_an_option_that_a_model_does_not_have_is_an_error(name, option, message):
    with pytest.raises(TypeError, match=message):
        models.create(name, 2, **{option: 18})


def test_a_model_that_does_not_exist_is_refused():
    with pytest.raises(UserError, match=r"model\.name=vgg: .*cnn, resnet, hybrid_vit"):
        models.create("vgg", 2)
    with pytest.raises(UserError, match="at least 2"):
        models.create("cnn", 1)
