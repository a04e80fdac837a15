"""Files of timm's and DINOv2's vision transformers give the features that their own code gives."""

import json
from pathlib import Path

import fill
import flax
import jax
import numpy as np
import pytest
from fabricated import map_to, only_shapes, shapes_of

from leukjax import config as configs
from leukjax.models.registry import create_model
from leukjax.models.vit import VARIANTS
from leukjax.training import pretrained
from leukjax.weights import layouts
from leukjax.weights.axes import TORCH
from leukjax.weights.map import Mapped
from leukjax.weights.published import PUBLISHED
from leukjax.weights.read import Tensors

GOLDEN = json.loads((Path(__file__).resolve().parents[1] / "golden" / "vit.json").read_text())
# One of each kind, resized; the others are proofs.
QUICK = {
    ("timm/vit_small_patch14_reg4_dinov2", "42"),
    ("timm/vit_giant_patch14_dinov2", "70"),
    ("dinov2/small", "98"),
    ("dinov2/giant_reg4", "42"),
}
CASES = [
    pytest.param(
        GOLDEN[part][name], size, id=f"{part}-{name}-{size}",
        marks=() if part == "quick" and (name, size) in QUICK else pytest.mark.slow,
    )
    for part in ("quick", "full")
    for name in GOLDEN[part]
    for size in GOLDEN[part][name]["results"]
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def small_variants():
    """Two blocks of each architecture, and narrow giants."""
    with pytest.MonkeyPatch.context() as patch:
        for name, variant in list(VARIANTS.items()):
            small = {"width": 96, "heads": 3} if variant.mlp == "swiglu" else {}
            patch.setitem(VARIANTS, f"{name}_2", variant._replace(depth=2))
            patch.setitem(VARIANTS, f"{name}_n", variant._replace(depth=2, **small))
        yield


def filled(shapes: dict[str, tuple[int, ...]]) -> Tensors:
    """A file of the golden rule."""
    return Tensors("golden", shapes, frozenset(shapes), {}, lambda n: fill.parameter(n, shapes[n]))


def mapped_to(tensors: Tensors, size: int, **options) -> tuple[object, Mapped]:
    """The model that a file calls for, for 10 classes, and the file mapped to it."""
    layout = layouts.recognize("golden", tensors.shapes)
    model = layouts.model_of(layout, tensors.shapes)
    module = create_model(model["name"], 10, variant=model["variant"])
    return module, map_to(module, size, tensors, layout, **options)


def with_head(values: dict, width: int) -> dict:
    """The variables, with the golden head where the file has none."""
    for leaf, shape in (("kernel", (10, width)), ("bias", (10,))):
        array = fill.parameter(f"head.{'weight' if leaf == 'kernel' else 'bias'}", shape)
        values.setdefault(("params", "head", leaf), TORCH.convert([array], shape[::-1]))
    return flax.traverse_util.unflatten_dict(values)


@pytest.mark.parametrize(("case", "size"), CASES)
def test_features_and_logits_are_those_of_the_source(case, size):
    golden = case["results"][size]
    module, mapped = mapped_to(filled(shapes_of(case["tensors"])), int(size))
    statuses = {row.status for row in mapped.rows}
    assert ("resized" in statuses) == (int(size) != case["size"])
    variables = with_head(mapped.values, VARIANTS[module.variant].width)
    images = fill.images(2, int(size))
    run = jax.jit(lambda v, x: module.apply(v, x, train=False, mutable=["intermediates"]))
    logits, state = run(variables, images)
    named = state["intermediates"]
    shown = len(golden["token"][0])
    ours = {
        "token": named["pooled"][0][:, :shown],
        "mean": named["patch_tokens"][0].mean((1, 2))[:, :shown],
        "logits": logits,
    }
    for name, values in ours.items():
        theirs = np.array(golden[name])
        difference = np.abs(values - theirs).max() / np.abs(theirs).max()
        assert difference < 1e-4, f"{name}: relative difference {difference:.1e}"


def _published_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """A DinoBloom-S: positions for 224 px."""
    if name == "zenodo":
        return shapes_of(GOLDEN["zenodo"])
    shapes = shapes_of(GOLDEN["full"][name]["tensors"])
    shapes = {key: shape for key, shape in shapes.items() if not key.startswith("head.")}
    return shapes | {"pos_embed": (1, 257, 384)}


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("timm/vit_small_patch14_dinov2", "a vision transformer of timm with LayerScale"),
        ("dinov2/small", "a vision transformer of DINOv2"),
        ("zenodo", "a vision transformer of DINOv2"),
    ],
)
def test_a_dinobloom_in_each_layout_fills_everything_but_the_head(name, layout):
    shapes = _published_shapes(name)
    assert layouts.recognize("x", shapes).title == layout
    _, mapped = mapped_to(only_shapes(shapes), 224)
    rows = {status: [r for r in mapped.rows if r.status == status] for status in mapped.counts()}
    assert set(rows) <= {"loaded", "new", "unused"}
    assert {row.variable for row in rows["new"]} == {"params/head/kernel", "params/head/bias"}
    assert [row.tensor for row in rows.get("unused", [])] == ["mask_token"] * ("timm" not in name)
    used = [row.tensor for row in mapped.rows if row.tensor]
    assert sorted(used) == sorted(shapes)  # none twice, none left out


def test_no_file_has_two_layouts():
    listed = [case["tensors"] for part in ("quick", "full") for case in GOLDEN[part].values()]
    listed += [GOLDEN["zenodo"]]
    files = json.loads(
        (Path(__file__).resolve().parents[1] / "golden" / "weight_files.json").read_text()
    )
    listed += [*files["layouts"].values()]
    for shapes in listed:
        fitting = [
            layout for layout in layouts.LAYOUTS
            if layout.marker in shapes and not {*layout.without} & {*shapes}
        ]  # fmt: skip
        assert len(fitting) == 1


def test_a_size_that_leukjax_does_not_have_is_none():
    shapes = shapes_of(GOLDEN["full"]["timm/vit_base_patch16_224"]["tensors"])
    layout = layouts.recognize("x", shapes)
    assert layouts.model_of(layout, shapes) == {"name": "vit", "variant": "b16"}
    for name in ("cls_token", "patch_embed.proj.weight", "blocks.3.norm1.weight"):
        without = {key: shape for key, shape in shapes.items() if key != name}
        assert layouts.model_of(layout, without)["variant"] is None
    odd = shapes | {"cls_token": (), "patch_embed.proj.weight": ()}
    assert layouts.model_of(layout, odd)["variant"] is None


@pytest.mark.parametrize("entry", PUBLISHED, ids=lambda entry: f"{entry.config}:{entry.recipe}")
def test_published_weights_are_as_the_table_says(entry, monkeypatch):
    config = configs.load(f"{entry.config}:cnmc,{entry.recipe}")
    assert config.init.weights == entry.weights
    assert f":cnmc,{entry.recipe}" in entry.command
    if config.model.name != "vit":  # tests/models counts their parameters
        return
    assert (config.model.variant, config.model.gelu_tanh) == (entry.model, False)
    assert config.data.image_size == 224
    whole = VARIANTS[entry.model]
    monkeypatch.setitem(VARIANTS, entry.recipe, whole._replace(depth=1))
    params = pretrained.shapes(create_model("vit", 2, variant=entry.recipe), 224)["params"]
    sizes = {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in params.items()}
    count = sum(sizes.values()) - sizes["head"] + (whole.depth - 1) * sizes["block0"]
    assert round(count / 1e6, 1) == entry.parameters
    if entry.layout == "timm":
        paths = flax.traverse_util.flatten_dict({"params": params})
        names = {layouts.TIMM["vit"].names(path)[0]: (1,) for path in paths}
        mean, _ = layouts.recognize("x", names).statistics
        assert ("ImageNet" if mean[0] == 0.485 else "0.5") in entry.preprocessing
