"""Models by name: built-in ones, presets, and models that are registered outside of leukjax."""

import functools

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from leukjax import config as configs
from leukjax.fields import Whole
from leukjax.models import fused, registry
from leukjax.models.cnn import CNN
from leukjax.models.fused import FusedResNet
from leukjax.models.registry import (
    create_model,
    describe,
    list_models,
    model_from_config,
    register_model,
    register_preset,
    select_options,
)
from leukjax.models.resnet import ResNet
from leukjax.models.summary import layer_groups, table

# The section "model" of a config holds the fields of all models.
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


@pytest.fixture
def empty(monkeypatch):
    """Registrations of a test end with it."""
    list_models()
    monkeypatch.setattr(registry, "_factories", dict(registry._factories))
    monkeypatch.setattr(registry, "_presets", set(registry._presets))
    monkeypatch.setattr(registry, "_config_fields", dict(registry._config_fields))
    monkeypatch.setattr(configs, "_declared", dict(configs._declared))


class Branches(nn.Module):
    """A model of a user, with a config field of its own and Flax's names of modules."""

    num_classes: int
    branches: int = 2
    width: int = 4

    @nn.compact
    def __call__(self, images, *, train):
        parts = [nn.Conv(self.width, (3, 3))(images) for _ in range(self.branches)]
        scale = self.param("scale", nn.initializers.ones, (self.width,))
        return nn.Dense(self.num_classes)(nn.relu(sum(parts) * scale).mean((1, 2)))


def test_a_model_takes_its_own_fields_of_a_config_section():
    options = select_options("resnet", SECTION)
    assert create_model("resnet", 3, dtype=jnp.bfloat16, **options) == ResNet(
        num_classes=3,
        depth=34,
        width=16,
        norm="group",
        norm_batch=8,
        zero_init=False,
        dropout=0.1,
        stochastic_depth=0.2,
        dtype=jnp.bfloat16,
    )
    cnn = create_model("cnn", 2, **select_options("cnn", SECTION))
    assert cnn == CNN(num_classes=2, width=16, norm="group", norm_batch=8, dropout=0.1)
    hybrid = create_model("hybrid_vit", 2, **select_options("hybrid_vit", SECTION))
    assert (hybrid.variant, hybrid.stochastic_depth) == ("r26_s32", 0.2)


def test_a_preset_is_its_model_with_some_options():
    assert create_model("resnet18", 2) == ResNet(num_classes=2, depth=18)
    assert create_model("resnet18", 2, norm="group").norm == "group"
    assert create_model("vit_small_r26_s32_224", 2).gelu_tanh is False
    assert create_model("resnetv2_101x3_bit", 2).width == 192
    assert {"resnet", "resnet18", "resnet152"} <= set(list_models("resnet*"))
    assert "cnn" not in list_models("resnet*")


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
def test_wrong_values_name_their_option(field, value):
    name = "hybrid_vit" if field == "variant" else "resnet"
    with pytest.raises(ValueError, match=rf"^{field}={value}: ") as error:
        create_model(name, 2, **select_options(name, SECTION | {field: value}))
    assert "\n" not in str(error.value)


def test_bit_has_bottlenecks_only():
    with pytest.raises(ValueError, match="depth=18: must be one of 50, 101, 152"):
        create_model("bit", 2, depth=18)


@pytest.mark.parametrize(
    ("name", "option", "message"),
    [
        ("resnet", "widht", r"model 'resnet' has no option 'widht'; did you mean 'width'\?"),
        ("cnn", "depth", r"model 'cnn' has no option 'depth'.*\(options: .*norm, norm_batch"),
        ("hybrid_vit", "parent", "no option 'parent'"),
    ],
)
def test_an_unknown_option_is_a_type_error(name, option, message):
    with pytest.raises(TypeError, match=message):
        create_model(name, 2, **{option: 18})


def test_unknown_models_and_wrong_numbers_of_classes_are_value_errors():
    with pytest.raises(ValueError, match=r"unknown model 'resnet51'; did you mean 'resnet50'\?"):
        create_model("resnet51", 2)
    with pytest.raises(ValueError, match=r"num_classes=1: .* at least 2"):
        create_model("cnn", 1)


def test_a_registered_model_works_in_configs(empty):
    register_model("branches", Branches, fields={"branches": Whole(3, (1, 8), "of the model")})
    assert "branches" in list_models()
    config = configs.load("default", {"model.name": "branches", "model.width": 8})
    module = model_from_config(config, 5, "cpu")
    assert module == Branches(num_classes=5, branches=3, width=8)
    config = configs.load("default", {"model.name": "branches", "model.branches": "4"})
    assert model_from_config(config, 2, "cpu").branches == 4
    assert describe(config.model) == "branches"

    summary = table(module, 16)
    variables = module.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)), train=False)
    assert summary.parameters == sum(x.size for x in jax.tree.leaves(variables))
    paths = ["Conv_0/kernel", "Conv_2/kernel", "Conv_10/kernel", "Dense_0/kernel", "Dense_0/bias"]
    groups = layer_groups([*paths, "head/bias"])
    assert list(groups.values()) == [0, 1, 2, 3, 3, 4]


def test_registration_may_be_a_decorator_and_may_be_repeated(empty):
    decorate = register_model("branches")
    assert decorate(Branches) is Branches
    register_model("branches", Branches)  # as when a cell of a notebook runs again
    with pytest.raises(ValueError, match="'branches': another model has it"):
        register_model("branches", CNN)
    with pytest.raises(ValueError, match="'resnet': another model has it"):
        register_model("resnet", Branches)


@pytest.mark.parametrize(
    ("name", "fields", "error", "message"),
    [
        ("my-model", {}, ValueError, "must be an identifier"),
        ("branches", {"width": Whole(1, (1, 2), "")}, ValueError, "'model.width': exists already"),
        ("branches", {"items": Whole(1, (1, 2), "")}, TypeError, "takes no argument 'items'"),
        ("branches", {"branch": Whole(1, (1, 2), "")}, TypeError, "takes no argument 'branch'"),
    ],
)
def test_wrong_registrations_are_refused(empty, name, fields, error, message):
    with pytest.raises(error, match=message):
        register_model(name, Branches, fields=fields)


def test_factories_may_be_functions(empty):
    @register_model("wide")
    def wide(num_classes, **options):
        return Branches(num_classes, width=32, **options)

    assert create_model("wide", 2, branches=1).width == 32

    @register_model("deep", fields={"deep_branches": Whole(3, (1, 8), "of the model")})
    def deep(num_classes, **options):
        return Branches(num_classes, branches=options["deep_branches"])

    config = configs.load("default", {"model.name": "deep", "model.deep_branches": 5})
    assert model_from_config(config, 2, "cpu") == Branches(2, branches=5)
    register_model("partial", functools.partial(ResNet, depth=18))
    config = configs.load("default", {"model.name": "partial", "model.depth": 50})
    assert model_from_config(config, 2, "cpu").depth == 18
    with pytest.raises(ValueError, match="'cnn': another model has it"):
        register_model("cnn", functools.partial(ResNet, depth=18))
    register_model("nothing", lambda num_classes: None)
    with pytest.raises(TypeError, match="not a Flax module"):
        create_model("nothing", 2)
    with pytest.raises(TypeError, match="takes no argument 'num_classes'"):
        register_model("no_classes", lambda: None)
    register_preset("wide1", "wide", branches=1)
    assert create_model("wide1", 2).branches == 1


def test_a_config_names_models_not_presets(empty):
    with pytest.raises(ValueError, match=r"model\.name=resnet50: must be one of cnn, resnet"):
        configs.load("default", {"model.name": "resnet50"})
    with pytest.raises(ValueError, match=r"model\.name=resnets: .*; did you mean resnet\?"):
        configs.load("default", {"model.name": "resnets"})


def test_readers_see_a_description():
    model = configs.load("resnet50").model
    assert describe(model) == "ResNet-50"
    assert describe({**model, "name": "hybrid_vit"}) == "hybrid ViT (small)"
    assert describe({**model, "name": "bit", "width": 192}) == "BiT R50x3"
    assert describe({**model, "name": "someone_elses"}) == "someone_elses"


def test_fused_forms_are_off_unless_they_are_asked_for(monkeypatch):
    def form(platform="gpu", **fields):
        overrides = {f"model.{name}": value for name, value in fields.items()}
        config = configs.load("resnet50", {"compute_dtype": "bfloat16", **overrides})
        return type(model_from_config(config, 2, platform))

    assert form() is form(fused="off") is ResNet
    assert form(fused="on") is FusedResNet
    assert form(fused="on", platform="tpu") is fused.ConvFusedResNet
    assert fused.apply(ResNet(2), "on", "gpu", jnp.float32) == ResNet(2)
    assert fused.apply(Branches(2), "on", "gpu", jnp.bfloat16) == Branches(2)
    monkeypatch.setitem(fused.MEASURED, jax.devices()[0].device_kind, "a row")
    assert form(platform="cpu") is FusedResNet
    assert form(platform="gpu") is ResNet  # it is not the device that was measured
