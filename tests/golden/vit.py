"""Features and logits of timm's and DINOv2's vision transformers, filled by `fill.py`.

Into `vit.json`; run by hand, in an environment of its own, beside a checkout of DINOv2:

    python3 -m venv peers && peers/bin/pip install torch torchvision timm
    git clone https://github.com/facebookresearch/dinov2
    PYTHONPATH=dinov2 XFORMERS_DISABLED=1 peers/bin/python tests/golden/vit.py

A case has the names and shapes of a file, and for images of several sizes what its own code makes
of them; for another size than that of the file the code resizes the position embeddings. Logits are
those of a linear layer on the class token.
"""

import functools
import json
import math
import sys
import tempfile
import types
from pathlib import Path

import fill
import torch

# timm needs torchvision for other things; this part of it fails where its build is not torch's.
sys.modules["torchvision._meta_registrations"] = types.ModuleType("empty")
import timm  # noqa: E402
from dinov2.models import vision_transformer as dinov2  # noqa: E402

CLASSES, IMAGES, SHOWN = 10, 2, 24
SMALL = {"embed_dim": 384, "depth": 12, "num_heads": 6}
BASE = {"embed_dim": 768, "depth": 12, "num_heads": 12}
NARROW = {"embed_dim": 96, "depth": 2, "num_heads": 3}

# name -> makes timm's model for a size, size of the file, sizes of the images
TIMM = {
    "vit_small_patch16_224": ({"depth": 2}, 64, (64, 96)),
    "vit_small_patch14_dinov2": ({"depth": 2}, 70, (70, 42, 98)),
    "vit_small_patch14_reg4_dinov2": ({"depth": 2}, 70, (70, 42, 98)),
    "vit_giant_patch14_dinov2": (NARROW, 70, (70, 42)),
    "vit_giant_patch14_reg4_dinov2": (NARROW, 70, (42,)),
}
TIMM_FULL = {
    "vit_base_patch16_224": ({}, 224, (224,)),
    "vit_small_patch14_dinov2": ({}, 518, (224, 154)),
    "vit_base_patch14_dinov2": ({}, 518, (224,)),
    "vit_small_patch14_reg4_dinov2": ({}, 518, (224,)),
    "vit_base_patch14_reg4_dinov2": ({}, 518, (224, 154)),
    "vit_giant_patch14_dinov2": ({"depth": 2}, 518, (224, 154)),
}
# name -> options of DINOv2's model, size of the file, sizes of the images
REG = {"num_register_tokens": 4, "interpolate_antialias": True, "interpolate_offset": 0.0}
GIANT = {"ffn_layer": "swiglufused"}
DINOV2 = {
    "small": (SMALL | {"depth": 2}, 70, (70, 42, 98)),
    "small_reg4": (SMALL | {"depth": 2} | REG, 70, (70, 42, 98)),
    "giant": (NARROW | GIANT, 70, (70, 42)),
    "giant_reg4": (NARROW | GIANT | REG, 70, (42,)),
}
DINOV2_FULL = {
    "small": (SMALL, 518, (224, 154)),
    "base": (BASE, 518, (224,)),
    "base_reg4": (BASE | REG, 518, (224,)),
}


def main() -> None:
    """Write the JSON."""
    torch.set_num_threads(2)
    result = {
        "versions": {module.__name__: module.__version__ for module in (timm, torch)},
        "quick": cases(TIMM, DINOV2),
        "full": cases(TIMM_FULL, DINOV2_FULL),
        "zenodo": zenodo(),
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=0) + "\n")


def cases(of_timm: dict, of_dinov2: dict) -> dict:
    """All cases of two tables."""
    return {f"timm/{name}": timm_case(name, *case) for name, case in of_timm.items()} | {
        f"dinov2/{name}": dinov2_case(*case) for name, case in of_dinov2.items()
    }


def timm_case(name: str, options: dict, size: int, sizes: tuple[int, ...]) -> dict:
    """timm's model; it resizes position embeddings when it loads a file."""
    make = functools.partial(timm.create_model, name, num_classes=CLASSES, **options)
    tensors = filled(make(img_size=size))
    results = {}
    for side in sizes:
        model = make(img_size=side).eval()
        state = timm.models.vision_transformer.checkpoint_filter_fn(
            dict(tensors), model, interpolation="bicubic", antialias=True
        )
        model.load_state_dict(state)
        tokens = forward(model.forward_features, side)
        first = model.num_prefix_tokens
        results[str(side)] = shown(tokens[:, 0], tokens[:, first:], model.head(tokens[:, 0]))
    return {"tensors": shapes(tensors), "size": size, "results": results}


def dinov2_case(options: dict, size: int, sizes: tuple[int, ...]) -> dict:
    """DINOv2's model; it resizes position embeddings at every call."""
    model = dinov2_model(img_size=size, **options).eval()
    tensors = filled(model)
    model.load_state_dict(tensors)
    weight, bias = (
        torch.from_numpy(fill.parameter(name, shape))
        for name, shape in (
            ("head.weight", (CLASSES, model.embed_dim)), ("head.bias", (CLASSES,))
        )
    )  # fmt: skip
    results = {}
    for side in sizes:
        found = forward(functools.partial(model, is_training=True), side)
        token = found["x_norm_clstoken"]
        results[str(side)] = shown(token, found["x_norm_patchtokens"], token @ weight.T + bias)
    return {"tensors": shapes(tensors), "size": size, "results": results}


def dinov2_model(**options) -> torch.nn.Module:
    """A DINOv2 of any size, as its hub makes them."""
    block = functools.partial(dinov2.Block, attn_class=dinov2.MemEffAttention)
    fixed = {"patch_size": 14, "init_values": 1.0, "block_chunks": 0}
    return dinov2.DinoVisionTransformer(block_fn=block, **fixed, **options)


def filled(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A state dict of the golden rule."""
    return {
        name: torch.from_numpy(fill.parameter(name, tuple(value.shape)))
        for name, value in model.state_dict().items()
    }


def forward(call, side: int):
    """A call on the golden images."""
    images = torch.from_numpy(fill.images(IMAGES, side)).permute(0, 3, 1, 2).contiguous()
    with torch.no_grad():
        return call(images)


def shown(token: torch.Tensor, patches: torch.Tensor, logits: torch.Tensor) -> dict:
    """The first features of the class token and of the mean patch, and all logits."""
    assert math.isqrt(patches.shape[1]) ** 2 == patches.shape[1]
    lists = {"token": token[:, :SHOWN], "mean": patches.mean(1)[:, :SHOWN], "logits": logits}
    return {name: values.detach().numpy().astype(float).round(7).tolist()
            for name, values in lists.items()}  # fmt: skip


def shapes(tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    """Names and shapes, as ``64x3x7x7``."""
    return {name: "x".join(map(str, value.shape)) for name, value in tensors.items()}


def zenodo() -> dict[str, str]:
    """What launch/pth_to_safetensors.py makes of a DinoBloom-S in the form of Zenodo's files."""
    sys.path.append(str(Path(__file__).resolve().parents[2] / "launch"))
    import pth_to_safetensors as converter
    from safetensors.numpy import load_file

    model = dinov2_model(img_size=224, **SMALL)
    tensors = {f"backbone.{name}": value for name, value in model.state_dict().items()}
    heads = {f"{name}.mlp.0.weight": torch.zeros(2, 2) for name in ("dino_head", "ibot_head")}
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "DinoBloom-S.pth", Path(folder) / "s.safetensors"
        torch.save({"teacher": {**tensors, **heads}}, source)
        sys.argv = ["", str(source), str(target), f"--sha256={'0' * 64}"]
        assert converter.main() == 1
        sys.argv = ["", str(source), str(target)]
        assert converter.main() == 0
        return {name: "x".join(map(str, x.shape)) for name, x in load_file(target).items()}


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
