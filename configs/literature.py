"""The protocol that the literature publishes, so that its numbers can stand beside honest ones.

Images, not subjects, are split 70/15/15; 224 px, Adam, cross-entropy, batch 32, 50 epochs; turns,
flips, zoom, brightness and contrast (Hameed 2025). The papers state no learning rate, no schedule
and no rule that chooses the epoch: a constant 1e-4 and the accuracy on validation are ours. Cells
of one subject are on several sides, so every score is marked as leaky.

python -m leukjax.main --config=configs/literature.py:cnmc,resnet50 --config.data.root=FOLDER
    Not run: the images are not ours to ship. `cnn` and `vit` are the other models (`vit` is the
    hybrid R26+ViT-S/32). The papers start the ResNet-50 from weights trained on ImageNet: name
    yours by --config.init.weights=FILE; without it the run starts from random ones.
python -m leukjax.main --config=configs/literature.py:cnmc,resnet50,subject --config.data.root=…
    The same in everything but the split: 70/15/15 by subject. The difference between the two is the
    leak.
python -m leukjax.main --config=configs/literature.py:smears,cnn
    On the embedded, synthetic cells at 48 px for 20 epochs.
"""

from ml_collections import ConfigDict

from leukjax.config import load, recipes

# Recipe -> the file that describes the model.
_MODELS = {"cnn": "cnn", "resnet50": "resnet50", "vit": "hybrid_vit"}


def get_config(argument: str = "") -> ConfigDict:
    """`argument` is ``DATASET[,cnn|resnet50|vit][,subject]``; resnet50 if no model is named."""
    dataset, chosen = recipes(argument, known=(*_MODELS, "subject"))
    config = load(f"default:{dataset}")
    models = [recipe for recipe in chosen if recipe in _MODELS] or ["resnet50"]
    config.model = load(f"{_MODELS[models[-1]]}:{dataset}").model
    config.split.protocol = "subject" if "subject" in chosen else "image"
    config.train.batch_size = 32
    config.train.epochs = 50.0 if dataset not in ("", "smears") else 20.0
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 1e-4
    config.optimizer.schedule = "constant"
    config.optimizer.warmup = "0 steps"
    config.augment.rotate = 180.0
    config.augment.zoom = 0.1
    config.augment.brightness = 0.1
    config.augment.contrast = 0.1
    config.checkpoint.metric = "accuracy"
    return config
