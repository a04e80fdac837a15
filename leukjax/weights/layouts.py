"""The layouts of published weights: names and axes of their tensors for each of our models.

A layout is recognised by a tensor that only it has.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save

from leukjax.errors import UserError
from leukjax.models.hybrid_vit import VARIANTS
from leukjax.models.resnet import STAGES
from leukjax.weights import names

Shape = tuple[int, ...]

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class Axes(NamedTuple):
    """The order of axes in a framework. Ours is rows, columns, inputs, outputs.

    Attributes:
      shape: takes the shapes of the tensors that make one variable, and the shape of the variable;
        returns the shape that they have in our order of axes. The tensors fit if both are equal.
      convert: takes these tensors and the shape in our order; returns one array of that shape.
    """

    shape: Callable[[Sequence[Shape], Shape], Shape]
    convert: Callable[[Sequence[np.ndarray], Shape], np.ndarray]


def _torch_shape(shapes: Sequence[Shape], ours: Shape) -> Shape:
    (shape,) = shapes
    if len(shape) == 4:
        outputs, inputs, rows, columns = shape
        shape = (rows, columns, inputs, outputs)
    elif len(shape) == 2:
        shape = shape[::-1]
    if len(ours) - len(shape) == 2 and shape[-1] == math.prod(ours[-3:]):
        return (*shape[:-1], *ours[-3:])  # query, key and value share one axis
    return _without_ones(shape, ours)


def _torch_convert(tensors: Sequence[np.ndarray], shape: Shape) -> np.ndarray:
    (tensor,) = tensors
    if tensor.ndim == 4:
        tensor = tensor.transpose(2, 3, 1, 0)
    elif tensor.ndim == 2:
        tensor = tensor.T
    return tensor.reshape(shape)


def to_torch(array: np.ndarray, name: str) -> np.ndarray:
    """Returns one of our arrays in PyTorch's order, outputs first; the name is timm's."""
    if ".qkv." in name:
        return np.ascontiguousarray(array.reshape(*array.shape[:-3], -1).T)
    if array.ndim == 4:
        return np.ascontiguousarray(array.transpose(3, 2, 0, 1))
    if array.ndim == 2:
        array = np.ascontiguousarray(array.T)
        as_convolution = name in ("patch_embed.proj.weight", "head.fc.weight")
        return array[:, :, None, None] if as_convolution else array
    return array


def _flax_shape(shapes: Sequence[Shape], ours: Shape) -> Shape:
    shape = shapes[0]
    if len(shapes) == 3:
        if len(set(shapes)) != 1 or len(shape) < 2:
            return ()
        return (*shape[:-2], 3, *shape[-2:])
    if len(shape) == 3 and len(ours) == 2:
        return (shape[0] * shape[1], shape[2])  # heads and their features are one axis
    return _without_ones(shape, ours)


def _flax_convert(tensors: Sequence[np.ndarray], shape: Shape) -> np.ndarray:
    tensor = np.stack(tensors, -3) if len(tensors) == 3 else tensors[0]
    return tensor.reshape(shape)


def _without_ones(shape: Shape, ours: Shape) -> Shape:
    """Drops leading dimensions of 1 that ours lacks: a 1x1 convolution is a matrix product."""
    while len(shape) > len(ours) and shape[0] == 1:
        shape = shape[1:]
    return shape


TORCH = Axes(_torch_shape, _torch_convert)
FLAX = Axes(_flax_shape, _flax_convert)


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
    """

    title: str
    model: str
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
    """Returns the layout of a file, by its content.

    Args:
      where: name of the file, for messages.
      shapes: of its tensors.

    Raises:
      UserError: no known layout fits.
    """
    for layout in LAYOUTS:
        if layout.marker in shapes:
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
        return {"name": "hybrid_vit", "variant": _variant(layout, shapes, stages)}
    depths = [
        depth
        for depth, plan in STAGES.items()
        if plan == stages and bottleneck == (depth >= 50 or layout.model == "bit")
    ]
    stem = ("params", "stem_conv" if layout.model == "bit" else "conv1", "kernel")
    shape = shapes.get(layout.names(stem)[0], ())
    width = (shape[0] if layout.axes is TORCH else shape[-1]) if shape else None
    depth = min((d for d in depths if d >= 50 or not bottleneck), default=None)
    return {"name": layout.model, "depth": depth, "width": width}


def _variant(layout: Layout, shapes: Mapping[str, Shape], stages: tuple[int, ...]) -> str | None:
    token = shapes.get(layout.names(("params", "cls_token"))[0], (0,))
    for name, variant in VARIANTS.items():
        if variant.stages == stages and variant.features == token[-1]:
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
