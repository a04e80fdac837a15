"""Every field of a leukjax experiment, with its default and what it may hold.

The other files of this folder change a few of these. A field that is not here does not exist: a
misspelt override is an error. A *duration* is a text such as "5 epochs", "1000 steps" or
"50000 examples".
"""

from ml_collections import ConfigDict

from leukjax.errors import UserError


def get_config(dataset: str = "") -> ConfigDict:
    """All fields, for one data set: "" or smears (embedded) | cnmc | all_idb2 | image_folder."""
    config = _smears()
    if dataset == "cnmc":
        _published_protocol(config)
        config.split.protocol = "auto"  # official where the preliminary phase is there
        config.data.positive = "all"
    elif dataset == "all_idb2":
        _published_protocol(config)
        config.data.positive = "all"
    elif dataset == "image_folder":
        _published_protocol(config)
    elif dataset not in ("", "smears"):
        raise UserError(
            f"config argument {dataset!r}: no such data set; "
            "one of smears, cnmc, all_idb2, image_folder"
        )
    if dataset:
        config.data.name = dataset
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


def _smears() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0  # initialisation, order of the examples, augmentation, dropout
    config.compute_dtype = "auto"  # auto | float32 | bfloat16; auto: bfloat16 on GPU and TPU

    config.data = data = ConfigDict()
    data.name = "smears"  # smears | cnmc | all_idb2 | image_folder
    data.root = ""  # folder (or folder of zips) with the images; smears needs none
    data.cache_dir = ""  # prepared records; "" = $LEUKJAX_CACHE, else the user's cache folder
    data.image_size = 48  # pixels a side, after crop and resize
    data.crop = 0  # centre crop before the resize, pixels of the source; 0 = none
    data.denoise = "none"  # none | median | gaussian | bilateral | nlm, before the resize
    data.positive = ""  # class that precision, recall, specificity and F1 speak of; "" = data set's
    data.subject_pattern = ""  # image_folder: regular expression over the relative path, group 1
    data.subject_csv = ""  # image_folder: CSV with the columns path,subject
    data.bad_images = "error"  # error | skip (listed in WORKDIR/skipped.csv)
    data.sampling = "as_is"  # as_is | class_balanced | subject_balanced; training order only
    # auto (those of init.weights where given, else fit) | fit (foreground of the training groups)
    data.mean = "auto"  # | "r,g,b" in [0, 1]
    data.std = "auto"  # likewise
    data.threads = 8  # threads that prepare images and read records
    data.workers = 0  # processes that read records; 0 = threads only
    data.prefetch = 4  # batches read ahead
    data.cache = "auto"  # auto | none (records) | host | device: where decoded pixels lie
    data.host_gb = 0.0  # auto: host memory that they may take; 0 = half of what is available
    data.device_gb = 0.0  # memory of each device that they may take; 0 = a quarter of it
    data.smears_subjects = 60  # smears: subjects drawn, half of each class
    data.smears_cells = 20  # smears: mean number of cells a subject
    data.smears_seed = 0  # smears: seed of the drawing, not of the training

    config.split = split = ConfigDict()
    split.protocol = "subject"  # auto | subject | official | kfold | image
    split.seed = 0
    split.folds = 5  # kfold
    split.fold = 0  # kfold: this fold tests, the next validates
    # kfold: none | auto | subject | official: the protocol whose test part stays out of all folds
    split.held_out = "none"

    config.model = model = ConfigDict()
    model.name = "resnet"  # cnn | resnet | hybrid_vit | bit
    model.depth = 50  # resnet: 18 | 34 | 50 | 101 | 152; bit: 50 | 101 | 152
    model.width = 64  # channels of the first stage (cnn, resnet, bit)
    model.variant = "small"  # hybrid_vit: small | r26_s32 | r50_b16
    model.gelu_tanh = True  # hybrid_vit: GELU by tanh, as google-research; False: exact, as timm
    model.norm = "batch"  # batch | group | frozen (bit and the hybrids of the literature: group)
    model.norm_batch = 0  # images a BatchNorm sub-batch; 0 = the whole batch
    model.zero_init = True  # last norm scale of each residual block starts at 0
    model.dropout = 0.0  # before the head (and in the transformer's blocks)
    model.stochastic_depth = 0.0  # rate of the last block, growing linearly from the first

    config.init = init = ConfigDict()
    init.weights = ""  # "" = random | a file | a run | hf://OWNER/NAME[@REVISION][/FILE]
    init.sha256 = ""  # checksum that the file must have; "" = any
    init.head = "auto"  # auto (kept where it is for the same classes) | new
    init.allow = ""  # regular expression: variables and tensors that may be left out

    config.augment = augment = ConfigDict()
    augment.flip = True  # left-right and up-down, each with probability 1/2
    augment.quarter_turns = True  # 0, 90, 180 or 270 degrees
    augment.rotate = 0.0  # degrees: uniform in +-rotate; 180 = any angle
    augment.zoom = 0.0  # scale log-uniform in [1 / (1 + zoom), 1 + zoom]
    augment.brightness = 0.0  # factor uniform in 1 +- brightness
    augment.contrast = 0.0  # factor uniform in 1 +- contrast, about the foreground's mean
    # Distortions of leukjax.robustness, each to a degree uniform in [0, this]; 0 = off.
    augment.stain = 0.0  # shift of azure and eosin in optical density (logarithm of their amounts)
    augment.illumination = 0.0  # brighter by this at one end of the image, darker at the other
    augment.blur = 0.0  # radius of a lens out of focus, in pixels of an image of 224
    augment.noise = 0.0  # standard deviation of the camera's noise; white = 1
    augment.debris = 0.0  # number of purple specks

    config.loss = loss = ConfigDict()
    loss.name = "cross_entropy"  # cross_entropy | focal
    loss.label_smoothing = 0.0
    loss.class_weights = "none"  # none | balanced | "w0,w1,…", one weight a class
    loss.focal_gamma = 2.0

    config.optimizer = optimizer = ConfigDict()
    optimizer.name = "adam"  # adam | adamw | sgd
    optimizer.learning_rate = 1e-3
    optimizer.b1 = 0.9
    optimizer.b2 = 0.999
    optimizer.eps = 1e-8
    optimizer.momentum = 0.9  # sgd
    optimizer.weight_decay = 0.0  # adam, sgd: added to the gradient (L2); adamw: decoupled
    optimizer.decay_mask = "kernel$"  # parameters whose path matches this expression decay
    optimizer.clip_norm = 0.0  # global norm of the gradient; 0 = no clipping
    optimizer.schedule = "constant"  # constant | cosine | step
    optimizer.warmup = "0 steps"  # duration of a linear warm-up from 0
    optimizer.final = 0.0  # cosine: share of the learning rate at the end
    optimizer.step_every = "10 epochs"  # step: duration between two drops
    optimizer.step_factor = 0.1  # step: factor of each drop
    optimizer.freeze = ""  # regular expression over paths of parameters that stay as they are
    optimizer.freeze_stages = 0  # so many stages from the images stay; -1 = all but the head
    optimizer.layer_decay = 1.0  # factor of the learning rate for each stage away from the head
    optimizer.head_rate = 1.0  # factor of the head's learning rate

    config.train = train = ConfigDict()
    train.epochs = 8.0  # length of the run; the rest of an epoch is never crossed by a batch
    train.batch_size = 32  # global, over all devices and processes
    train.accumulate = 1  # micro-batches a step
    train.steps_per_call = 1  # steps that one call of the compiled step does; needs device pixels
    train.remat = False  # recompute inside each block in the backward pass: less memory, more time
    # Moving average of parameters and statistics; 0 = none. At step t, counted from 0, the decay is
    # min(ema_decay, (1 + t) / (10 + t)), so that the random start is soon forgotten.
    train.ema_decay = 0.0
    train.eval_every = "1 epochs"  # duration between two validations
    train.eval_batch_size = 0  # global; 0 = batch_size

    config.checkpoint = checkpoint = ConfigDict()
    checkpoint.every = "1 epochs"  # duration between two checkpoints, beside each validation
    checkpoint.keep_latest = 2  # at least 2: the newest counts only once its checksums stand
    checkpoint.metric = "balanced_accuracy"  # validation score that chooses the best (loss: lowest)

    config.mesh = mesh = ConfigDict()
    mesh.data = -1  # devices along the batch; -1 = all that are left
    mesh.model = 1  # devices along the parameters' widest axis
    mesh.fsdp = False  # shard parameters and optimizer slots over the data axis as well

    config.profile = profile = ConfigDict()
    profile.first = 0  # first step of a trace for TensorBoard or Perfetto
    profile.steps = 0  # number of steps to trace; 0 = none

    config.runtime = runtime = ConfigDict()
    runtime.compilation_cache = "auto"  # auto (the user's cache folder) | none | a folder
    runtime.timeout = 300  # seconds that a process waits for its peers
    return config
