"""Every rule about a config: where it is found, what a field may hold, what differs.

A config file is Python with ``get_config(argument) -> ConfigDict``; ``NAME.py:ARGUMENT`` passes the
argument. Every field stands in ``configs/default.py``; nothing else in leukjax reads a field with a
fallback.
"""

import difflib
import importlib.util
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from leukjax.errors import UserError

_PACKAGE = Path(__file__).resolve().parent

# Fields that change how fast a run is or where its files lie, never its numbers: a run may be
# resumed with other values of these.
FREE_TO_CHANGE = (
    "data.cache",
    "data.cache_dir",
    "data.device_gb",
    "data.host_gb",
    "data.prefetch",
    "data.root",
    "data.subject_csv",  # its content is compared, through split.csv
    "data.threads",
    "data.workers",
    "checkpoint.keep_latest",
    "mesh.",
    "profile.",
    "runtime.",
    "train.steps_per_call",
)

# Fields that say where files of this machine are or how this machine works. Of a finished run,
# which may come from anyone, they are never taken: see `of_finished_run`.
_OF_MACHINE = (*FREE_TO_CHANGE, "init.")

# Those of them that the user may give for a finished run.
_GIVEN_AGAIN = tuple(field for field in FREE_TO_CHANGE if field.startswith(("data.", "runtime.")))

# Images of drawn cells that a finished run may ask for: their list alone takes a gigabyte.
MAX_DRAWN = 2_000_000

CHOICES = {
    "compute_dtype": ("auto", "float32", "bfloat16"),
    "data.name": ("smears", "cnmc", "all_idb2", "image_folder"),
    "data.denoise": ("none", "median", "gaussian", "bilateral", "nlm"),
    "data.bad_images": ("error", "skip"),
    "data.cache": ("auto", "none", "host", "device"),
    "data.sampling": ("as_is", "class_balanced", "subject_balanced"),
    "split.protocol": ("auto", "subject", "official", "kfold", "image"),
    "split.held_out": ("none", "auto", "subject", "official"),
    "model.name": ("cnn", "resnet", "hybrid_vit", "bit"),
    "model.depth": (18, 34, 50, 101, 152),
    "model.variant": ("small", "r26_s32", "r50_b16"),
    "model.norm": ("batch", "group", "frozen"),
    "init.head": ("auto", "new"),
    "loss.name": ("cross_entropy", "focal"),
    "optimizer.name": ("adam", "adamw", "sgd"),
    "optimizer.schedule": ("constant", "cosine", "step"),
    "checkpoint.metric": (
        "loss",
        "accuracy",
        "balanced_accuracy",
        "f1",
        "weighted_f1",
        "macro_f1",
        "auroc",
    ),
}

# Fields that name a file or folder. Of addresses only init.weights takes one, hf://.
PATHS = (
    "data.root",
    "data.cache_dir",
    "data.subject_csv",
    "init.weights",
    "runtime.compilation_cache",
)

# Field -> (lowest, highest), both allowed.
BOUNDS: dict[str, tuple[float, float]] = {
    "seed": (0, 2**32 - 1),
    "data.image_size": (8, 2048),
    "data.crop": (0, 7_000),
    "data.threads": (1, 256),
    "data.workers": (0, 256),
    "data.prefetch": (1, 1024),
    "data.host_gb": (0, 1e6),
    "data.device_gb": (0, 1e6),
    "data.smears_subjects": (6, 10**7),
    "data.smears_cells": (1, 10**6),
    "data.smears_seed": (0, 2**32 - 1),
    "split.seed": (0, 2**32 - 1),
    "split.folds": (3, 1000),
    "split.fold": (0, 999),
    "model.width": (1, 4096),
    "model.norm_batch": (0, 2**20),
    "model.dropout": (0, 0.99),
    "model.stochastic_depth": (0, 0.99),
    "augment.rotate": (0, 180),
    "augment.zoom": (0, 4),
    "augment.brightness": (0, 1),
    "augment.contrast": (0, 1),
    "augment.stain": (0, 2),
    "augment.illumination": (0, 1),
    "augment.blur": (0, 30),
    "augment.noise": (0, 1),
    "augment.debris": (0, 100),
    "loss.label_smoothing": (0, 0.99),
    "loss.focal_gamma": (0, 100),
    "optimizer.learning_rate": (0, 1e3),
    "optimizer.b1": (0, 0.9999999),
    "optimizer.b2": (0, 0.9999999),
    "optimizer.eps": (0, 1),
    "optimizer.momentum": (0, 0.9999999),
    "optimizer.weight_decay": (0, 1e3),
    "optimizer.clip_norm": (0, 1e9),
    "optimizer.final": (0, 1),
    "optimizer.step_factor": (0, 1),
    "optimizer.freeze_stages": (-1, 1000),
    "optimizer.layer_decay": (0.01, 1),
    "optimizer.head_rate": (0.001, 1000),
    "train.epochs": (0, 1e9),
    "train.batch_size": (1, 2**24),
    "train.accumulate": (1, 2**16),
    "train.ema_decay": (0, 0.9999999),
    "train.steps_per_call": (1, 10_000),
    "train.eval_batch_size": (0, 2**24),
    "checkpoint.keep_latest": (2, 10_000),
    "mesh.data": (-1, 2**20),
    "mesh.model": (1, 2**20),
    "profile.first": (0, 2**40),
    "profile.steps": (0, 10_000),
    "runtime.timeout": (1, 10**6),
}

_MAX_TEXT = 10_000  # characters of one field of a run's config.json

_DURATIONS = ("optimizer.warmup", "optimizer.step_every", "train.eval_every", "checkpoint.every")
_EXPRESSIONS = ("data.subject_pattern", "init.allow", "optimizer.decay_mask", "optimizer.freeze")


def shipped_folder() -> Path:
    """The folder of the configs that come with leukjax: inside the wheel, or beside the package."""
    inside = _PACKAGE / "configs"
    return inside if inside.is_dir() else _PACKAGE.parent / "configs"


def load(name: str, overrides: Mapping[str, Any] | Iterable[tuple[str, Any]] = ()) -> ConfigDict:
    """Load a config, change fields of it, and check every field.

    Args:
      name: ``PATH.py[:ARGUMENT]``, or the bare name of a shipped config, as in ``resnet50:cnmc``.
      overrides: field -> value, as in ``{"data.image_size": 96}``. A text is read as the type that
        the field has, so that ``"96"`` does as well.

    Raises:
      UserError: no such file, an unknown field (the nearest one is named), or a value out of
        bounds.
    """
    path, _, argument = name.partition(":")
    config = _get_config(_find(path), argument)
    _check_names_and_types(flatten(config))  # before the changes: what is wrong is the file's
    pairs = overrides.items() if isinstance(overrides, Mapping) else overrides
    for field, value in pairs:
        set_field(config, field, value)
    check(config)
    return config


def require_local_path(text: str, what: str) -> None:
    """Makes sure that a text can be a path of this machine.

    Args:
      text: a path.
      what: the flag or field that holds it; ``config.init.weights`` may be an ``hf://`` address.

    Raises:
      UserError: it is an address, as ``gs://BUCKET/FOLDER``.
    """
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", text)
    if not match or (match[1] == "hf" and what.endswith("init.weights")):
        return
    if match[1] in ("http", "https", "ftp", "hf"):
        fix = "download it and give the path of the copy"
    elif match[1] == "file":
        fix = "give the path without file://"
    else:
        fix = "mount the bucket (gcsfuse, mountpoint-s3) and give the path of the mounted folder"
    raise UserError(f"{what}{'=' if what else ''}{text}: an address, not a path; {fix}")


def name_of(name: str) -> str:
    """``configs/resnet50.py:cnmc`` -> ``resnet50``."""
    return Path(name.partition(":")[0]).stem


def recipes(argument: str, known: Iterable[str]) -> tuple[str, list[str]]:
    """Split the argument of a config file into data set and recipes.

    ``"cnmc,large"`` -> ``("cnmc", ["large"])``; ``""`` -> ``("", [])``.

    Raises:
      UserError: a recipe that is not in `known`.
    """
    dataset, *chosen = argument.split(",") if argument else [""]
    for recipe in chosen:
        if recipe not in known:
            raise UserError(
                f"config argument {argument!r}: no recipe {recipe!r} here; "
                f"known: {', '.join(known) or 'none'}"
            )
    return dataset, chosen


def _find(path: str) -> Path:
    given = Path(path)
    if given.suffix == ".py":
        if given.is_file():
            return given
        # From an installed package `configs/resnet50.py` means the shipped file.
        if given.parent.name == "configs" and (shipped_folder() / given.name).is_file():
            return shipped_folder() / given.name
    elif (shipped_folder() / f"{path}.py").is_file():
        return shipped_folder() / f"{path}.py"
    names = sorted(file.stem for file in shipped_folder().glob("[a-z]*.py"))
    raise UserError(
        f"--config={path}: no such file, and no shipped config of that name; "
        f"give a path ending in .py or one of: {', '.join(names)}"
    )


def _get_config(file: Path, argument: str) -> ConfigDict:
    spec = importlib.util.spec_from_file_location(f"leukjax_config_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{file}: {type(error).__name__}: {error}; mend the config file") from error
    if not callable(getattr(module, "get_config", None)):
        raise UserError(f"{file}: defines no get_config(argument); see configs/default.py")
    try:
        config = module.get_config(argument)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(
            f"{file}: get_config({argument!r}) failed: {type(error).__name__}: {error}; "
            "mend the config file"
        ) from error
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"{file}: get_config must return an ml_collections.ConfigDict; see configs/default.py"
        )
    try:
        flatten(config)
    except RecursionError as error:
        raise UserError(f"{file}: a section of the config holds itself; mend it") from error
    return config


def flatten(config: ConfigDict | Mapping, prefix: str = "") -> dict[str, Any]:
    """``{"data.image_size": 48, …}`` of a config or of its JSON form."""
    flat: dict[str, Any] = {}
    for key in config:
        value = config[key]
        if isinstance(value, ConfigDict | Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def set_field(config: ConfigDict, field: str, value: Any) -> None:
    """Set one field, in place; a text is read as the field's own type.

    Raises:
      UserError: unknown field, with the nearest known one; or a value of another type.
    """
    flat = flatten(config)
    if field not in flat:
        raise UserError(f"--config.{field}: no such field{_nearest(field, flat)}")
    _assign(config, field, _as_type_of(flat[field], value, field))


def _assign(config: ConfigDict, field: str, value: Any) -> None:
    *sections, last = field.split(".")
    section = config
    for name in sections:
        section = section[name]
    section[last] = value


def _nearest(field: str, flat: Mapping[str, Any]) -> str:
    inside = [name for name in flat if name.startswith(field + ".")]
    if inside:
        return f": it is a section; its fields: {', '.join(inside)}"
    close = difflib.get_close_matches(field, flat, n=1, cutoff=0.4)
    last = [name for name in flat if name.split(".")[-1] == field.split(".")[-1]]
    guess = (last or close)[:1]
    return f"; did you mean --config.{guess[0]}?" if guess else "; configs/default.py lists all"


def _as_type_of(current: Any, value: Any, field: str) -> Any:
    kind = type(current)
    if isinstance(value, str) and kind is bool:
        words = {"true": True, "1": True, "false": False, "0": False}
        if value.lower() in words:
            return words[value.lower()]
    elif kind is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass
    elif kind is int and isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            pass
    elif isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    raise UserError(f"--config.{field}={value}: must be {names[kind]}, as {current!r} is")


def check(config: ConfigDict) -> None:
    """Check names, types, bounds and combinations of fields.

    Raises:
      UserError: naming the first field that is wrong, and what it may hold.
    """
    flat = flatten(config)
    _check_names_and_types(flat)
    for field, choices in CHOICES.items():
        if flat[field] not in choices:
            listed = ", ".join(map(str, choices))
            raise UserError(f"--config.{field}={flat[field]}: must be one of {listed}")
    for field, (low, high) in BOUNDS.items():
        if not low <= flat[field] <= high:  # false for NaN as well
            raise UserError(f"--config.{field}={flat[field]}: must lie in {low:g} to {high:g}")
    for field in PATHS:
        require_local_path(flat[field], f"--config.{field}")
    for field in _DURATIONS:
        parse_duration(flat[field], field)
    for field in _EXPRESSIONS:
        try:
            expression = re.compile(flat[field])
        except (re.error, RecursionError, OverflowError) as error:
            raise UserError(
                f"--config.{field}={flat[field]}: not a regular expression: {error}"
            ) from error
        if field == "data.subject_pattern" and flat[field] and not expression.groups:
            raise UserError(
                f"--config.{field}={flat[field]}: must hold a group in brackets, the subject"
            )
    _check_combinations(flat)


def of_finished_run(content: Any) -> tuple[ConfigDict, dict[str, Any]]:
    """The config of a finished run, which may come from anyone.

    A field that the run's version did not have gets its default. Fields that say where files are or
    how the machine works get this machine's defaults.

    Args:
      content: of its config.json.

    Returns:
      The config, and all fields as they were recorded: for display and hints, never to be used.

    Raises:
      UserError: an unknown field, or a value of another type or out of bounds.
    """
    default = _get_config(shipped_folder() / "default.py", "")
    recorded = flatten(default)
    for field, value in _fields_of_json(content).items():
        if field not in recorded:
            raise UserError(f"{field}: no such field{_nearest(field, recorded)}")
        recorded[field] = value
    _check_types(recorded, flatten(default))
    config, defaults = default.copy_and_resolve_references(), flatten(default)
    for field, value in recorded.items():
        _assign(config, field, _as_type_of(defaults[field], value, field))
    check(config)
    if config.data.smears_subjects * config.data.smears_cells > MAX_DRAWN:
        raise UserError(
            f"data.smears_subjects, data.smears_cells: more than {MAX_DRAWN:,} drawn cells"
        )
    for field, value in defaults.items():
        if _is_one_of(field, _OF_MACHINE):
            _assign(config, field, value)
    return config, recorded


def of_this_machine(config: ConfigDict, overrides: Iterable[tuple[str, Any]], where: str) -> None:
    """Set fields of a finished run's config that the user gives for this machine, in place.

    Args:
      config: of the run.
      overrides: pairs of field and value.
      where: the run, for messages.

    Raises:
      UserError: a field on which the run's numbers depend, or a value that it cannot have.
    """
    given = list(overrides)
    for field, value in given:
        if not may_be_given_again(field):
            raise UserError(
                f"--config.{field}: a finished run keeps its config ({where}); only these may be "
                f"given: {', '.join(_GIVEN_AGAIN)}"
            )
        set_field(config, field, value)
    if given:
        check(config)


def may_be_given_again(field: str) -> bool:
    """Whether a field may be given for a finished run: it says where its data are, how it runs."""
    return _is_one_of(field, _GIVEN_AGAIN)


def _fields_of_json(content: Any) -> dict[str, Any]:
    """The fields of a config's JSON form: sections of numbers, texts, true and false."""
    if not isinstance(content, dict):
        raise UserError("must be a JSON object")
    fields: dict[str, Any] = {}
    for name, value in content.items():
        inner = {name: value}
        if isinstance(value, dict):
            inner = {f"{name}.{key}": each for key, each in value.items()}
        for field, each in inner.items():
            if not isinstance(each, str | int | float | bool):
                raise UserError(f"{field[:100]}: must be a number, a text, true or false")
            if isinstance(each, str) and len(each) > _MAX_TEXT:
                raise UserError(f"{field[:100]}: has more than {_MAX_TEXT:,} characters")
        fields |= inner
    return fields


def _is_one_of(field: str, names: Iterable[str]) -> bool:
    """Whether a field is named, or is in a section that is (``mesh.``)."""
    return any(field == name or (name[-1] == "." and field.startswith(name)) for name in names)


def _check_names_and_types(flat: dict[str, Any]) -> None:
    default = flatten(_get_config(shipped_folder() / "default.py", ""))
    for field in flat:
        if field not in default:
            raise UserError(f"config field {field}: no such field{_nearest(field, default)}")
    for field in default:
        if field not in flat:
            raise UserError(f"config field {field}: missing; start from load('default')")
    _check_types(flat, default)


def _check_types(flat: Mapping[str, Any], default: Mapping[str, Any]) -> None:
    """Check that each field has the type of its default."""
    for field, value in default.items():
        if isinstance(flat[field], str) and not isinstance(value, str):
            raise UserError(f"--config.{field}={flat[field]}: a text, where {value!r} is none")
        _as_type_of(value, flat[field], field)


def _check_combinations(flat: dict[str, Any]) -> None:
    def refuse(field: str, why: str) -> None:
        raise UserError(f"--config.{field}={flat[field]}: {why}")

    batch = flat["train.batch_size"]
    if flat["train.epochs"] <= 0:
        refuse("train.epochs", "must be above 0")
    if flat["optimizer.learning_rate"] <= 0:
        refuse("optimizer.learning_rate", "must be above 0")
    if flat["mesh.data"] == 0:
        refuse("mesh.data", "must be -1 (all devices) or at least 1")
    if flat["split.fold"] >= flat["split.folds"]:
        refuse("split.fold", f"must be below split.folds={flat['split.folds']} (counts from 0)")
    if flat["split.held_out"] != "none" and flat["split.protocol"] != "kfold":
        refuse("split.held_out", "goes with split.protocol=kfold only; the others have a test part")
    if batch % flat["train.accumulate"]:
        refuse("train.accumulate", f"must divide train.batch_size={batch}")
    group = flat["model.norm_batch"]
    if group and (batch // flat["train.accumulate"]) % group:
        refuse("model.norm_batch", "must divide train.batch_size / train.accumulate")
    if flat["train.steps_per_call"] > 1 and flat["data.cache"] in ("none", "host"):
        refuse("train.steps_per_call", "above 1 needs data.cache=device")
    if flat["model.name"] == "bit" and flat["model.depth"] < 50:
        refuse("model.depth", "bit has 50, 101 and 152")
    if flat["init.sha256"] and not re.fullmatch("[0-9a-f]{64}", flat["init.sha256"]):
        refuse("init.sha256", "must be 64 hexadecimal digits")
    if not flat["init.weights"]:
        for field, default in (("init.sha256", ""), ("init.head", "auto"), ("init.allow", "")):
            if flat[field] != default:
                refuse(field, "says something about weights, and init.weights names none")
    if flat["data.subject_pattern"] and flat["data.subject_csv"]:
        refuse("data.subject_csv", "give either this or data.subject_pattern, not both")


def parse_duration(text: str, field: str) -> tuple[float, str]:
    """``"5 epochs"`` -> ``(5.0, "epochs")``; the unit is epochs, steps or examples.

    Raises:
      UserError: anything else.
    """
    match = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*(epoch|step|example)s?\s*", text)
    try:
        number = float(match[1]) if match else math.nan
    except ValueError:
        number = math.nan
    if not match or math.isnan(number):
        raise UserError(
            f"--config.{field}={text}: must read like '5 epochs', '200 steps', '1e6 examples'"
        )
    return number, match[2] + "s"


def steps(text: str, *, steps_per_epoch: int, batch_size: int, field: str) -> int:
    """Turn a duration into a number of optimiser steps, rounded to the nearest."""
    number, unit = parse_duration(text, field)
    factor = {"epochs": float(steps_per_epoch), "steps": 1.0, "examples": 1.0 / batch_size}[unit]
    return round(number * factor)


def differences(before: Mapping, after: Mapping, *, ignore: Iterable[str] = ()) -> list[str]:
    """Lines ``field: before -> after`` for all fields that differ.

    Args:
      before: a config or its JSON form.
      after: likewise.
      ignore: fields, or sections ending in a dot, that may differ.
    """
    old, new = flatten(before), flatten(after)
    ignored = tuple(ignore)
    lines = []
    for field in sorted(old.keys() | new.keys()):
        if not _is_one_of(field, ignored) and old.get(field) != new.get(field):
            lines.append(f"{field}: {old.get(field, 'absent')!r} -> {new.get(field, 'absent')!r}")
    return lines
