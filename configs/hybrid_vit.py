"""Hybrid vision transformer: a ResNet whose feature map becomes the tokens.

python -m leukjax.main --config=configs/hybrid_vit.py               the embedded, synthetic cells
python -m leukjax.main --config=configs/hybrid_vit.py:cnmc --config.data.root=FOLDER
    R26+ViT-S/32 on C-NMC 2019 at 224 px. Not run: the images are not ours to ship.
python -m leukjax.main --config=configs/hybrid_vit.py:cnmc,r50_b16 --config.data.root=FOLDER
    R50+ViT-B/16, about four times the size. Not run: needs an accelerator.
python -m leukjax.main --config=configs/hybrid_vit.py:cnmc,pretrained --config.data.root=FOLDER
    Fine-tunes timm's R26+ViT-S/32 (augreg, ImageNet-21k then 1k, with its mean and standard
    deviation of 0.5): AdamW 5e-5, the head 10 times as fast, each stage away from it 0.85 times.
    Not run: needs the images and 146 MB from the Hugging Face hub (or --config.init.weights=PATH).
"""

from ml_collections import ConfigDict

from leukjax.config import load, recipes
from leukjax.errors import UserError


def get_config(argument: str = "") -> ConfigDict:
    """`argument` is ``DATASET[,small|r26_s32|r50_b16][,pretrained]``."""
    variants = ("small", "r26_s32", "r50_b16")
    dataset, chosen = recipes(argument, known=(*variants, "pretrained"))
    sizes = [name for name in chosen if name in variants]
    config = load(f"default:{dataset}")
    config.model.name = "hybrid_vit"
    config.model.norm = "group"
    # R26/32 leaves 2 x 2 tokens of an image of 48 px; its published weights are for 224 px.
    large = config.data.image_size >= 128 or "pretrained" in chosen
    config.model.variant = sizes[-1] if sizes else ("r26_s32" if large else "small")
    config.model.dropout = 0.1
    config.optimizer.name = "adamw"
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 1.0
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = "2 epochs"
    config.optimizer.learning_rate = 3e-4
    if not dataset:
        config.train.epochs = 20.0
    if "pretrained" in chosen:
        pretrained(config)
    return config


def pretrained(config: ConfigDict) -> None:
    """Start from ImageNet: low rates at the images, high at the new head."""
    files = {
        "r26_s32": "hf://timm/vit_small_r26_s32_224.augreg_in21k_ft_in1k",
        "r50_b16": "hf://timm/vit_base_r50_s16_384.orig_in21k_ft_in1k",
    }
    if config.model.variant not in files:
        raise UserError(
            f"config recipe pretrained: no one published weights of {config.model.variant}; "
            f"one of {', '.join(files)}"
        )
    config.init.weights = files[config.model.variant]
    config.model.gelu_tanh = False  # as timm
    config.optimizer.learning_rate = 5e-5
    config.optimizer.layer_decay = 0.85
    config.optimizer.head_rate = 10.0
