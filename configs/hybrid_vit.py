"""Hybrid vision transformer: a ResNet whose feature map becomes the tokens.

python -m leukjax.main --config=configs/hybrid_vit.py               the embedded, drawn cells
python -m leukjax.main --config=configs/hybrid_vit.py:cnmc --config.data.root=FOLDER
    R26+ViT-S/32 on C-NMC 2019 at 224 px. Not run: the images are not ours to ship.
python -m leukjax.main --config=configs/hybrid_vit.py:cnmc,r50_b16 --config.data.root=FOLDER
    R50+ViT-B/16, about four times the size. Not run: needs an accelerator.
"""

from ml_collections import ConfigDict

from leukjax.config import load, recipes


def get_config(argument: str = "") -> ConfigDict:
    """`argument` is ``DATASET[,small|r26_s32|r50_b16]``."""
    variants = ("small", "r26_s32", "r50_b16")
    dataset, chosen = recipes(argument, known=variants)
    config = load(f"default:{dataset}")
    config.model.name = "hybrid_vit"
    config.model.norm = "group"
    config.model.variant = chosen[-1] if chosen else ("r26_s32" if dataset else "small")
    config.model.dropout = 0.1
    config.optimizer.name = "adamw"
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 1.0
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = "2 epochs"
    config.optimizer.learning_rate = 3e-4
    if not dataset:
        config.train.epochs = 20.0
    return config
