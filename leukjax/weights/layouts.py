"""The layouts of weights that are known, each recognised by a tensor that only it has."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from leukjax.errors import UserError
from leukjax.models.hybrid_vit import VARIANTS
from leukjax.models.resnet import STAGES
from leukjax.weights import names
from leukjax.weights.axes import FLAX, TORCH, Axes, Shape

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclasses.dataclass(frozen=True)
class Layout:
    """Names and axes of one framework's tensors for one of our model families.

    Attributes:
      title: for people.
      family: value of ``model.name``.
      names: path of a variable of ours -> names of the tensors that hold it.
      axes: how they are laid out.
      marker: name of a tensor by which the layout is recognised.
      block: expression for names inside a residual block; its groups are stage and block.
      third: expression for a bottleneck's third convolution.
      statistics: mean and standard deviation that the weights were trained with, in [0, 1].
    """

    title: str
    family: str
    names: Callable[[names.Path], tuple[str, ...]]
    axes: Axes
    marker: str
    block: str
    third: str
    statistics: tuple[tuple[float, ...], tuple[float, ...]]


LAYOUTS = (
    Layout(
        "a ResNet of timm or torchvision", "resnet", names.resnet_torch, TORCH,
        "layer1.0.conv1.weight", r"layer(\d+)\.(\d+)\.", r"\.conv3\.", _IMAGENET,
    ),
    Layout(
        "a ResNet of Hugging Face", "resnet", names.resnet_hugging_face, TORCH,
        "resnet.embedder.embedder.convolution.weight",
        r"stages\.(\d+)\.layers\.(\d+)\.", r"\.layer\.2\.conv", _IMAGENET,
    ),
    Layout(
        "a BiT ResNet of timm", "bit", names.bit_timm, TORCH,
        "stages.0.blocks.0.norm1.weight", r"^stages\.(\d+)\.blocks\.(\d+)\.", r"\.conv3\.", _HALF,
    ),
    Layout(
        "a BiT ResNet (.npz)", "bit", names.bit_npz, FLAX,
        "resnet/root_block/standardized_conv2d/kernel",
        r"block(\d+)/unit(\d+)/", r"/c/stand", _HALF,
    ),
    Layout(
        "a hybrid vision transformer of timm", "hybrid_vit", names.hybrid_timm, TORCH,
        "patch_embed.backbone.stem.conv.weight",
        r"stages\.(\d+)\.blocks\.(\d+)\.", r"\.conv3\.", _HALF,
    ),
    Layout(
        "a hybrid vision transformer of google-research (.npz)", "hybrid_vit", names.hybrid_npz,
        FLAX, "Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel",
        r"^block(\d+)/unit(\d+)/", r"/conv3/", _HALF,
    ),
    Layout(
        "a hybrid vision transformer of google-research (.npz)", "hybrid_vit", names.hybrid_linen,
        FLAX, "Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel",
        r"^block(\d+)/unit(\d+)/", r"/conv3/", _HALF,
    ),
)  # fmt: skip

TIMM = {"resnet": LAYOUTS[0], "bit": LAYOUTS[2], "hybrid_vit": LAYOUTS[4]}


def recognize(where: str, shapes: Mapping[str, Shape]) -> Layout:
    """The layout of a file, by its content.

    Raises:
      UserError: none that is known.
    """
    for layout in LAYOUTS:
        if layout.marker in shapes:
            return layout
    known = "; ".join(dict.fromkeys(layout.title for layout in LAYOUTS))
    found = ", ".join(list(shapes)[:3]) or "nothing"
    raise UserError(
        f"init.weights: {where} holds tensors of no layout that is known ({found}, …); "
        f"known: {known}; a run of leukjax"
    )


def model_of(layout: Layout, shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """The fields of ``config.model`` that these tensors call for.

    ``depth`` or ``variant`` is None where the family has none of this form.
    """
    blocks: dict[str, set[str]] = {}
    for name in shapes:
        found = re.search(layout.block, name)
        if found:
            blocks.setdefault(found[1], set()).add(found[2])
    stages = tuple(len(blocks[stage]) for stage in sorted(blocks, key=int))
    bottleneck = any(re.search(layout.third, name) for name in shapes)
    if layout.family == "hybrid_vit":
        return {"name": "hybrid_vit", "variant": _variant(layout, shapes, stages)}
    depths = [
        depth
        for depth, plan in STAGES.items()
        if plan == stages and bottleneck == (depth >= 50 or layout.family == "bit")
    ]
    stem = ("params", "stem_conv" if layout.family == "bit" else "conv1", "kernel")
    shape = shapes.get(layout.names(stem)[0], ())
    width = (shape[0] if layout.axes is TORCH else shape[-1]) if shape else None
    depth = min((d for d in depths if d >= 50 or not bottleneck), default=None)
    return {"name": layout.family, "depth": depth, "width": width}


def _variant(layout: Layout, shapes: Mapping[str, Shape], stages: tuple[int, ...]) -> str | None:
    token = shapes.get(layout.names(("params", "cls_token"))[0], (0,))
    for name, variant in VARIANTS.items():
        if variant.stages == stages and variant.features == token[-1]:
            return name
    return None


def check_model(
    where: str, title: str, theirs: Mapping[str, Any], model: Mapping[str, Any]
) -> None:
    """Make sure that the weights are of the configured architecture.

    Args:
      where: what messages call the file.
      title: what it holds.
      theirs: fields of ``config.model`` that it calls for.
      model: ``config.model``.

    Raises:
      UserError: saying what to set.
    """
    different = {name: value for name, value in theirs.items() if model[name] != value}
    if not different:
        return
    if None in different.values():
        raise UserError(
            f"init.weights: {where} holds {title} of a size that leukjax does not have; "
            "take other weights"
        )
    have = ", ".join(f"model.{name}={model[name]}" for name in different)
    want = " ".join(f"--config.model.{name}={value}" for name, value in different.items())
    raise UserError(
        f"init.weights: {where} holds {title} of another architecture than {have}: set {want}, or "
        "take other weights"
    )
