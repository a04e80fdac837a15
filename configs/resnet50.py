"""ResNet-50 (v1.5), from scratch or from weights that exist.

python -m leukjax.main --config=configs/resnet50.py                 the embedded, synthetic cells
python -m leukjax.main --config=configs/resnet50.py:cnmc --config.data.root=FOLDER
    C-NMC 2019 at 224 px, batch 32, Adam, 50 epochs. Not run: the images are not ours to ship.
python -m leukjax.main --config=configs/resnet50.py:cnmc,large --config.data.root=FOLDER
    The same in batches of 1,024 for many devices. Not run: needs accelerators.
python -m leukjax.main --config=configs/resnet50.py:cnmc,pretrained --config.data.root=FOLDER
    Fine-tunes timm's ImageNet weights (resnet50.a1_in1k, with their mean and standard deviation):
    AdamW 5e-4, weight decay 0.05, each stage away from the head 0.65 times as fast, five epochs of
    warm-up. Not run: needs the images and 102 MB from the Hugging Face hub (or a file:
    --config.init.weights=PATH). Published for C-NMC, one fold and seed (jossman14/
    ALL-Lightweight-ViT): balanced accuracy 0.919 with this rate, 0.876 with 1e-4.
python -m leukjax.main --config=configs/resnet50.py:cnmc,group_norm --config.data.root=FOLDER
    The same from timm's ResNet-50 with GroupNorm (resnet50_gn.a1h_in1k), which depends less on the
    hospital: trained on Raabin, accuracy 98.2 and 78.0 % on the two test sets, with BatchNorm 98.5
    and 34.6 % (arXiv 2303.01777). Not run either.
python -m leukjax.main --config=configs/resnet50.py:cnmc,bit --config.data.root=FOLDER
    Fine-tunes Big Transfer's R50x1 (pre-activation, GroupNorm), trained on ImageNet-21k: SGD with
    momentum, 3e-3, as its authors do. Not run either.
"""

from ml_collections import ConfigDict

from leukjax.config import load, recipes


def get_config(argument: str = "") -> ConfigDict:
    """`argument` is ``DATASET[,large][,pretrained|group_norm|bit]``."""
    dataset, chosen = recipes(argument, known=("large", "pretrained", "group_norm", "bit"))
    config = load(f"default:{dataset}")
    config.model.name = "resnet"
    config.model.depth = 50
    if not dataset:
        config.optimizer.learning_rate = 1e-3
        config.optimizer.schedule = "cosine"
        config.optimizer.warmup = "1 epochs"
    if "pretrained" in chosen or "group_norm" in chosen:
        pretrained(config)
    if "group_norm" in chosen:
        config.model.norm = "group"
        config.init.weights = "hf://timm/resnet50_gn.a1h_in1k"
    if "bit" in chosen:
        big_transfer(config)
    if "large" in chosen:
        large_batch(config)
    return config


def pretrained(config: ConfigDict) -> None:
    """Start from ImageNet: high rates at the new head, low ones at the images."""
    config.init.weights = "hf://timm/resnet50.a1_in1k"
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 5e-4
    config.optimizer.weight_decay = 0.05
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = "5 epochs"
    config.optimizer.layer_decay = 0.65


def big_transfer(config: ConfigDict) -> None:
    """Start from ImageNet-21k by BiT-HyperRule's optimiser (Kolesnikov et al. 2020)."""
    config.model.name = "bit"
    config.model.norm = "group"
    config.init.weights = "hf://timm/resnetv2_50x1_bit.goog_in21k"
    config.optimizer.name = "sgd"
    config.optimizer.momentum = 0.9
    config.optimizer.learning_rate = 3e-3
    config.optimizer.schedule = "step"
    config.optimizer.step_every = f"{config.train.epochs / 3:g} epochs"
    config.optimizer.warmup = "1 epochs"


def large_batch(config: ConfigDict) -> None:
    """Batches of 1,024: learning rate scaled by the square root of the factor (Adam), warm-up."""
    config.optimizer.learning_rate *= (1024 / config.train.batch_size) ** 0.5
    config.optimizer.warmup = "5 epochs"
    config.train.batch_size = 1024
    # Statistics over 32 images each: no device waits for another in any layer, and the numbers
    # do not depend on how many devices there are.
    config.model.norm_batch = 32
