"""Names of our variables in other frameworks.

A path is ``(collection, module, …, leaf)``, as in ``("params", "layer1_0", "conv1", "kernel")``.
Each function returns the names of the tensors that hold this variable: one, or three where a
framework separates query, key and value.
"""

import re

Path = tuple[str, ...]

_TORCH = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


def own(path: Path) -> tuple[str, ...]:
    """Returns the name in a run of leukjax."""
    return ("/".join(path),)


def resnet_torch(path: Path) -> tuple[str, ...]:
    """Returns the name in a ResNet of timm or torchvision."""
    *modules, layer, leaf = path[1:]
    layer = layer.replace("downsample_conv", "downsample.0")
    layer = layer.replace("downsample_norm", "downsample.1").replace("norm", "bn")
    block = [module.replace("_", ".") for module in modules]  # layer1_0 -> layer1.0
    return (".".join([*block, layer, _TORCH.get(leaf, leaf)]),)


def resnet_hugging_face(path: Path) -> tuple[str, ...]:
    """Returns the name in Hugging Face's ``ResNetForImageClassification``."""
    *modules, layer, leaf = path[1:]
    leaf = _TORCH.get(leaf, leaf)
    if layer == "fc":
        return (f"classifier.1.{leaf}",)
    kind = "normalization" if "norm" in layer else "convolution"
    if not modules:
        return (f"resnet.embedder.embedder.{kind}.{leaf}",)
    stage, block = _numbers(modules[0])
    inner = "shortcut" if layer.startswith("downsample") else f"layer.{int(layer[-1]) - 1}"
    return (f"resnet.encoder.stages.{stage - 1}.layers.{block}.{inner}.{kind}.{leaf}",)


def bit_timm(path: Path) -> tuple[str, ...]:
    """Returns the name in timm's pre-activation ResNets (``resnetv2_50x1_bit``)."""
    *modules, layer, leaf = path[1:]
    leaf = _TORCH.get(leaf, leaf)
    layer = {"stem_conv": "stem.conv", "head": "head.fc"}.get(layer, layer)
    if not modules:
        return (f"{layer}.{leaf}",)
    stage, block = _numbers(modules[0])
    return (
        f"stages.{stage - 1}.blocks.{block}.{layer.replace('downsample_', 'downsample.')}.{leaf}",
    )


def bit_npz(path: Path) -> tuple[str, ...]:
    """Returns the name in the .npz files of Big Transfer (Kolesnikov et al. 2020)."""
    *modules, layer, leaf = path[1:]
    leaf = {"scale": "gamma", "bias": "beta"}.get(leaf, leaf) if "norm" in layer else leaf
    if layer == "head":
        return (f"resnet/head/conv2d/{leaf}",)
    if not modules:
        inner = "root_block/standardized_conv2d" if layer == "stem_conv" else "group_norm"
        return (f"resnet/{inner}/{leaf}",)
    stage, block = _numbers(modules[0])
    unit = f"resnet/block{stage}/unit{block + 1:02d}"
    if layer == "downsample_conv":
        return (f"{unit}/a/proj/standardized_conv2d/{leaf}",)
    kind = "group_norm" if layer.startswith("norm") else "standardized_conv2d"
    return (f"{unit}/{'abc'[int(layer[-1]) - 1]}/{kind}/{leaf}",)


_MLP = {"fc1": "mlp.fc1", "fc2": "mlp.fc2", "w12": "mlp.fc1", "w3": "mlp.fc2"}


def vit_timm(path: Path) -> tuple[str, ...]:
    """Returns the name in timm's vision transformers and hybrids (``vit_small_r26_s32_224``)."""
    *modules, leaf = path[1:]
    leaf = _TORCH.get(leaf, leaf)
    if not modules:
        return (leaf,)  # cls_token, pos_embed, reg_token
    first, *rest = modules
    if first == "embedding":
        return (f"patch_embed.proj.{leaf}",)
    if first.startswith(("stem_", "stage")):
        return tuple(f"patch_embed.backbone.{name}" for name in _backbone(first, rest, leaf))
    if first.startswith("block"):
        inner = ".".join(_MLP.get(name, name) for name in rest)
        return (f"blocks.{first.removeprefix('block')}.{inner}.{leaf}",)
    return (f"{first}.{leaf}",)  # norm, head


def vit_dinov2(path: Path) -> tuple[str, ...]:
    """Returns the name in the vision transformers of DINOv2's own code."""
    if path[-1] == "reg_token":
        return ("register_tokens",)
    (name,) = vit_timm(path)
    if path[-2] in ("w12", "w3"):
        return (name.replace(_MLP[path[-2]], f"mlp.{path[-2]}"),)
    return (name,)


def _backbone(first: str, rest: list[str], leaf: str) -> tuple[str, ...]:
    if first.startswith("stem_"):
        return (f"stem.{first.removeprefix('stem_')}.{leaf}",)
    stage, block = _numbers(first)
    layer = rest[0].replace("downsample_", "downsample.")
    return (f"stages.{stage - 1}.blocks.{block}.{layer}.{leaf}",)


def hybrid_npz(path: Path) -> tuple[str, ...]:
    """Returns the names in the published .npz files of google-research/vision_transformer."""
    return _hybrid_flax(path, attention=1, second_norm=2, mlp=3)


def hybrid_linen(path: Path) -> tuple[str, ...]:
    """Returns the names in .npz files of google-research's current code.

    It numbers the modules of each kind separately.
    """
    return _hybrid_flax(path, attention=0, second_norm=1, mlp=0)


def _hybrid_flax(path: Path, *, attention: int, second_norm: int, mlp: int) -> tuple[str, ...]:
    *modules, leaf = path[1:]
    if not modules:
        return (
            {"cls_token": "cls", "pos_embed": "Transformer/posembed_input/pos_embedding"}[leaf],
        )
    first, *rest = modules
    if first.startswith("block"):
        block = f"Transformer/encoderblock_{first.removeprefix('block')}"
        if rest[-1] == "qkv":
            inner = f"{block}/MultiHeadDotProductAttention_{attention}"
            return tuple(f"{inner}/{name}/{leaf}" for name in ("query", "key", "value"))
        inner = {
            "norm1": "LayerNorm_0",
            "norm2": f"LayerNorm_{second_norm}",
            "attn/proj": f"MultiHeadDotProductAttention_{attention}/out",
            "fc1": f"MlpBlock_{mlp}/Dense_0",
            "fc2": f"MlpBlock_{mlp}/Dense_1",
        }["/".join(rest)]
        return (f"{block}/{inner}/{leaf}",)
    if first.startswith("stage"):
        stage, block_number = _numbers(first)
        layer = rest[0].replace("downsample_", "").replace("norm", "gn")
        layer = {"conv": "conv_proj", "gn": "gn_proj"}.get(layer, layer)
        return (f"block{stage}/unit{block_number + 1}/{layer}/{leaf}",)
    outer = {"stem_conv": "conv_root", "stem_norm": "gn_root", "norm": "Transformer/encoder_norm"}
    return (f"{outer.get(first, first)}/{leaf}",)


def _numbers(module: str) -> tuple[int, int]:
    """Returns (2, 0) of ``layer2_0`` and ``stage2_0``."""
    stage, block = re.findall(r"\d+", module)
    return int(stage), int(block)
