"""Vision transformers: a small one from scratch, or fine-tuned foundation models.

python -m leukjax.main --config=configs/vit.py                      the embedded, synthetic cells
    `tiny` (patches of 8 px, 2.7 million parameters) from scratch.
python -m leukjax.main --config=configs/vit.py:cnmc,dinobloom_s --config.data.root=FOLDER
    Fine-tunes DinoBloom-S (Koch et al. 2024), trained on blood cells, at 224 px: AdamW 5e-4, weight
    decay 0.05, each block away from the head 0.65 times as fast, 5 epochs of warm-up, cosine.
    `python -m leukjax.weights list` names the other weights. Not run: needs the images and 87 MB
    from the Hugging Face hub (or a file: --config.init.weights=PATH).
python -m leukjax.main --config=configs/vit.py:cnmc,dinobloom_s,lora --config.data.root=FOLDER
    The same by LoRA: updates of rank 16 and the head, AdamW 3e-4. A checkpoint of S has 13 MB in
    place of 240.
python -m leukjax.main --config=configs/vit.py:cnmc,dinobloom_g --config.init.weights=FILE …
    Weights that are not on the hub as safetensors: launch/pth_to_safetensors.py converts them.
"""

from ml_collections import ConfigDict

from leukjax.config import load, recipes
from leukjax.weights.published import Published, of_config


def get_config(argument: str = "") -> ConfigDict:
    """`argument` is ``DATASET[,tiny|s16|b16][,WEIGHTS[,lora]]``: see `leukjax.weights list`."""
    published = of_config("vit")
    sizes = ("tiny", "s16", "b16")
    dataset, chosen = recipes(argument, known=(*sizes, *published, "lora"))
    config = load(f"default:{dataset}")
    config.model.name = "vit"
    config.model.variant = "tiny" if config.data.image_size < 128 else "s16"
    config.model.gelu_tanh = False  # as timm and DINOv2
    config.optimizer.name = "adamw"
    config.optimizer.weight_decay = 0.05
    config.optimizer.schedule = "cosine"
    from_scratch(config)
    if not dataset:
        config.train.epochs = 20.0
    for recipe in chosen:
        if recipe in published:
            fine_tune(config, published[recipe])
        elif recipe in sizes:
            config.model.variant = recipe
    if "lora" in chosen:
        lora(config)
    return config


def from_scratch(config: ConfigDict) -> None:
    """As the hybrid vision transformer."""
    config.model.dropout = 0.1
    config.optimizer.clip_norm = 1.0
    config.optimizer.warmup = "2 epochs"
    config.optimizer.learning_rate = 3e-4


def fine_tune(config: ConfigDict, weights: Published) -> None:
    """Start from published weights; docs/howto/weights.md has the source of the rates."""
    config.init.weights = weights.weights
    config.model.variant = weights.model
    config.model.dropout = 0.0
    config.data.image_size = 224
    config.optimizer.clip_norm = 0.0
    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup = "5 epochs"
    config.optimizer.layer_decay = 0.65


def lora(config: ConfigDict) -> None:
    """Train low-rank updates and the head only (Hu et al. 2022)."""
    config.optimizer.lora_rank = 16
    config.optimizer.learning_rate = 3e-4
    config.optimizer.layer_decay = 1.0
    config.optimizer.weight_decay = 0.0
