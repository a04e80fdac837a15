"""Every field of a leukjax experiment: default, allowed values, meaning.

The other files of this folder change a few of these. A field that is not listed here does not
exist: a misspelt override is an error. A *duration* is a text such as "5 epochs", "1000 steps" or
"50000 examples". Fields marked `free` change how fast a run is or where its files are, never its
numbers, so a run may be resumed with other values of them.
"""

from ml_collections import ConfigDict

from leukjax.config import build
from leukjax.data.datasets import config_names, list_datasets
from leukjax.data.parts import CROSSING, ONE_SOURCE
from leukjax.errors import UserError
from leukjax.fields import (
    Choice,
    Duration,
    Flag,
    Formed,
    Location,
    Number,
    Pattern,
    Text,
    Whole,
)
from leukjax.models import registry
from leukjax.training import optimizer_registry

FIELDS = {
    "seed": Whole(0, (0, 2**32 - 1), "initialisation, order of the examples, augmentation"),
    "compute_dtype": Choice(
        "auto", ("auto", "float32", "bfloat16"), "auto: bfloat16 on GPU and TPU, else float32"
    ),
    # Data
    "data.name": Choice("smears", config_names, "data set: a shipped or registered name"),
    "data.root": Location(
        "", "folder, or folder of zips, with the images; smears needs none"
    ).free(),
    "data.cache_dir": Location(
        "", "prepared records; empty: $LEUKJAX_CACHE or the user's cache"
    ).free(),
    "data.image_size": Whole(48, (8, 2048), "pixels per side, after crop and resize"),
    "data.crop": Whole(0, (0, 7000), "side of a centre crop before the resize, in pixels; 0: none"),
    "data.denoise": Choice(
        "none", ("none", "median", "gaussian", "bilateral", "nlm"), "filter before the resize"
    ),
    "data.positive": Text("", "class of precision, recall and F1; empty: the data set's own"),
    "data.subject_pattern": Pattern(
        "", "image_folder, crops: group 1 in the relative path", group=True
    ),
    # The content of the table is compared at resume, by way of split.csv.
    "data.subject_csv": Location("", "image_folder: CSV with the columns path,subject").free(),
    "data.label_pattern": Pattern(
        "", "image_folder: class, instead of the folder; crops: class of unnamed points", group=True
    ),
    "data.part_pattern": Pattern("", "image_folder: train, val or test", group=True),
    "data.part_from": Choice("", ("", "folder"), "image_folder: folder: ROOT/train/<class>/…"),
    "data.source_pattern": Pattern("", "image_folder: hospital or scanner", group=True),
    "data.table": Location("", "table: CSV, TSV or JSON lines that lists the images").free(),
    "data.columns": Text("", 'table, parquet: "path=ID, label=diagnosis" where they are not found'),
    "data.path_template": Text("", 'table: "images/{label}/{ID}.png", below data.root'),
    # Cells cut out of fields, where they are marked; data.crop cuts the centre out of every image.
    "data.annotations": Location(
        "", "crops: file or folder of annotations; empty: below data.root"
    ).free(),
    "data.crop_format": Choice(
        "auto", ("auto", "coco", "yolo", "voc", "points"), "crops: format of the annotations"
    ),
    "data.crop_margin": Number(0.0, (0, 10), "crops: share of a box added on each of its sides"),
    "data.crop_size": Whole(
        0, (0, 10_000), "crops: side of the window around a point, least side of a box, in pixels"
    ),
    "data.bad_images": Choice("error", ("error", "skip"), "skip: listed in WORKDIR/skipped.csv"),
    "data.sampling": Choice(
        "as_is", ("as_is", "class_balanced", "subject_balanced"), "order of training only"
    ),
    "data.stain": Choice(
        "none", ("none", "reinhard", "macenko"), "stain normalisation, fitted to training images"
    ),
    "data.mean": Text(
        "auto", '"r,g,b" in [0, 1] | fit (training foreground) | auto (weights\' or fit)'
    ),
    "data.std": Text("auto", "as data.mean"),
    "data.threads": Whole(8, (1, 256), "threads that prepare images and read records").free(),
    "data.workers": Whole(0, (0, 256), "processes that read records; 0: threads only").free(),
    "data.prefetch": Whole(4, (1, 1024), "batches read ahead").free(),
    "data.cache": Choice(
        "auto", ("auto", "none", "host", "device"), "where decoded images are kept; none: records"
    ).free(),
    "data.host_gb": Number(0.0, (0, 1e6), "host memory for them; 0: half of what is free").free(),
    "data.device_gb": Number(0.0, (0, 1e6), "memory of each device for them; 0: a quarter").free(),
    "data.smears_subjects": Whole(60, (6, 10**7), "smears: synthetic subjects, half per class"),
    "data.smears_cells": Whole(20, (1, 10**6), "smears: mean number of cells per subject"),
    "data.smears_seed": Whole(0, (0, 2**32 - 1), "smears: seed of the images, not of the training"),
    # Split
    "split.protocol": Choice(
        "subject",
        ("auto", "subject", "official", "given", "kfold", ONE_SOURCE, "image"),
        "auto: the published parts where there are any",
    ),
    "split.seed": Whole(0, (0, 2**32 - 1), "seed of the assignment"),
    "split.folds": Whole(5, (3, 1000), "kfold: number of folds"),
    "split.fold": Whole(0, (0, 999), "kfold: this fold tests, the next validates; or the source"),
    "split.held_out": Choice(
        "none",
        ("none", "auto", "subject", "official", "given"),
        "kfold: a test split outside all folds",
    ),
    "split.groups": Formed(
        "auto",
        "auto: by subject | blocks:N | near_duplicates; where subjects are not known",
        form="auto|near_duplicates|blocks:([2-9]|[1-9][0-9]{1,6})",
        example="auto, near_duplicates or blocks:N, N images from 2 on",
    ),
    # The parts of the file are compared at resume, by way of split.csv.
    "split.file": Location("", "given: CSV of images and parts, or split.csv of a run").free(),
    "split.crossing": Choice(
        "refuse",
        CROSSING,
        "given: what becomes of groups with images in several parts (or sources)",
    ),
    # Model
    "model.name": Choice("resnet", registry.config_names, "family of models, or a registered one"),
    "model.depth": Choice(50, (18, 34, 50, 101, 152), "resnet; bit has 50, 101 and 152"),
    "model.width": Whole(64, (1, 4096), "channels of the first stage (cnn, resnet, bit)"),
    "model.variant": Choice(
        "small",
        (
            *("small", "r26_s32", "r50_b16"),
            *("tiny", "s16", "b16", "l16", "s14", "b14", "l14", "g14"),
            *("s14_reg4", "b14_reg4", "l14_reg4", "g14_reg4", "uni", "uni2_h"),
        ),
        "hybrid_vit: the first three; vit: the others, letter of the width and side of a patch",
    ),
    "model.pool": Choice("class", ("class", "mean", "both"), "vit: tokens that the head reads"),
    "model.gelu_tanh": Flag(
        True, "hybrid_vit, vit: GELU by tanh (google-research) or exact (timm, DINOv2)"
    ),
    "model.norm": Choice(
        "batch", ("batch", "group", "frozen"), "group: bit and the published hybrids"
    ),
    "model.norm_batch": Whole(0, (0, 2**20), "images per BatchNorm sub-batch; 0: the whole batch"),
    "model.zero_init": Flag(True, "start the last norm scale of each residual block at 0"),
    "model.dropout": Number(0.0, (0, 0.99), "before the head, and in transformer blocks"),
    "model.stochastic_depth": Number(0.0, (0, 0.99), "rate of the last block; the first has 0"),
    "model.fused": Choice(
        "auto",
        ("auto", "on", "off"),
        "normalisation fused with what surrounds it, in bfloat16; auto: where measured as faster",
    ),
    # Initial weights
    "init.weights": Location(
        "", "empty: random | a file | a run | hf://OWNER/NAME[@REVISION][/FILE]"
    ),
    "init.sha256": Text("", "checksum that the file must have; empty: any"),
    "init.head": Choice("auto", ("auto", "new"), "auto: kept for the same classes"),
    "init.allow": Pattern("", "variables and tensors that may be missing or unused"),
    # Augmentation
    "augment.flip": Flag(True, "left-right and up-down, each with probability 1/2"),
    "augment.quarter_turns": Flag(True, "0, 90, 180 or 270 degrees"),
    "augment.rotate": Number(0.0, (0, 180), "degrees, uniform in +-rotate; 180: any angle"),
    "augment.zoom": Number(0.0, (0, 4), "scale log-uniform in [1 / (1 + zoom), 1 + zoom]"),
    "augment.brightness": Number(0.0, (0, 1), "factor uniform in 1 +- brightness"),
    "augment.contrast": Number(0.0, (0, 1), "factor uniform in 1 +- contrast"),
    # Corruptions of leukjax.robustness, each to a degree uniform in [0, this]; 0: off.
    "augment.stain": Number(0.0, (0, 2), "shift of azure and eosin in optical density"),
    "augment.illumination": Number(
        0.0, (0, 1), "brighter at one end of the image, darker at the other"
    ),
    "augment.blur": Number(0.0, (0, 30), "radius of defocus, in pixels of an image of 224"),
    "augment.noise": Number(0.0, (0, 1), "standard deviation of camera noise; white is 1"),
    "augment.debris": Number(0.0, (0, 100), "number of purple specks"),
    # Pairs of a batch are mixed, and their labels; with both, one of the two per image.
    "augment.mixup": Number(0.0, (0, 100), "share of an image from Beta(this, this); 0: off"),
    "augment.cutmix": Number(0.0, (0, 100), "a box of another image, as augment.mixup; 0: off"),
    # Loss
    "loss.name": Choice(
        "cross_entropy",
        ("cross_entropy", "focal", "logit_adjusted", "ldam", "custom"),
        "custom: given in Python",
    ),
    "loss.label_smoothing": Number(0.0, (0, 0.99), "share of the label spread over all classes"),
    "loss.class_weights": Text("none", 'none | balanced | "w0,w1,...", one weight per class'),
    "loss.focal_gamma": Number(2.0, (0, 100), "focal: exponent; 0 is cross-entropy"),
    "loss.tau": Number(1.0, (0, 10), "logit_adjusted: factor of the log class frequency"),
    "loss.margin": Number(0.5, (0, 100), "ldam: margin of the rarest class, in logits"),
    "loss.deferred": Duration("0 epochs", "class weights are used from here on, 1 before"),
    # Optimizer
    "optimizer.name": Choice(
        "adam", optimizer_registry.names, "adam, adamw, sgd, one of optax, or a registered one"
    ),
    "optimizer.options": Text("", 'of optax\'s others: "b1=0.95, nesterov=True", Python literals'),
    "optimizer.learning_rate": Number(1e-3, (0, 1e3), "peak learning rate"),
    "optimizer.b1": Number(0.9, (0, 0.9999999), "adam, adamw"),
    "optimizer.b2": Number(0.999, (0, 0.9999999), "adam, adamw"),
    "optimizer.eps": Number(1e-8, (0, 1), "adam, adamw"),
    "optimizer.momentum": Number(0.9, (0, 0.9999999), "sgd"),
    "optimizer.weight_decay": Number(
        0.0, (0, 1e3), "adam, sgd: L2 in the gradient; adamw: decoupled"
    ),
    "optimizer.decay_mask": Pattern("kernel$", "paths of the parameters that decay"),
    "optimizer.clip_norm": Number(0.0, (0, 1e9), "global norm of the gradient; 0: no clipping"),
    "optimizer.schedule": Choice("constant", ("constant", "cosine", "step"), "after the warm-up"),
    "optimizer.warmup": Duration("0 steps", "linear warm-up from 0"),
    "optimizer.final": Number(0.0, (0, 1), "cosine: share of the learning rate at the end"),
    "optimizer.step_every": Duration("10 epochs", "step: duration between two drops"),
    "optimizer.step_factor": Number(0.1, (0, 1), "step: factor of each drop"),
    "optimizer.freeze": Pattern("", "paths of parameters that are not trained"),
    "optimizer.freeze_stages": Whole(
        0, (-1, 1000), "first N stages are not trained; -1: all but the head"
    ),
    "optimizer.layer_decay": Number(
        1.0, (0.01, 1), "factor of the rate per stage away from the head"
    ),
    "optimizer.head_rate": Number(1.0, (0.001, 1000), "factor of the head's learning rate"),
    "optimizer.lora_rank": Whole(
        0, (0, 1024), "transformers: train low-rank updates and the head only; 0: everything"
    ),
    "optimizer.lora_alpha": Number(
        0.0, (0, 1e6), "the updates are multiplied by alpha / rank; 0: twice the rank"
    ),
    # Training
    "train.epochs": Number(8.0, (0, 1e9), "length of the run; a batch never crosses an epoch"),
    "train.batch_size": Whole(32, (1, 2**24), "global, over all devices and processes"),
    "train.accumulate": Whole(1, (1, 2**16), "micro-batches per step"),
    "train.steps_per_call": Whole(
        1, (1, 10_000), "steps per dispatch; above 1: device images"
    ).free(),
    "train.remat": Flag(False, "recompute inside each block: less memory, more time"),
    "train.ema_decay": Number(0.0, (0, 0.9999999), "moving average of parameters and statistics"),
    "train.swa": Duration("0 epochs", "mean of all parameters from here on is evaluated; 0: off"),
    "train.eval_every": Duration("1 epochs", "duration between two validations"),
    "train.eval_batch_size": Whole(0, (0, 2**24), "global; 0: train.batch_size"),
    "train.trackers": Formed(
        "tensorboard",
        "tensorboard | wandb | mlflow, or several with commas; metrics.jsonl is always written",
        form="(tensorboard|wandb|mlflow)(,(tensorboard|wandb|mlflow))*",
        example="tensorboard, wandb, mlflow, or several of them with commas",
    ).free(),
    # Checkpoints
    "checkpoint.every": Duration("1 epochs", "between two checkpoints, besides each validation"),
    "checkpoint.keep_latest": Whole(
        2, (2, 10_000), "the newest counts once its checksums are there"
    ).free(),
    "checkpoint.metric": Choice(
        "balanced_accuracy",
        ("loss", "accuracy", "balanced_accuracy", "f1", "weighted_f1", "macro_f1", "auroc"),
        "validation score that chooses the best checkpoint; loss: the lowest",
    ),
    # Devices
    "mesh.data": Whole(-1, (-1, 2**20), "devices along the batch; -1: all that are left").free(),
    "mesh.model": Whole(1, (1, 2**20), "devices along the widest axis of the parameters").free(),
    "mesh.fsdp": Flag(False, "shard parameters and optimizer state over the data axis").free(),
    "profile.first": Whole(
        0, (0, 2**40), "first step of a trace for TensorBoard or Perfetto"
    ).free(),
    "profile.steps": Whole(0, (0, 10_000), "number of steps to trace; 0: none").free(),
    "runtime.compilation_cache": Location(
        "auto", "auto (the user's cache folder) | none | a folder"
    ).free(),
    "runtime.timeout": Whole(300, (1, 10**6), "seconds that a process waits for its peers").free(),
}


# Where the images are smaller than the 224 px of the literature.
_IMAGE_SIZES = {"bloodmnist": 28, "hehr_aml": 144}
# Public data sets that come with parts.
_WITH_PARTS = ("bloodmnist", "raabin", "wbcbench")


def get_config(dataset: str = "") -> ConfigDict:
    """All fields, for one data set: "" or smears (embedded), or any other registered name."""
    config = build(FIELDS)
    config.data.name = dataset or "smears"
    if config.data.name not in list_datasets():
        raise UserError(
            f"config argument {dataset!r}: no such data set; one of {', '.join(list_datasets())}"
        )
    if config.data.name != "smears":
        _published_protocol(config)
    if dataset in ("cnmc", "table", "npz", "parquet", "crops", *_WITH_PARTS):
        config.split.protocol = "auto"  # the published parts where they are there
    config.data.image_size = _IMAGE_SIZES.get(dataset, config.data.image_size)
    if dataset in ("cnmc", "all_idb2"):
        config.data.positive = "all"
    return config


def _published_protocol(config: ConfigDict) -> None:
    """What the literature states: 224 px, Adam, batch 32, 50 epochs; flips, turns, zoom, light.

    It states no learning rate: 1e-4 with a short warm-up and a cosine is ours.
    """
    config.data.image_size = 224
    config.train.epochs = 50.0
    config.train.batch_size = 32
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 1e-4
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = "1 epochs"
    config.augment.rotate = 180.0
    config.augment.zoom = 0.1
    config.augment.brightness = 0.1
    config.augment.contrast = 0.1
