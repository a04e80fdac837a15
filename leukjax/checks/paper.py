"""A paper's printed tables as TOML: the format, its reader and a blank form.

Numbers keep their printed digits (`Decimal`): 0.680 and 0.68 are not the same claim. docs/audit.md
describes every key.
"""

import dataclasses
import difflib
import tomllib
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from leukjax.errors import UserError
from leukjax.storage import read_text

MAX_BYTES = 16 * 2**20  # of a paper file

NOT_STATED = "not stated"
COLUMNS = ("epoch", "train_loss", "val_loss", "val_accuracy", "precision", "recall", "f1")
# Scores that a row of test results may print, in percent.
SCORES = ("accuracy", "precision", "recall", "f1", "specificity", "balanced_accuracy", "auroc",
          "weighted_f1", "macro_f1", "mcc")  # fmt: skip
KINDS = ("single", "mean", "macro")

_TEXT, _NUMBER, _COUNT, _FLAG = "a text", "a number", "a whole number", "true or false"
_TEXTS, _DATE = "a list of texts", "a date"
_PARTS = dict.fromkeys(("train", "val", "test"), _COUNT)
# Section -> key -> what it holds; a dictionary is a table of its own.
_FORM: dict[str, dict[str, Any]] = {
    "paper": {
        "title": _TEXT, "authors": _TEXTS, "doi": _TEXT, "year": _COUNT,
        "received": _DATE, "accepted": _DATE, "published": _DATE,
    },
    "data": {
        "name": _TEXT, "images": _COUNT, "images_in_abstract": _COUNT, "images_in_methods": _COUNT,
        "subjects": _COUNT, "split_claimed": dict.fromkeys(_PARTS, _NUMBER),
        "split_printed": _PARTS, "classes_printed": dict.fromkeys(_PARTS, "counts by class"),
        "unit_of_split": _TEXT, "classes_claimed": _TEXTS, "positive_class": _TEXT,
    },
    "preprocessing": {
        "abstract": _TEXTS, "methods": _TEXTS, "source_size": _COUNT, "target_size": _COUNT,
    },
    "training": {
        "optimizer": _TEXT, "loss": _TEXT, "batch_size": "a whole number or a text",
        "epochs": "a whole number or a text", "learning_rate": "a number or a text",
        "seeds": "a whole number or a text",
    },
    "evaluation": {"intervals": _TEXT, "distortion_experiment": _TEXT},
    "curve": {
        "model": _TEXT, "layers_claimed": "a list of whole numbers", "columns": _TEXTS,
        "rows": "rows of numbers", "images": _COUNT, "kind": _TEXT,
        "text": {"first": _NUMBER, "last": _NUMBER, "improves_after_epoch": _COUNT},
    },
    "test": {
        "model": _TEXT, "kind": _TEXT, "images": _COUNT,
        "percent": dict.fromkeys(SCORES, _NUMBER), "starred": _FLAG, "note": _TEXT,
        "p_value": _NUMBER, "p_value_below": _NUMBER, "p_value_test": _TEXT, "comparator": _TEXT,
    },
}  # fmt: skip
_LISTS = ("curve", "test")


@dataclasses.dataclass(frozen=True)
class Curve:
    """A model's numbers over epochs: `columns` name those of `rows`."""

    model: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Decimal, ...], ...]
    layers_claimed: tuple[int, ...]
    text: Mapping[str, Decimal]
    images: int | None  # of the part that the scores are of
    kind: str

    def column(self, name: str) -> tuple[Decimal, ...] | None:
        """A column by name; None if it is not printed."""
        if name not in self.columns:
            return None
        return tuple(row[self.columns.index(name)] for row in self.rows)


@dataclasses.dataclass(frozen=True)
class Test:
    """A row of test results; `percent` as printed."""

    model: str
    kind: str
    images: int | None
    percent: Mapping[str, Decimal]
    starred: bool
    note: str
    p_value: str  # as printed: "< 0.0015"; "" where none is
    p_value_test: str


@dataclasses.dataclass(frozen=True)
class Paper:
    """What a paper prints. Sections hold their keys as given; absent keys are absent."""

    title: str
    data: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    training: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    curves: tuple[Curve, ...]
    tests: tuple[Test, ...]

    @property
    def split(self) -> Mapping[str, int]:
        """Printed images of each part; empty if they are not printed."""
        return self.data.get("split_printed", {})


def read(path: Path) -> Paper:
    """Read a paper file.

    Raises:
        UserError: it cannot be read, has an unknown key (the nearest is named), or a value of
            another type than its key's.
    """
    try:
        content = tomllib.loads(read_text(path, MAX_BYTES), parse_float=Decimal)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason}); give a paper in TOML") from error
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise UserError(f"{path}: no TOML ({error}); correct it, or start from --new") from error
    _check(content, path)
    return Paper(
        title=content.get("paper", {}).get("title", path.stem),
        data=content.get("data", {}),
        preprocessing=content.get("preprocessing", {}),
        training=content.get("training", {}),
        evaluation=content.get("evaluation", {}),
        curves=tuple(_curve(entry, path) for entry in content.get("curve", [])),
        tests=tuple(_test(entry) for entry in content.get("test", [])),
    )


def _curve(entry: Mapping[str, Any], path: Path) -> Curve:
    columns = tuple(entry.get("columns", COLUMNS))
    for row in entry["rows"]:
        if len(row) != len(columns):
            raise UserError(
                f"{path}: curve {entry['model']}: a row has {len(row)} numbers for "
                f"{len(columns)} columns ({', '.join(columns)}); mend the row or give `columns`"
            )
    return Curve(
        model=entry["model"],
        columns=columns,
        rows=tuple(tuple(Decimal(value) for value in row) for row in entry["rows"]),
        layers_claimed=tuple(entry.get("layers_claimed", ())),
        text={name: Decimal(value) for name, value in entry.get("text", {}).items()},
        images=entry.get("images"),
        kind=entry.get("kind", "single"),
    )


def _test(entry: Mapping[str, Any]) -> Test:
    below, exact = entry.get("p_value_below"), entry.get("p_value")
    return Test(
        model=entry["model"],
        kind=entry.get("kind", "single"),
        images=entry.get("images"),
        percent={name: Decimal(value) for name, value in entry.get("percent", {}).items()},
        starred=entry.get("starred", False),
        note=entry.get("note", ""),
        p_value=f"< {below}" if below is not None else "" if exact is None else f"= {exact}",
        p_value_test=entry.get("p_value_test", NOT_STATED),
    )


def _check(content: Mapping[str, Any], path: Path) -> None:
    for section, value in content.items():
        _known(section, _FORM, f"{path}: section")
        if section not in _LISTS:
            _check_table(value, _FORM[section], f"{path}: [{section}]")
            continue
        if not isinstance(value, list):
            raise UserError(f"{path}: [{section}] must be written [[{section}]]; there may be many")
        for number, entry in enumerate(value, 1):
            where = f"{path}: [[{section}]] {number}"
            _check_table(entry, _FORM[section], where)
            for needed in ("model", *(("rows",) if section == "curve" else ())):
                if needed not in entry:
                    raise UserError(f"{where}: {needed} is missing; add it")
            if entry.get("kind", "single") not in KINDS:
                raise UserError(f"{where}: kind must be one of {', '.join(KINDS)}")


def _check_table(value: Any, form: Mapping[str, Any], where: str) -> None:
    if not isinstance(value, dict):
        raise UserError(f"{where}: must be a table of keys; see --new")
    for key, content in value.items():
        _known(key, form, f"{where}: key")
        if isinstance(form[key], dict):
            _check_table(content, form[key], f"{where} {key}")
        elif not _fits(content, form[key]):
            raise UserError(f"{where}: {key} must be {form[key]}, which {content!r} is not")


def _known(key: str, form: Mapping[str, Any], where: str) -> None:
    if key not in form:
        close = difflib.get_close_matches(key, form, n=1, cutoff=0.5)
        guess = f"did you mean {close[0]}?" if close else f"one of {', '.join(form)}"
        raise UserError(f"{where} {key!r} is not known; {guess}")


def _fits(value: Any, kind: str) -> bool:
    import datetime

    whole = isinstance(value, int) and not isinstance(value, bool)
    number = whole or (isinstance(value, Decimal) and value.is_finite())
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    return {
        _TEXT: isinstance(value, str),
        _NUMBER: number,
        _COUNT: whole and value >= 0,
        _FLAG: isinstance(value, bool),
        _DATE: isinstance(value, datetime.date | str),
        _TEXTS: listed and all(isinstance(item, str) for item in value),
        "a whole number or a text": (whole and value >= 0) or isinstance(value, str),
        "a number or a text": number or isinstance(value, str),
        "a list of whole numbers": listed and all(_fits(item, _COUNT) for item in value),
        "rows of numbers": listed
        and len(value) > 0
        and all(
            isinstance(row, list) and row and all(_fits(item, _NUMBER) for item in row)
            for row in value
        ),
        "counts by class": isinstance(value, dict)
        and len(value) > 0
        and all(_fits(item, _COUNT) for item in value.values()),
    }[kind]


BLANK = """\
# What a paper prints, for `python -m leukjax.audit FILE.toml`. Copy numbers with all printed
# digits (0.680 is not 0.68); leave out what is not printed, or write "not stated".
[paper]
title = ""
authors = []
# doi = "10.…"
# year = 2026

[data]
name = ""
# images = 0                                # or images_in_abstract, images_in_methods
# subjects = 0
# split_claimed = {train = 0.70, val = 0.15, test = 0.15}
# split_printed = {train = 0, val = 0, test = 0}
# classes_printed = {test = {all = 0, hem = 0}}
unit_of_split = "not stated"                # "image", "patient", …
positive_class = "not stated"

[preprocessing]
methods = []
# source_size = 450                         # pixels
# target_size = 224

[training]
optimizer = "not stated"
learning_rate = "not stated"
batch_size = "not stated"
epochs = "not stated"
seeds = "not stated"                        # how many

[evaluation]
intervals = "not stated"                    # how they were computed
distortion_experiment = "not stated"

# One for each model whose course is printed.
# [[curve]]
# model = "ResNet-50"
# layers_claimed = [50]
# images = 0                                # in the part that the scores are of
# columns = ["epoch", "train_loss", "val_loss", "val_accuracy", "precision", "recall", "f1"]
# rows = [
#   [1, 0.700, 0.690, 0.5003, 0.5000, 0.5000, 0.5000],
# ]

# One for each row of test results, in percent.
# [[test]]
# model = "ResNet-50"
# kind = "single"                           # or "mean" (over folds or runs), "macro" (over classes)
# images = 0
# percent = {accuracy = 0.0, precision = 0.0, recall = 0.0, f1 = 0.0}
# starred = false
# p_value = 0.05
# p_value_test = "not stated"
"""
