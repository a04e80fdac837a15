"""Check by hand that PyTorch loads what leukjax exports, and computes the same logits.

    python -m leukjax.main --config=configs/resnet50.py --workdir=RUN --config.train.epochs=1
    python -m leukjax.export --workdir=RUN --output=OUT
    python tests/golden/load_export.py ours RUN OUT         in leukjax's environment
    peers/bin/python tests/golden/load_export.py timm OUT   in one with timm

The first writes the logits of golden images into OUT/logits.json, the second compares with them.
Further arguments of the second go to timm.create_model: ``img_size=48``.
"""

import json
import sys
from pathlib import Path

import fill
import numpy as np

NAMES = {"resnet": "resnet{depth}", "bit": "resnetv2_{depth}x1_bit"}
VARIANTS = {
    "r26_s32": "vit_small_r26_s32_224",
    "r50_b16": "vit_base_r50_s16_224.orig_in21k",
    "s16": "vit_small_patch16_224",
    "s14": "vit_small_patch14_dinov2",
    "s14_reg4": "vit_small_patch14_reg4_dinov2",
}


def ours(run: str, out: str) -> None:
    """Write what leukjax computes."""
    import leukjax

    model = leukjax.load(run).member
    logits = model.logits(fill.images(2, model.image_size))
    content = {"logits": np.asarray(logits).tolist(), "image_size": model.image_size}
    (Path(out) / "logits.json").write_text(json.dumps(content))


def theirs(out: str, *options: str) -> None:
    """Load the export strictly by timm, compare."""
    import timm
    import torch

    described = json.loads((Path(out) / "preprocessing.json").read_text())
    model, kept = described["model"], json.loads((Path(out) / "logits.json").read_text())
    name = NAMES.get(model["name"]) or VARIANTS[model["variant"]]
    pairs = dict(option.split("=") for option in options)
    network = timm.create_model(
        name.format(**model),
        num_classes=len(described["classes"]),
        checkpoint_path=str(Path(out) / "model.safetensors"),
        **{key: int(value) for key, value in pairs.items()},
    ).eval()
    images = torch.from_numpy(fill.images(2, kept["image_size"])).permute(0, 3, 1, 2)
    with torch.no_grad():
        found = network(images.contiguous()).numpy()
    expected = np.array(kept["logits"])
    difference = np.abs(found - expected).max() / np.abs(expected).max()
    print(f"{name.format(**model)}, timm {timm.__version__}: relative difference {difference:.1e}")
    assert difference < 1e-4


if __name__ == "__main__":
    {"ours": ours, "timm": theirs}[sys.argv[1]](*sys.argv[2:])
