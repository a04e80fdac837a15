"""What a config contributes to the step: options that are compiled in, and values in the state."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from leukjax import config as configs
from leukjax import distributed
from leukjax.data import records as data_records
from leukjax.data.image_stats import foreground
from leukjax.errors import UserError
from leukjax.fields import parse_duration
from leukjax.images import stain as stains
from leukjax.images.augment import Augment
from leukjax.images.normalize import Normalization, foreground_statistics
from leukjax.models import hybrid_vit, vit
from leukjax.training import state as states
from leukjax.training.fine_tuning import FineTuning
from leukjax.training.losses import WITH_COUNTS, LossOptions
from leukjax.training.optimizers import Schedule, from_config
from leukjax.training.step import StepOptions
from leukjax.weights.lora import Lora

_STAINED_AT_ONCE = 32  # images whose stains are measured in one call: at 224 px, 150 MB
_FEWEST_TOKENS = 4  # per side of an image: with fewer, attention has little to relate
# Model -> pixels per side of a token of a variant, and the variant with the smallest tokens.
_TRANSFORMERS = {"hybrid_vit": (hybrid_vit.stride, "small"), "vit": (vit.stride, "tiny")}


def augment_options(config: ConfigDict, background: str) -> Augment:
    """The section ``augment`` of a config, for images with a "black" or "bright" background."""
    return Augment(
        **config.augment.to_dict(), background="black" if background == "black" else "edge"
    )


def step_options(
    config: ConfigDict, background: str, python: Mapping[str, Any] | None = None
) -> StepOptions:
    """What is compiled into the step.

    Args:
      config: of the run.
      background: of the images, "black" or "bright".
      python: fields of `StepOptions` that were given in Python.
    """
    options, loss = config.optimizer, config.loss
    fields: dict[str, Any] = {
        "augment": augment_options(config, background),
        "loss": LossOptions(
            loss.name, loss.label_smoothing, loss.focal_gamma, loss.tau, loss.margin
        ),
        "schedule": Schedule(options.schedule, options.final, options.step_factor),
        "accumulate": config.train.accumulate,
        "ema_decay": config.train.ema_decay,
        "fine_tuning": FineTuning.of(options),
        "deferred": _is_on(config, "loss.deferred"),
        "swa": _is_on(config, "train.swa"),
        "stain": stain_options(config, background),
        "recipe": _needs_recipe(config),
        "lora": Lora.of(options),
        **(python or {}),
    }
    if options.lora_rank and fields["fine_tuning"].freezes:
        raise UserError(
            f"--config.optimizer.lora_rank={options.lora_rank}: freezes all but its updates and "
            "the head; set optimizer.freeze='' and optimizer.freeze_stages=0"
        )
    if "optimizer" not in fields:
        fields["optimizer"] = from_config(options)
    if fields["swa"] and fields["optimizer"].evaluation_params is not None:
        raise UserError(
            f"--config.train.swa={config.train.swa}: {options.name} has an average of its own, "
            "which is evaluated; set train.swa='0 epochs'"
        )
    return StepOptions(**fields)


def _is_on(config: ConfigDict, field: str) -> bool:
    """Whether a duration that switches something on is above 0."""
    section, name = field.split(".")
    return parse_duration(config[section][name], field)[0] > 0


def _needs_recipe(config: ConfigDict) -> bool:
    """Whether the settings are `RecipeSettings`."""
    durations = any(_is_on(config, field) for field in ("loss.deferred", "train.swa"))
    return durations or config.loss.name in WITH_COUNTS or config.data.stain != "none"


def stain_options(config: ConfigDict, background: str) -> stains.Stain | None:
    """The stain normalisation of a config, for images with this background; None: none."""
    if config.data.stain == "none":
        return None
    return stains.Stain(config.data.stain, background == "black")


def fit_stain(
    config: ConfigDict, records: data_records.Records, rows: np.ndarray
) -> Normalization | None:
    """The stain normalisation fitted to at most `stain.SAMPLE` evenly spaced training images.

    Returns:
      It, with mean 0 and standard deviation 1; None without one.
    """
    stain = stain_options(config, records.background)
    if stain is None:
        return None

    def target() -> list[list[float]]:
        chosen = rows[np.unique(np.linspace(0, len(rows) - 1, stains.SAMPLE).astype(int))]
        batches = np.array_split(chosen, -(-len(chosen) // _STAINED_AT_ONCE))
        return stains.fit(map(records.images, batches), stain).tolist()

    fitted = jnp.asarray(distributed.from_first(target), jnp.float32)
    return Normalization(jnp.zeros(3), jnp.ones(3), fitted, stain)


def check_given(config: ConfigDict, num_classes: int) -> None:
    """Checks the numbers that a config gives as text, before there are data.

    Raises:
      UserError: naming the field.
    """
    for name in ("mean", "std"):
        if config.data[name] not in ("auto", "fit"):
            _three(config.data[name], f"data.{name}")
    if config.loss.class_weights != "balanced":
        names = tuple(f"class {label}" for label in range(num_classes))
        _class_weights(config.loss.class_weights, np.zeros(0, int), names)


def make_settings(
    config: ConfigDict,
    records: data_records.Records,
    rows: np.ndarray,
    steps_per_epoch: int,
    trained_with: tuple[list[float], list[float]] | None = None,
) -> states.Settings:
    """The values of a config and its training split that enter the step.

    `trained_with` are mean and standard deviation of the weights that the run starts from.
    """
    stain = fit_stain(config, records, rows)
    mean, std = distributed.from_first(
        lambda: _statistics(config, records, rows, trained_with, stain)
    )
    labels = records.manifest.label[rows]
    weights = _class_weights(config.loss.class_weights, labels, records.classes)
    counts = np.bincount(labels, minlength=len(records.classes))
    target = None if stain is None else stain.target
    return _settings(config, mean, std, weights, counts, steps_per_epoch, target)


def settings_without_data(
    config: ConfigDict,
    num_classes: int,
    steps_per_epoch: int | None,
    trained_with: tuple[list[float], list[float]] | None = None,
) -> states.Settings:
    """The same where there are no data to fit anything to.

    Raises:
      ValueError: something would have to be fitted, or a duration in epochs has no length.
    """
    statistics = [
        trained_with[index] if trained_with and config.data[name] == "auto" else config.data[name]
        for index, name in enumerate(("mean", "std"))
    ]
    for name, value in zip(("mean", "std"), statistics, strict=True):
        if value in ("auto", "fit"):
            raise ValueError(
                f"{name} is fitted to training images: give training images, or {name} as "
                "three numbers"
            )
    if config.loss.class_weights == "balanced":
        raise ValueError("class_weights='balanced' needs training images")
    if config.data.stain != "none":
        raise ValueError("data.stain is fitted to training images, which are missing")
    if config.loss.name in WITH_COUNTS:
        raise ValueError(f"loss={config.loss.name!r} needs training images")
    mean, std = (
        _three(value, f"data.{name}") if isinstance(value, str) else value
        for name, value in zip(("mean", "std"), statistics, strict=True)
    )
    weights = _class_weights(config.loss.class_weights, np.zeros(0, int), ("",) * num_classes)
    if steps_per_epoch is None:
        options = config.optimizer
        if options.schedule != "constant" or not options.warmup.startswith("0 "):
            raise ValueError("the schedule of the learning rate needs steps_per_epoch")
        steps_per_epoch = 1
    return _settings(config, mean, std, weights, np.zeros(num_classes), steps_per_epoch)


def _settings(
    config: ConfigDict,
    mean: Any,
    std: Any,
    class_weights: np.ndarray,
    class_counts: np.ndarray,
    steps_per_epoch: int,
    stain_target: Any = None,
) -> states.Settings:
    def steps(field: str) -> float:
        section, name = field.split(".")
        return float(
            configs.steps(
                config[section][name],
                steps_per_epoch=steps_per_epoch,
                batch_size=config.train.batch_size,
                field=field,
            )
        )

    fields: dict[str, Any] = {
        "seed": jnp.uint32(config.seed),
        "mean": jnp.asarray(mean, jnp.float32),
        "std": jnp.asarray(std, jnp.float32),
        "class_weights": jnp.asarray(class_weights, jnp.float32),
        "learning_rate": jnp.float32(config.optimizer.learning_rate),
        "total_steps": jnp.float32(max(1, round(config.train.epochs * steps_per_epoch))),
        "warmup_steps": jnp.float32(steps("optimizer.warmup")),
        "step_every": jnp.float32(max(1.0, steps("optimizer.step_every"))),
    }
    if not _needs_recipe(config):
        return states.Settings(**fields)
    return states.RecipeSettings(
        **fields,
        class_counts=jnp.asarray(class_counts, jnp.float32),
        deferred_steps=jnp.float32(steps("loss.deferred")),
        swa_start=jnp.float32(steps("train.swa")),
        stain_target=jnp.zeros((2, 4)) if stain_target is None else jnp.asarray(stain_target),
    )


def warn(config: ConfigDict, settings: states.Settings) -> None:
    """Logs a warning for each value that is allowed but does not fit the others."""
    total, warmup = int(settings.total_steps), int(settings.warmup_steps)
    options = config.optimizer
    if warmup >= total:
        logging.warning(
            "optimizer.warmup=%s is not shorter than the training (%d of %d steps), whose learning "
            "rate only rises; set --config.optimizer.warmup='%g epochs' or a larger train.epochs",
            options.warmup,
            warmup,
            total,
            config.train.epochs / 10,
        )
    if options.schedule == "step" and settings.step_every >= total:
        logging.warning(
            "optimizer.step_every=%s is not shorter than the training (%d of %d steps), whose "
            "learning rate never drops; set --config.optimizer.step_every='%g epochs' or a larger "
            "train.epochs",
            options.step_every,
            int(settings.step_every),
            total,
            config.train.epochs / 3,
        )
    if isinstance(settings, states.RecipeSettings):
        _warn_of_late_start(config, "train.swa", settings.swa_start, total)
        _warn_of_late_start(config, "loss.deferred", settings.deferred_steps, total)
    balanced = config.loss.class_weights != "none" or config.data.sampling == "class_balanced"
    if config.loss.name == "logit_adjusted" and balanced:
        logging.warning(
            "loss.name=logit_adjusted corrects for the class frequencies, and so do "
            "loss.class_weights=%s and data.sampling=%s; keep one of them",
            config.loss.class_weights,
            config.data.sampling,
        )
    if config.model.name in _TRANSFORMERS:
        _warn_of_few_tokens(config.model, config.data.image_size)


def _warn_of_late_start(config: ConfigDict, field: str, start: Any, total: int) -> None:
    if start < total:
        return
    section, name = field.split(".")
    logging.warning(
        "%s=%s is not before the end of the training (%d of %d steps) and changes nothing; set "
        "--config.%s='%g epochs' or a larger train.epochs",
        *(field, config[section][name], int(start), total, field, config.train.epochs * 0.75),
    )


def _warn_of_few_tokens(model: ConfigDict, size: int) -> None:
    stride, smallest = _TRANSFORMERS[model.name]
    side = -(-size // stride(model.variant))
    if side >= _FEWEST_TOKENS:
        return
    fixes = [f"set --config.data.image_size={_FEWEST_TOKENS * stride(model.variant)} or more"]
    if stride(smallest) < stride(model.variant):
        fixes.insert(0, f"use --config.model.variant={smallest}")
    logging.warning(
        "model.variant=%s leaves %d x %d tokens of an image of %d px; %s",
        model.variant,
        side,
        side,
        size,
        " or ".join(fixes),
    )


def _statistics(
    config: ConfigDict,
    records: data_records.Records,
    rows: np.ndarray,
    trained_with: tuple[list[float], list[float]] | None,
    stain: Normalization | None,
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each colour: given, of the weights, or fitted to training."""
    values: dict[str, np.ndarray] = {}
    for index, name in enumerate(("mean", "std")):
        text = config.data[name]
        if text == "auto" and trained_with is not None:
            values[name] = np.array(trained_with[index])
        elif text not in ("auto", "fit"):
            values[name] = _three(text, f"data.{name}")
    if len(values) < 2:
        at_once = 256 if stain is None else _STAINED_AT_ONCE
        chunks = np.array_split(rows, -(-len(rows) // at_once))
        read = records.images if stain is None else _stained(records, stain)
        images = (image for chunk in chunks for image in read(chunk))
        rule = functools.partial(foreground, background=records.background)
        mean, std = foreground_statistics(images, rule)
        values = {"mean": mean, "std": std} | values
    mean, std = values["mean"], values["std"]
    logging.info("mean %s, standard deviation %s", np.round(mean, 4), np.round(std, 4))
    return [float(value) for value in mean], [float(value) for value in std]


def _stained(
    records: data_records.Records, stain: Normalization
) -> Callable[[np.ndarray], np.ndarray]:
    """Rows -> their images after stain normalisation, uint8."""
    colours = jax.jit(lambda images: jnp.rint(255 * stain.colours(images)).astype(jnp.uint8))
    return lambda rows: np.asarray(colours(records.images(rows)))


def _three(text: str, field: str) -> np.ndarray:
    try:
        values = np.array([float(part) for part in text.split(",")])
    except ValueError:
        values = np.zeros(0)
    if len(values) != 3 or not np.all((values >= 0) & (values <= 1)):
        raise UserError(
            f"--config.{field}={text}: must be auto, fit, or three numbers in [0, 1]: r,g,b"
        )
    if field == "data.std" and not np.all(values > 0):
        raise UserError(f"--config.{field}={text}: must be above 0")
    return values


def _class_weights(text: str, labels: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    """Weights with mean 1 over the classes; "balanced" is the inverse of the class counts.

    There a class without images has the weight 0, and the mean is over the others.
    """
    if text == "none":
        return np.ones(len(classes))
    if text == "balanced":
        counts = np.bincount(labels, minlength=len(classes))
        weights = np.where(counts > 0, 1.0 / np.maximum(counts, 1), 0)
        return weights / weights[counts > 0].mean()
    else:
        try:
            weights = np.array([float(part) for part in text.split(",")])
        except ValueError:
            weights = np.zeros(0)
        if len(weights) != len(classes) or not np.all(weights > 0):
            raise UserError(
                f"--config.loss.class_weights={text}: must be none, balanced, or "
                f"{len(classes)} numbers above 0, for {', '.join(classes)}"
            )
    return weights / weights.mean()
