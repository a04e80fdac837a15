"""Files in the layouts of the world give the logits that their own frameworks make of them."""

import fill
import flax
import jax
import numpy as np
import published_npz
import pytest
from fabricated import GOLDEN, load, map_to, only_shapes, shapes_of, write

from leukjax.errors import UserError
from leukjax.models.registry import create_model
from leukjax.weights import layouts

QUICK = ("timm_resnet18", "timm_resnet18_gn", "hybrid_npz")
CASES = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in GOLDEN["models"]
]


@pytest.mark.parametrize("name", CASES)
def test_logits_of_a_file_agree_with_its_framework(tmp_path, name):
    golden = np.array(GOLDEN["models"][name]["logits"])
    module, mapped = load(write(name, tmp_path), golden.shape[1], 32)
    assert set(mapped.counts()) <= {"loaded", "unused"}
    assert {row.note for row in mapped.rows if row.status == "unused"} <= {"a counter"}
    variables = flax.traverse_util.unflatten_dict(mapped.values)
    logits = jax.jit(lambda v, x: module.apply(v, x, train=False))(variables, fill.images(2, 32))
    difference = np.abs(logits - golden).max() / np.abs(golden).max()
    assert difference < 1e-4, f"{name}: relative difference {difference:.1e}"


PUBLIC = {
    **{name: (shapes_of(listed), 224) for name, listed in GOLDEN["layouts"].items()},
    "gs://vit_models/augreg/R26_S_32": (
        published_npz.hybrid((2, 2, 2, 2), 384, 12, 6, 50, 1000), 224,
    ),
    "gs://vit_models/augreg/R50_B_16": (
        published_npz.hybrid((3, 4, 9), 768, 12, 12, 197, 1000), 224,
    ),
    "gs://bit_models/BiT-M-R50x1": (published_npz.bit((3, 4, 6, 3), 64, 21843), 224),
}  # fmt: skip
EXPECTED = {
    "resnet-50": {"name": "resnet", "depth": 50, "width": 64},
    "resnet50": {"name": "resnet", "depth": 50, "width": 64},
    "resnet50_gn": {"name": "resnet", "depth": 50, "width": 64, "norm": "group"},
    "resnetv2_50x1_bit": {"name": "bit", "depth": 50, "width": 64},
    "BiT-M-R50x1": {"name": "bit", "depth": 50, "width": 64},
    "vit_small_r26_s32_224": {"name": "hybrid_vit", "variant": "r26_s32"},
    "R26_S_32": {"name": "hybrid_vit", "variant": "r26_s32"},
    "vit_base_r50_s16_224": {"name": "hybrid_vit", "variant": "r50_b16"},
    "R50_B_16": {"name": "hybrid_vit", "variant": "r50_b16"},
}


@pytest.mark.parametrize("name", PUBLIC)
def test_every_tensor_of_a_public_file_has_its_one_place(name):
    shapes, size = PUBLIC[name]
    layout = layouts.recognize(name, shapes)
    wanted = layouts.model_of(layout, shapes)
    assert wanted == EXPECTED[name.split("/")[-1]]
    head = next(shape for key, shape in reversed(shapes.items()) if key.endswith("bias"))
    norm = "batch" if layout.model == "resnet" else "group"
    module = create_model(wanted.pop("name"), head[0], **{"norm": norm, **wanted})
    mapped = map_to(module, size, only_shapes(shapes), layout)
    assert set(mapped.counts()) <= {"loaded", "unused"}
    used = [tensor for row in mapped.rows for tensor in row.tensor.split(" + ")]
    assert sorted(used) == sorted(shapes)  # none twice, none left out


def test_a_file_of_another_architecture_says_what_to_set():
    shapes = shapes_of(GOLDEN["models"]["timm_resnet18"]["tensors"])
    layout = layouts.recognize("x", shapes)
    wanted = layouts.model_of(layout, shapes)
    assert wanted == {"name": "resnet", "depth": 18, "width": 64}
    model = {"name": "resnet", "depth": 50, "width": 64}
    with pytest.raises(UserError, match=r"than model\.depth=50: set --config\.model\.depth=18, or"):
        layouts.check_model("x", layout.title, wanted, model)
    del shapes["layer4.1.conv1.weight"], shapes["layer4.1.conv2.weight"]
    odd = {name: shape for name, shape in shapes.items() if "layer4.1" not in name}
    with pytest.raises(UserError, match="of a size that leukjax does not have"):
        layouts.check_model("x", "it", layouts.model_of(layout, odd), model)


def test_an_unknown_layout_is_refused():
    with pytest.raises(UserError, match=r"unknown layout of tensors \(conv1\.0\.weight, …\); kn"):
        layouts.recognize("x", {"conv1.0.weight": (32, 3, 3, 3)})
