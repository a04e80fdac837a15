"""ResNet-50 (v1.5) from scratch.

python -m leukjax.main --config=configs/resnet50.py                 the embedded, drawn cells
python -m leukjax.main --config=configs/resnet50.py:cnmc --config.data.root=FOLDER
    C-NMC 2019 at 224 px, batch 32, Adam, 50 epochs. Not run: the images are not ours to ship.
python -m leukjax.main --config=configs/resnet50.py:cnmc,large --config.data.root=FOLDER
    The same in batches of 1,024 for many devices. Not run: needs accelerators.
"""

from ml_collections import ConfigDict

from leukjax.config import load, recipes


def get_config(argument: str = "") -> ConfigDict:
    """`argument` is ``DATASET[,large]``."""
    dataset, chosen = recipes(argument, known=("large",))
    config = load(f"default:{dataset}")
    config.model.name = "resnet"
    config.model.depth = 50
    if not dataset:
        config.optimizer.learning_rate = 1e-3
        config.optimizer.schedule = "cosine"
        config.optimizer.warmup = "1 epochs"
    if "large" in chosen:
        large_batch(config)
    return config


def large_batch(config: ConfigDict) -> None:
    """Batches of 1,024: learning rate scaled by the square root of the factor (Adam), warm-up."""
    config.optimizer.learning_rate *= (1024 / config.train.batch_size) ** 0.5
    config.optimizer.warmup = "5 epochs"
    config.train.batch_size = 1024
    # Statistics over 32 images each: no device waits for another in any layer, and the numbers
    # do not depend on how many devices there are.
    config.model.norm_batch = 32
