"""The layouts of published weights: names and axes of their tensors for each of our models.

A layout is recognised by a tensor that it has and tensors that it lacks.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from safetensors.numpy import save

from leukjax.errors import UserError
from leukjax.models import hybrid_vit, vit
from leukjax.models.resnet import STAGES
from leukjax.weights import names
from leukjax.weights.axes import FLAX, TORCH, Axes, Shape, to_torch
from leukjax.weights.read import Tensors

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_BLOCK = r"^blocks\.(\d{1,4})\.(norm1)\.weight"
_NEVER = r"(?!)"


@dataclasses.dataclass(frozen=True)
class Layout:
    """Names and axes of one framework's tensors for one of our models.

    Attributes:
      title: for readers.
      model: value of ``model.name``.
      names: takes the path of one of our variables, returns the names of its tensors.
      axes: their order of axes.
      marker: name of a tensor by which the layout is recognised.
      block: regular expression for names inside a residual block; its groups are stage and block.
      third: regular expression for the third convolution of a bottleneck.
      statistics: mean and standard deviation of the images in training, in [0, 1].
      without: names of tensors that it lacks, which other layouts with its marker have.
      positions: how its framework resizes position embeddings
        (`models.tokens.resize_position_embeddings`).
      prepare: changes the tensors to those of our model.
    """

    title: str
    model: str
    names: Callable[[names.Path], tuple[str, ...]]
    axes: Axes
    marker: str
    block: str
    third: str
    statistics: tuple[tuple[float, ...], tuple[float, ...]]
    without: tuple[str, ...] = ()
    positions: str = "bilinear"
    prepare: Callable[[Tensors], Tensors] = lambda tensors: tensors


def _fold_class_position(tensors: Tensors) -> Tensors:
    """Adds the position embedding of the class token to the token, as timm does for registers."""
    shape = tensors.shapes.get("pos_embed", ())
    if len(shape) != 3 or shape[1] < 2:
        return tensors

    def get(name: str) -> np.ndarray:
        tensor = tensors.get(name)
        if name == "cls_token":
            return tensor.astype(np.float32) + tensors.read("pos_embed")[:, :1]
        return tensor[:, 1:] if name == "pos_embed" else tensor

    shapes = {**tensors.shapes, "pos_embed": (shape[0], shape[1] - 1, shape[2])}
    return dataclasses.replace(tensors, shapes=shapes, get=get)


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
        "a hybrid vision transformer of timm", "hybrid_vit", names.vit_timm, TORCH,
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
    Layout(
        "a vision transformer of timm without LayerScale", "vit", names.vit_timm, TORCH,
        "blocks.0.mlp.fc1.weight", _BLOCK, _NEVER, _HALF, positions="bicubic",
        without=("patch_embed.backbone.stem.conv.weight", "blocks.0.ls1.gamma", "mask_token"),
    ),
    Layout(
        "a vision transformer of timm with LayerScale", "vit", names.vit_timm, TORCH,
        "blocks.0.ls1.gamma", _BLOCK, _NEVER, _IMAGENET, positions="bicubic",
        without=("mask_token", "register_tokens"),
    ),
    # Its training needs the mask token; timm's form of the weights has none.
    Layout(
        "a vision transformer of DINOv2", "vit", names.vit_dinov2, TORCH,
        "mask_token", _BLOCK, _NEVER, _IMAGENET, positions="dinov2", without=("register_tokens",),
    ),
    Layout(
        "a vision transformer of DINOv2 with registers", "vit", names.vit_dinov2, TORCH,
        "register_tokens", _BLOCK, _NEVER, _IMAGENET, positions="bicubic",
        prepare=_fold_class_position,
    ),
)  # fmt: skip

TIMM = {"resnet": LAYOUTS[0], "bit": LAYOUTS[2], "hybrid_vit": LAYOUTS[4], "vit": LAYOUTS[7]}


def recognize(where: str, shapes: Mapping[str, Shape]) -> Layout:
    """Returns the layout of a file, by its content.

    Args:
      where: name of the file, for messages.
      shapes: of its tensors.

    Raises:
      UserError: no known layout fits.
    """
    for layout in LAYOUTS:
        if layout.marker in shapes and not any(name in shapes for name in layout.without):
            return layout
    known = "; ".join(dict.fromkeys(layout.title for layout in LAYOUTS))
    first = ", ".join(list(shapes)[:3]) or "nothing"
    raise UserError(
        f"init.weights: {where} has an unknown layout of tensors ({first}, …); "
        f"known: {known}; a run of leukjax"
    )


def model_of(layout: Layout, shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Returns the fields of ``config.model`` that these tensors need.

    ``depth`` or ``variant`` is None if leukjax has no such size.
    """
    blocks: dict[str, set[str]] = {}
    for name in shapes:
        match = re.search(layout.block, name)
        if match:
            blocks.setdefault(match[1], set()).add(match[2])
    stages = tuple(len(blocks[stage]) for stage in sorted(blocks, key=int))
    bottleneck = any(re.search(layout.third, name) for name in shapes)
    if layout.model == "hybrid_vit":
        return {"name": "hybrid_vit", "variant": _hybrid_variant(layout, shapes, stages)}
    if layout.model == "vit":
        return {"name": "vit", "variant": _vit_variant(layout, shapes, len(stages))}
    depths = [
        depth
        for depth, plan in STAGES.items()
        if plan == stages and bottleneck == (depth >= 50 or layout.model == "bit")
    ]
    stem = ("params", "stem_conv" if layout.model == "bit" else "conv1", "kernel")
    shape = shapes.get(layout.names(stem)[0], ())
    width = (shape[0] if layout.axes is TORCH else shape[-1]) if shape else None
    depth = min((d for d in depths if d >= 50 or not bottleneck), default=None)
    fields = {"name": layout.model, "depth": depth, "width": width}
    if layout.model == "resnet" and not any(name.endswith("running_mean") for name in shapes):
        fields["norm"] = "group"
    return fields


def _hybrid_variant(
    layout: Layout, shapes: Mapping[str, Shape], stages: tuple[int, ...]
) -> str | None:
    token = shapes.get(layout.names(("params", "cls_token"))[0], (0,))
    for name, variant in hybrid_vit.VARIANTS.items():
        if variant.stages == stages and token[-1:] == (variant.features,):
            return name
    return None


def _vit_variant(layout: Layout, shapes: Mapping[str, Shape], depth: int) -> str | None:
    def shape(*path: str) -> Shape:
        return shapes.get(layout.names(("params", *path))[0], ())

    inner, outer = shape("block0", "w12", "kernel"), shape("block0", "w3", "kernel")
    has_gate = len(inner) == len(outer) == 2 and inner[0] == 2 * outer[1]
    theirs = (
        shape("embedding", "kernel")[-1:],
        shape("cls_token")[-1:],
        depth,
        "swiglu" if has_gate else "gelu",
        bool(shape("block0", "ls1", "gamma")),
        shape("reg_token")[1:2] or (0,),
    )
    for name, v in vit.VARIANTS.items():
        parts = bool(v.layer_scale), (v.registers,)
        if theirs == ((v.patch,), (v.width,), v.depth, v.mlp, *parts):
            return name
    return None


def check_model(
    where: str, title: str, theirs: Mapping[str, Any], model: Mapping[str, Any]
) -> None:
    """Checks that weights are of the configured architecture.

    Args:
      where: name of the file, for messages.
      title: of its layout.
      theirs: fields of ``config.model`` that it needs.
      model: ``config.model``.

    Raises:
      UserError: says which fields to set.
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


def timm_tensors(
    model: str, variables: Mapping[names.Path, np.ndarray], steps: int
) -> dict[str, np.ndarray]:
    """Returns the state dict of timm's model.

    Args:
      model: ``model.name``.
      variables: by path, collection first.
      steps: of training, for the counters of PyTorch's BatchNorm.

    Raises:
      UserError: timm has no such model.
    """
    if model not in TIMM:
        raise UserError(
            f"--format=safetensors: timm has no {model}; it has {', '.join(TIMM)}; choose another "
            "format"
        )
    tensors = {}
    for path, value in variables.items():
        (name,) = TIMM[model].names(path)
        tensors[name] = np.ascontiguousarray(to_torch(value, name))
        if name.endswith("running_mean"):
            counter = name.replace("running_mean", "num_batches_tracked")
            tensors[counter] = np.array(steps, np.int64)
    return tensors


def safetensors(tensors: Mapping[str, np.ndarray], description: str) -> bytes:
    """Returns the content of a .safetensors file.

    Args:
      tensors: by name.
      description: JSON of the run (mean, std, classes, …), stored under the key ``leukjax``.
    """
    # PyTorch libraries read the key "format".
    return save(dict(sorted(tensors.items())), {"format": "pt", "leukjax": description})
