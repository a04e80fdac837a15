"""Logits of google-research's R50+ViT-B/16, filled by `fill.py`, into a JSON beside this file.

Run by hand, in leukjax's environment, with a clone of github.com/google-research/vision_transformer
(its code is not part of this repository):

    PYTHONPATH=CLONE python tests/golden/logits_vision_transformer.py
"""

import json
from pathlib import Path

import fill
import flax
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from vit_jax import models_vit

SIZE = 64
CLASSES = 10
IMAGES = 2
OPTIONS = {  # vit_jax/configs/models.py: get_r50_b16_config
    "patches": ConfigDict({"size": (1, 1)}),
    "hidden_size": 768,
    "transformer": {
        "mlp_dim": 3072,
        "num_heads": 12,
        "num_layers": 12,
        "attention_dropout_rate": 0.0,
        "dropout_rate": 0.1,
    },
    "classifier": "token",
    "resnet": ConfigDict({"num_layers": (3, 4, 9), "width_factor": 1}),
}
ENDINGS = {"kernel": "weight", "scale": "weight", "bias": "bias"}


def values(path: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
    """The numbers of one of vit_jax's parameters, from the rule for timm's."""
    if path == ("cls",):
        return fill.parameter("cls_token", shape)
    if path[-1] == "pos_embedding":
        return fill.parameter("pos_embed", shape)
    ending = ENDINGS[path[-1]]
    if path[0] == "Transformer" and path[1].startswith("encoderblock"):
        return _block(path, ending, shape)
    if path[0] == "Transformer":
        return _plain(f"norm.{ending}", shape)
    if path[0] in ("head", "embedding"):
        name = {"head": "head", "embedding": "patch_embed.proj"}[path[0]]
        return _plain(f"{name}.{ending}", shape)
    return _plain(f"patch_embed.backbone.{_resnet(path)}.{ending}", shape)


def _resnet(path: tuple[str, ...]) -> str:
    if path[0].endswith("_root"):
        return {"conv_root": "stem.conv", "gn_root": "stem.norm"}[path[0]]
    stage, unit = int(path[0].removeprefix("block")) - 1, int(path[1].removeprefix("unit")) - 1
    layer = path[2].replace("gn", "norm")
    layer = {"conv_proj": "downsample.conv", "norm_proj": "downsample.norm"}.get(layer, layer)
    return f"stages.{stage}.blocks.{unit}.{layer}"


def _block(path: tuple[str, ...], ending: str, shape: tuple[int, ...]) -> np.ndarray:
    block = f"blocks.{path[1].removeprefix('encoderblock_')}"
    if path[2].startswith("LayerNorm"):
        norm = {"LayerNorm_0": "norm1", "LayerNorm_1": "norm2"}[path[2]]
        return _plain(f"{block}.{norm}.{ending}", shape)
    if path[2].startswith("MlpBlock"):
        layer = {"Dense_0": "fc1", "Dense_1": "fc2"}[path[3]]
        return _plain(f"{block}.mlp.{layer}.{ending}", shape)
    if path[3] == "out":
        flat = shape if ending == "bias" else (shape[0] * shape[1], shape[2])
        return _plain(f"{block}.attn.proj.{ending}", flat).reshape(shape)
    # timm holds query, key and value in one layer, outputs first.
    third = ("query", "key", "value").index(path[3])
    width = OPTIONS["hidden_size"]
    whole = (3 * width,) if ending == "bias" else (3 * width, width)
    part = fill.parameter(f"{block}.attn.qkv.{ending}", whole)[third * width : (third + 1) * width]
    return np.moveaxis(part, 0, -1).reshape(shape)


def _plain(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """From PyTorch's layout: (out, in) -> (in, out), (out, in, h, w) -> (h, w, in, out)."""
    if len(shape) == 4:
        theirs = fill.parameter(name, (shape[3], shape[2], shape[0], shape[1]))
        return theirs.transpose(2, 3, 1, 0)
    if len(shape) == 2:
        return fill.parameter(name, shape[::-1]).T
    return fill.parameter(name, shape)


def count_parameters() -> int:
    """Of the model for 1,000 classes at 224 px."""
    model = models_vit.VisionTransformer(num_classes=1000, **OPTIONS)
    image = jnp.zeros((1, 224, 224, 3))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), image, train=False))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


if __name__ == "__main__":
    model = models_vit.VisionTransformer(num_classes=CLASSES, **OPTIONS)
    images = fill.images(IMAGES, SIZE)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))["params"]
    flat = flax.traverse_util.flatten_dict(shapes)
    params = flax.traverse_util.unflatten_dict(
        {path: values(path, leaf.shape) for path, leaf in flat.items()}
    )
    logits = jax.jit(lambda p, x: model.apply({"params": p}, x, train=False))(params, images)
    result = {
        "jax": jax.__version__,
        "flax": flax.__version__,
        "models": {
            "R50+ViT-B_16": {
                "image_size": SIZE,
                "parameters_1000_classes": count_parameters(),
                "logits": np.asarray(logits).tolist(),
            }
        },
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
