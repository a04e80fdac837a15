"""Configs: found by path or name, changed field by field, checked, compared.

A config file is Python with ``get_config(argument) -> ConfigDict``; ``NAME.py:ARGUMENT`` passes the
argument. ``configs/default.py`` defines every field: default, allowed values, meaning. Nothing else
in leukjax reads a field with a fallback.
"""

import difflib
import functools
import importlib.util
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from leukjax.errors import NotRegistered, UserError
from leukjax.fields import Field, Location, parse_duration

_PACKAGE = Path(__file__).resolve().parent

# Images of synthetic cells that a finished run may ask for: their list alone takes a gigabyte.
MAX_DRAWN = 2_000_000

_MAX_TEXT = 10_000  # characters of one field of a run's config.json

# Fields that hold the name of something that users may register, and what it is.
_REGISTERED = {"model.name": "model", "data.name": "data set", "optimizer.name": "optimizer"}

# Fields that code outside the package declared for its own models and data sets.
_declared: dict[str, Field] = {}


def fields() -> dict[str, Field]:
    """All fields by name, as in ``"data.image_size"``."""
    return {**_shipped_fields(), **_declared}


@functools.cache
def _shipped_fields() -> dict[str, Field]:
    return _import_file(shipped_folder() / "default.py").FIELDS


def free_fields() -> tuple[str, ...]:
    """Fields that change speed or places only: a run may be resumed with other values of them."""
    return tuple(name for name, field in fields().items() if field.is_free)


def path_fields() -> tuple[str, ...]:
    """Fields that name a file or folder."""
    return tuple(name for name, field in fields().items() if isinstance(field, Location))


def without_places(config: ConfigDict) -> dict[str, Any]:
    """All fields but those that name a file or folder: for what leaves this machine."""
    paths = path_fields()
    return {name: value for name, value in flatten(config).items() if name not in paths}


def declare(name: str, field: Field) -> None:
    """Adds a field to every config loaded from now on.

    Raises:
      ValueError: the name is taken, malformed, or that of a method of ConfigDict.
    """
    *_, last = name.split(".")
    if name.count(".") != 1 or not all(part.isidentifier() for part in name.split(".")):
        raise ValueError(f"config field {name!r}: must read SECTION.FIELD")
    if hasattr(ConfigDict, last):
        raise ValueError(f"config field {name!r}: {last!r} is a method of ConfigDict; rename it")
    if name in _shipped_fields() or _declared.get(name, field) != field:
        raise ValueError(f"config field {name!r}: exists already")
    _declared[name] = field


def build(table: Mapping[str, Field]) -> ConfigDict:
    """A config that holds the default of every field."""
    config = ConfigDict()
    for name, field in table.items():
        *sections, last = name.split(".")
        section = config
        for part in sections:
            if part not in section:
                section[part] = ConfigDict()
            section = section[part]
        section[last] = field.default
    return config


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
      ValueError: no such file, an unknown field (the nearest one is named), or a value out of
        bounds.
    """
    path, _, argument = name.partition(":")
    config = _get_config(_find(path), argument)
    for field, rule in _declared.items():
        _add_missing(config, field, rule)
    _check_names_and_types(flatten(config))  # before the changes: what is wrong is the file's
    pairs = overrides.items() if isinstance(overrides, Mapping) else overrides
    for field, value in pairs:
        set_field(config, field, value)
    check(config)
    return config


def _add_missing(config: ConfigDict, name: str, field: Field) -> None:
    section, last = name.split(".")
    if section not in config:
        config[section] = ConfigDict()
    if last not in config[section]:
        config[section][last] = field.default


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


def _import_file(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"leukjax_config_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{file}: {type(error).__name__}: {error}; fix the config file") from error
    return module


def _get_config(file: Path, argument: str) -> ConfigDict:
    module = _import_file(file)
    if not callable(getattr(module, "get_config", None)):
        raise UserError(f"{file}: defines no get_config(argument); see configs/default.py")
    try:
        config = module.get_config(argument)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(
            f"{file}: get_config({argument!r}) failed: {type(error).__name__}: {error}; "
            "fix the config file"
        ) from error
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"{file}: get_config must return an ml_collections.ConfigDict; see configs/default.py"
        )
    try:
        flatten(config)
    except RecursionError as error:
        raise UserError(
            f"{file}: a section of the config contains itself; fix the config file"
        ) from error
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
    rule = fields().get(field)
    _assign(config, field, value if rule is None else rule.parse(value, field))


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


def check(config: ConfigDict) -> None:
    """Check names, types, bounds and combinations of fields.

    Raises:
      UserError: naming the first field that is wrong, and what it may hold.
    """
    flat = flatten(config)
    _check_names_and_types(flat)
    for name, field in fields().items():
        field.check(flat[name], name)
    for name in path_fields():
        require_local_path(flat[name], f"--config.{name}")
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
      NotRegistered: a model, data set or optimizer that is registered outside of leukjax.
      UserError: an unknown field, or a value of another type or out of bounds.
    """
    known = fields()
    recorded = {name: field.default for name, field in known.items()}
    given = _fields_of_json(content)
    _check_registered(given, known)  # first: their own fields are unknown too
    for name, value in given.items():
        if name not in recorded:
            raise UserError(f"{name}: no such field{_nearest(name, recorded)}")
        recorded[name] = value
    _check_types(recorded)
    config = build(known)
    for name, value in recorded.items():
        _assign(config, name, known[name].parse(value, name))
    check(config)
    if config.data.smears_subjects * config.data.smears_cells > MAX_DRAWN:
        raise UserError(
            f"data.smears_subjects, data.smears_cells: more than {MAX_DRAWN:,} synthetic cells"
        )
    # Fields that say where files of this machine are or how this machine works.
    for name, field in known.items():
        if field.is_free or name.startswith("init."):
            _assign(config, name, field.default)
    return config, recorded


def _check_registered(recorded: Mapping[str, Any], known: Mapping[str, Field]) -> None:
    for name, what in _REGISTERED.items():
        value = recorded.get(name)
        if isinstance(value, str) and re.fullmatch(r"[\w.-]{1,100}", value):
            try:
                known[name].check(value, name)
            except UserError as error:
                raise NotRegistered(
                    f"uses the {what} {value!r}, which is not registered: add --import=FILE"
                ) from error


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
                f"given: {', '.join(filter(may_be_given_again, fields()))}"
            )
        set_field(config, field, value)
    if given:
        check(config)


def may_be_given_again(field: str) -> bool:
    """Whether a field may be given for a finished run: where its data are, and how it runs."""
    return field in free_fields() and field.startswith(("data.", "runtime."))


def _fields_of_json(content: Any) -> dict[str, Any]:
    """The fields of a config's JSON form: sections of numbers, texts, true and false."""
    if not isinstance(content, dict):
        raise UserError("must be a JSON object")
    fields: dict[str, Any] = {}
    for name, value in content.items():
        inner = {name: value}
        if isinstance(value, dict):
            inner = {f"{name}.{key}": item for key, item in value.items()}
        for field, item in inner.items():
            if not isinstance(item, str | int | float | bool):
                raise UserError(f"{field[:100]}: must be a number, a text, true or false")
            if isinstance(item, str) and len(item) > _MAX_TEXT:
                raise UserError(f"{field[:100]}: has more than {_MAX_TEXT:,} characters")
        fields |= inner
    return fields


def _check_names_and_types(flat: dict[str, Any]) -> None:
    known = fields()
    for name in flat:
        if name not in known:
            raise UserError(f"config field {name}: no such field{_nearest(name, known)}")
    for name in known:
        if name not in flat:
            raise UserError(f"config field {name}: missing; start from load('default')")
    _check_types(flat)


def _check_types(flat: Mapping[str, Any]) -> None:
    """Checks that each field has its type; text is accepted for fields of text only."""
    for name, field in fields().items():
        if isinstance(flat[name], str) and not isinstance(field.default, str):
            raise UserError(f"--config.{name}={flat[name]}: expected {field.expected}, got text")
        field.parse(flat[name], name)


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
    one_source = flat["split.protocol"] == "leave_one_source_out"  # its folds are the sources
    if flat["split.fold"] >= flat["split.folds"] and not one_source:
        refuse("split.fold", f"must be below split.folds={flat['split.folds']} (counts from 0)")
    if flat["split.held_out"] != "none" and flat["split.protocol"] != "kfold":
        refuse("split.held_out", "goes with split.protocol=kfold only; the others have a test part")
    parts = {flat["split.protocol"], flat["split.held_out"]}
    for field, default in (("split.file", ""), ("split.crossing", "refuse")):
        allowed = field == "split.crossing" and one_source
        if flat[field] != default and not allowed and not parts & {"given", "auto"}:
            refuse(field, "goes with split.protocol=given")
    if batch % flat["train.accumulate"]:
        refuse("train.accumulate", f"must divide train.batch_size={batch}")
    group = flat["model.norm_batch"]
    if group and (batch // flat["train.accumulate"]) % group:
        refuse("model.norm_batch", "must divide train.batch_size / train.accumulate")
    if flat["train.steps_per_call"] > 1 and flat["data.cache"] in ("none", "host"):
        refuse("train.steps_per_call", "above 1 needs data.cache=device")
    if parse_duration(flat["train.swa"], "train.swa")[0] and flat["train.ema_decay"]:
        refuse("train.swa", "give either this or train.ema_decay, not both")
    deferred = parse_duration(flat["loss.deferred"], "loss.deferred")[0]
    if deferred and flat["loss.class_weights"] == "none":
        refuse("loss.deferred", "needs loss.class_weights, which are used from then on")
    if flat["model.name"] == "bit" and flat["model.depth"] < 50:
        refuse("model.depth", "bit has 50, 101 and 152")
    if flat["init.sha256"] and not re.fullmatch("[0-9a-f]{64}", flat["init.sha256"]):
        refuse("init.sha256", "must be 64 hexadecimal digits")
    if not flat["init.weights"]:
        for field, default in (("init.sha256", ""), ("init.head", "auto"), ("init.allow", "")):
            if flat[field] != default:
                refuse(field, "needs init.weights")
    if flat["data.subject_pattern"] and flat["data.subject_csv"]:
        refuse("data.subject_csv", "give either this or data.subject_pattern, not both")
    if flat["data.part_pattern"] and flat["data.part_from"]:
        refuse("data.part_from", "give either this or data.part_pattern, not both")


def steps(text: str, *, steps_per_epoch: int, batch_size: int, field: str) -> int:
    """Turn a duration into a number of optimiser steps, rounded to the nearest."""
    number, unit = parse_duration(text, field)
    factor = {"epochs": float(steps_per_epoch), "steps": 1.0, "examples": 1.0 / batch_size}[unit]
    return round(number * factor)


def differences(before: Mapping, after: Mapping, *, ignore: Iterable[str] = ()) -> list[str]:
    """Lines ``field: before -> after`` for all fields that differ.

    A field that `before` lacks has its default there: it is newer than that config.

    Args:
      before: a config or its JSON form.
      after: another.
      ignore: fields, or sections ending in a dot, that may differ.
    """
    old, new = flatten(before), flatten(after)
    old = {name: field.default for name, field in fields().items() if name in new} | old
    ignored = tuple(ignore)
    lines = []
    for field in sorted(old.keys() | new.keys()):
        skip = any(
            field == name or (name[-1] == "." and field.startswith(name)) for name in ignored
        )
        if not skip and old.get(field) != new.get(field):
            lines.append(f"{field}: {old.get(field, 'absent')!r} -> {new.get(field, 'absent')!r}")
    return lines
