"""Logits of timm's models, filled by `fill.py`, into `logits_timm.json`. Run by hand.

In an environment of its own (no part of leukjax needs PyTorch):

    python3 -m venv peers && peers/bin/pip install torch torchvision timm numpy
    peers/bin/python tests/golden/logits_timm.py
"""

import json
import sys
import types
from pathlib import Path

import fill
import torch

# timm needs torchvision for other things; this part of it fails where its build is not torch's.
sys.modules["torchvision._meta_registrations"] = types.ModuleType("empty")
import timm  # noqa: E402

MODELS = {"resnet50": 64, "resnet18": 48, "vit_small_r26_s32_224": 96}
CLASSES = 10
IMAGES = 2


def golden(name: str, size: int) -> dict:
    """Parameter count and logits of one model."""
    options = {"img_size": size} if name.startswith("vit") else {}
    count = sum(p.numel() for p in timm.create_model(name, num_classes=1000).parameters())
    model = timm.create_model(name, num_classes=CLASSES, **options).eval()
    state = {
        key: torch.from_numpy(fill.parameter(key, tuple(value.shape)))
        for key, value in model.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert all(key.endswith("num_batches_tracked") for key in missing), missing
    images = torch.from_numpy(fill.images(IMAGES, size)).permute(0, 3, 1, 2).contiguous()
    with torch.no_grad():
        logits = model(images)
    return {"image_size": size, "parameters_1000_classes": count, "logits": logits.tolist()}


if __name__ == "__main__":
    torch.manual_seed(0)
    result = {
        "timm": timm.__version__,
        "torch": torch.__version__,
        "models": {name: golden(name, size) for name, size in MODELS.items()},
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
