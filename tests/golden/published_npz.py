"""Names and shapes in the .npz files that Google published, and numbers to fill them with.

Needs NumPy only. The files themselves (gs://vit_models/augreg/R26_S_32-….npz, gs://bit_models/
BiT-M-R50x1.npz) cannot be had without a network, so they are fabricated in the very layout:
`weight_files.py` has timm's own readers of these files read them, and fails if they look up a name
that is missing here or leave one unread.
"""

import math

import fill
import numpy as np

Shapes = dict[str, tuple[int, ...]]


def bit(stages: tuple[int, ...], width: int, classes: int) -> Shapes:
    """Of a Big Transfer ResNet."""
    found: Shapes = {"resnet/root_block/standardized_conv2d/kernel": (7, 7, 3, width)}
    inputs = width
    for stage, blocks in enumerate(stages):
        inner = width * 2**stage
        for number in range(blocks):
            unit = f"resnet/block{stage + 1}/unit{number + 1:02d}"
            sizes = {"a": (1, inputs, inner), "b": (3, inner, inner), "c": (1, inner, 4 * inner)}
            for name, (window, before, after) in sizes.items():
                kernel = f"{unit}/{name}/standardized_conv2d/kernel"
                found[kernel] = (window, window, before, after)
                found |= {f"{unit}/{name}/group_norm/{x}": (before,) for x in ("beta", "gamma")}
            if number == 0:
                found[f"{unit}/a/proj/standardized_conv2d/kernel"] = (1, 1, inputs, 4 * inner)
            inputs = 4 * inner
    found |= {f"resnet/group_norm/{x}": (inputs,) for x in ("beta", "gamma")}
    return found | {
        "resnet/head/conv2d/kernel": (1, 1, inputs, classes),
        "resnet/head/conv2d/bias": (classes,),
    }


def hybrid(
    stages: tuple[int, ...], features: int, depth: int, heads: int, tokens: int, classes: int
) -> Shapes:
    """Of google-research/vision_transformer; scales of GroupNorm have four dimensions there."""
    found: Shapes = {"conv_root/kernel": (7, 7, 3, 64)} | _group_norm("gn_root", 64)
    inputs = 64
    for stage, blocks in enumerate(stages):
        inner = 64 * 2**stage
        for number in range(blocks):
            unit = f"block{stage + 1}/unit{number + 1}"
            for name, window, before, after in (
                ("1", 1, inputs, inner), ("2", 3, inner, inner), ("3", 1, inner, 4 * inner),
            ):  # fmt: skip
                found[f"{unit}/conv{name}/kernel"] = (window, window, before, after)
                found |= _group_norm(f"{unit}/gn{name}", after)
            if number == 0:
                found[f"{unit}/conv_proj/kernel"] = (1, 1, inputs, 4 * inner)
                found |= _group_norm(f"{unit}/gn_proj", 4 * inner)
            inputs = 4 * inner
    found |= {
        "embedding/kernel": (1, 1, inputs, features),
        "embedding/bias": (features,),
        "cls": (1, 1, features),
        "Transformer/posembed_input/pos_embedding": (1, tokens, features),
    }
    size = features // heads
    for number in range(depth):
        block = f"Transformer/encoderblock_{number}"
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            found |= _plain(f"{block}/{norm}", "scale", features)
        attention = f"{block}/MultiHeadDotProductAttention_1"
        for name in ("query", "key", "value"):
            found[f"{attention}/{name}/kernel"] = (features, heads, size)
            found[f"{attention}/{name}/bias"] = (heads, size)
        found[f"{attention}/out/kernel"] = (heads, size, features)
        found[f"{attention}/out/bias"] = (features,)
        for name, before, after in (
            ("Dense_0", features, 4 * features), ("Dense_1", 4 * features, features),
        ):  # fmt: skip
            found[f"{block}/MlpBlock_3/{name}/kernel"] = (before, after)
            found[f"{block}/MlpBlock_3/{name}/bias"] = (after,)
    found |= _plain("Transformer/encoder_norm", "scale", features)
    return found | {"head/kernel": (features, classes), "head/bias": (classes,)}


def _group_norm(name: str, channels: int) -> Shapes:
    return {f"{name}/{part}": (1, 1, 1, channels) for part in ("scale", "bias")}


def _plain(name: str, scale: str, features: int) -> Shapes:
    return {f"{name}/{part}": (features,) for part in (scale, "bias")}


def values(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The numbers of a tensor, by the kind that its name says."""
    numbers = fill.uniform(name, shape)
    last = name.split("/")[-1]
    if last in ("scale", "gamma"):
        return 1 + np.float32(0.2) * numbers
    if last == "kernel":
        apart = name.split("/")[-2] in ("query", "key", "value")  # heads x size are its outputs
        inputs = shape[0] if apart else math.prod(shape[:-1])
        return numbers * np.float32(math.sqrt(1.5 / inputs))
    return np.float32(0.2) * numbers
