"""Our variables filled by the rule for timm's parameters: names and layouts."""

import math
import re
from typing import Any

import fill
import flax
import numpy as np

_ENDINGS = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


def timm_name(family: str, path: tuple[str, ...]) -> str:
    """The name in timm of the variable at a path below its collection."""
    *modules, last = path
    ending = _ENDINGS.get(last, last)
    return _resnet(modules, ending) if family == "resnet" else _hybrid(modules, ending)


def _resnet(modules: list[str], ending: str) -> str:
    layer = modules[-1].replace("downsample_conv", "downsample.0")
    layer = layer.replace("downsample_norm", "downsample.1").replace("norm", "bn")
    block = [module.replace("_", ".") for module in modules[:-1]]  # layer1_0 -> layer1.0
    return ".".join([*block, layer, ending])


def _hybrid(modules: list[str], ending: str) -> str:
    if not modules:
        return ending  # cls_token, pos_embed
    first, rest = modules[0], modules[1:]
    if first == "embedding":
        return f"patch_embed.proj.{ending}"
    if first.startswith("stem_"):
        return f"patch_embed.backbone.stem.{first.removeprefix('stem_')}.{ending}"
    stage = re.fullmatch(r"stage(\d+)_(\d+)", first)
    if stage:
        layer = rest[0].replace("downsample_", "downsample.")
        block = f"stages.{int(stage[1]) - 1}.blocks.{stage[2]}"
        return f"patch_embed.backbone.{block}.{layer}.{ending}"
    block = re.fullmatch(r"block(\d+)", first)
    if block:
        inner = ".".join(f"mlp.{name}" if name.startswith("fc") else name for name in rest)
        return f"blocks.{block[1]}.{inner}.{ending}"
    return f"{first}.{ending}"  # norm, head


def filled(family: str, shapes: Any) -> Any:
    """A tree of variables like ``shapes``, with the golden numbers."""
    flat = flax.traverse_util.flatten_dict(shapes)
    return flax.traverse_util.unflatten_dict(
        {path: _values(timm_name(family, path[1:]), leaf.shape) for path, leaf in flat.items()}
    )


def _values(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """From PyTorch's layout, outputs first, to ours, outputs last."""
    if name == "patch_embed.proj.weight":
        shape = (1, 1, *shape)
    if ".qkv." in name:
        outputs = math.prod(shape[-3:])
        theirs = fill.parameter(name, (outputs, *shape[:-3]))
        return np.moveaxis(theirs, 0, -1).reshape(shape)
    if len(shape) == 4:
        theirs = fill.parameter(name, (shape[3], shape[2], shape[0], shape[1]))
        ours = theirs.transpose(2, 3, 1, 0)
        return ours[0, 0] if name == "patch_embed.proj.weight" else ours
    if len(shape) == 2:
        return fill.parameter(name, shape[::-1]).T
    return fill.parameter(name, shape)
