"""The simple CNN of the literature: convolution, pooling, fully connected.

python -m leukjax.main --config=configs/cnn.py                      the embedded, synthetic cells
python -m leukjax.main --config=configs/cnn.py:cnmc --config.data.root=FOLDER
    C-NMC 2019 at 224 px, batch 32, Adam, 50 epochs. Not run: the images are not ours to ship.
python -m leukjax.main --config=configs/cnn.py:image_folder --config.data.root=FOLDER
    Any folder of images, one sub-folder a class.
"""

from ml_collections import ConfigDict

from leukjax.config import load, recipes


def get_config(argument: str = "") -> ConfigDict:
    """`argument` is ``DATASET``."""
    dataset, _ = recipes(argument, known=())
    config = load(f"default:{dataset}")
    config.model.name = "cnn"
    config.model.width = 32
    config.model.dropout = 0.25
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = "1 epochs"
    if not dataset:
        config.train.epochs = 20.0
    return config
