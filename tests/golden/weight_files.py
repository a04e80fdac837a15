"""Layouts of public weight files, and the logits that their own frameworks make of them.

Into `weight_files.json`; run by hand, in an environment of its own:

    python3 -m venv peers && peers/bin/pip install torch torchvision timm transformers
    peers/bin/python tests/golden/weight_files.py

Names and shapes are those of the frameworks' own models. The .npz of `published_npz.py` are read by
timm's readers of Google's files, which must look up every name in them and no other.
"""

import functools
import json
import tempfile
from pathlib import Path

import fill
import numpy as np
import published_npz
import timm
import torch
import torchvision
import transformers
from timm.layers import StdConv2d
from timm.models import resnetv2, vision_transformer, vision_transformer_hybrid

CLASSES, IMAGES, SIZE = 10, 2, 32
SMALL_BIT = {"layers": [3, 4, 6, 3], "channels": (128, 256, 512, 1024), "stem_chs": 32}
HUGGING_FACE = {  # a ResNet-50 of width 8
    "embedding_size": 8, "hidden_sizes": [32, 64, 128, 256], "depths": [3, 4, 6, 3],
    "layer_type": "bottleneck", "num_labels": CLASSES,
}  # fmt: skip


def main() -> None:
    """Write the JSON."""
    hugging_face = transformers.ResNetForImageClassification(
        transformers.ResNetConfig(**HUGGING_FACE)
    ).eval()
    full = transformers.ResNetForImageClassification(transformers.ResNetConfig(num_labels=1000))
    result = {
        "versions": {
            module.__name__: module.__version__
            for module in (timm, torch, torchvision, transformers)
        },
        "layouts": {
            "timm/resnet50": shapes(timm.create_model("resnet50")),
            "timm/resnet50_gn": shapes(timm.create_model("resnet50_gn")),
            "torchvision/resnet50": shapes(torchvision.models.resnet50()),
            "timm/resnetv2_50x1_bit": shapes(
                timm.create_model("resnetv2_50x1_bit", num_classes=21843)
            ),
            "timm/vit_small_r26_s32_224": shapes(timm.create_model("vit_small_r26_s32_224")),
            "timm/vit_base_r50_s16_224": shapes(
                timm.create_model("vit_base_r50_s16_224.orig_in21k", num_classes=1000)
            ),
            "microsoft/resnet-50": shapes(full),
        },
        "models": {
            "timm_resnet18": torch_file(timm.create_model("resnet18", num_classes=CLASSES)),
            "timm_resnet18_gn": torch_file(
                timm.create_model("resnet18", num_classes=CLASSES, norm_layer="groupnorm")
            ),
            "hugging_face": torch_file(hugging_face, lambda x: hugging_face(x).logits),
            "timm_bit": torch_file(small_bit()),
            "timm_hybrid": torch_file(small_hybrid()),
            "bit_npz": npz_file(
                small_bit(), resnetv2._load_weights, published_npz.bit((3, 4, 6, 3), 32, CLASSES)
            ),
            "hybrid_npz": npz_file(
                small_hybrid(),
                vision_transformer._load_weights,
                published_npz.hybrid((2, 2), 192, 6, 3, 17, CLASSES),
            ),
        },
    }
    check_full_npz()
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=0) + "\n")


def shapes(model: torch.nn.Module) -> dict[str, str]:
    """Names and shapes of a state dict, as ``64x3x7x7``; short, for there are many."""
    return {name: "x".join(map(str, x.shape)) for name, x in model.state_dict().items()}


def small_bit() -> torch.nn.Module:
    """BiT's R50 of width 32: its GroupNorms have 32 groups."""
    return resnetv2.ResNetV2(
        **SMALL_BIT, num_classes=CLASSES, stem_type="fixed",
        conv_layer=functools.partial(StdConv2d, eps=1e-8),
    ).eval()  # fmt: skip


def small_hybrid() -> torch.nn.Module:
    """Our variant ``small``."""
    return vision_transformer_hybrid._create_vision_transformer_hybrid(
        "vit_small_r26_s32_224", backbone=vision_transformer_hybrid._resnetv2((2, 2)),
        embed_dim=192, depth=6, num_heads=3, img_size=SIZE, num_classes=CLASSES,
    ).eval()  # fmt: skip


def torch_file(model: torch.nn.Module, call=None) -> dict:
    """Logits of a model filled by `fill.parameter` under its own names."""
    model.eval()
    tensors = {
        name: torch.from_numpy(np.asarray(fill.parameter(name, tuple(x.shape)), np.float32))
        for name, x in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing), missing
    return {"tensors": shapes(model), "logits": logits(call or model)}


def npz_file(model: torch.nn.Module, load, layout: published_npz.Shapes) -> dict:
    """Logits of a model that has read a fabricated .npz."""
    read_npz(model, load, layout)
    return {"logits": logits(model)}


def read_npz(model: torch.nn.Module, load, layout: published_npz.Shapes) -> None:
    """Have timm read a file of this layout, and every tensor of it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.npz"
        np.savez(path, **{name: published_npz.values(name, layout[name]) for name in layout})
        looked_up = set()
        original = np.lib.npyio.NpzFile.__getitem__

        def note(self, name):
            looked_up.add(name)
            return original(self, name)

        np.lib.npyio.NpzFile.__getitem__ = note
        try:
            with torch.no_grad():
                load(model, str(path))
        finally:
            np.lib.npyio.NpzFile.__getitem__ = original
    unread = set(layout) - looked_up
    assert not unread, f"timm does not read {sorted(unread)[:3]}"


def check_full_npz() -> None:
    """The full-size files that were published, read by timm's full-size models."""
    r26 = timm.create_model("vit_small_r26_s32_224", num_classes=1000)
    load = vision_transformer._load_weights
    read_npz(r26, load, published_npz.hybrid((2, 2, 2, 2), 384, 12, 6, 50, 1000))
    r50 = timm.create_model("vit_base_r50_s16_224.orig_in21k", num_classes=1000)
    read_npz(r50, load, published_npz.hybrid((3, 4, 9), 768, 12, 12, 197, 1000))
    bit = timm.create_model("resnetv2_50x1_bit", num_classes=21843)
    read_npz(bit, resnetv2._load_weights, published_npz.bit((3, 4, 6, 3), 64, 21843))


def logits(call) -> list[list[float]]:
    """Of the golden images."""
    images = torch.from_numpy(fill.images(IMAGES, SIZE)).permute(0, 3, 1, 2).contiguous()
    with torch.no_grad():
        return call(images).tolist()


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
