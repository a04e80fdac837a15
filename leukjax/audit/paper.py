"""The printed tables of a paper as TOML, and the findings of checks.

Numbers keep their printed digits (`Decimal`), because 0.680 claims more than 0.68.
docs/howto/audit.md describes every key; ``paper_form.toml`` is a blank form.
"""

import dataclasses
import datetime
import difflib
import re
import tomllib
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Literal

from leukjax.errors import UserError
from leukjax.storage import read_text

NOT_STATED = "not stated"
COLUMNS = ("epoch", "train_loss", "val_loss", "val_accuracy", "precision", "recall", "f1")
# Scores that a row of test results may print, in percent.
SCORES = ("accuracy", "precision", "recall", "f1", "specificity", "balanced_accuracy", "auroc",
          "weighted_f1", "macro_f1", "mcc")  # fmt: skip
KINDS = ("single", "mean", "macro")

_TEXT, _NUMBER, _COUNT, _FLAG = "a text", "a number", "a whole number", "true or false"
_TEXTS, _DATE, _ROWS = "a list of texts", "a date", "rows of numbers"
_P_VALUE = "a number from 0 to 1"
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
        "rows": _ROWS, "images": _COUNT, "kind": _TEXT,
        "text": {"first": _NUMBER, "last": _NUMBER, "improves_after_epoch": _COUNT},
    },
    "test": {
        "model": _TEXT, "kind": _TEXT, "images": _COUNT,
        "percent": dict.fromkeys(SCORES, _NUMBER), "starred": _FLAG, "note": _TEXT,
        "p_value": _P_VALUE, "p_value_below": _P_VALUE, "p_value_test": _TEXT, "comparator": _TEXT,
    },
}  # fmt: skip
_LISTS = ("curve", "test")

# Bounds of a paper file, far above those of real papers. They keep the exact arithmetic and the
# comparisons of pairs within seconds.
MAX_BYTES = 2**20
MAX_NUMBER = 10**9
MAX_DIGITS = 18  # after the decimal point; with those of MAX_NUMBER still exact as a `Decimal`
MAX_DIGITS_OF_P = 400
MAX_ENTRIES = {"curve": 100, "test": 1000}
MAX_ROWS = 1000  # of a curve
# tomllib takes quadratic time for keys with many dots; a key of the form has at most two.
_DEEP_KEY = re.compile(
    r"""(?<![\w-])(?:(?:[\w-]++|"(?:[^"\\\n]|\\.){0,99}+"|'[^'\n]{0,99}+')[ \t]*+\.[ \t]*+){16}"""
)


@dataclasses.dataclass(frozen=True)
class Curve:
    """A model's printed numbers by epoch; `columns` are the names of the columns of `rows`."""

    model: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Decimal, ...], ...]
    layers_claimed: tuple[int, ...]
    text: Mapping[str, Decimal]
    images: int | None  # in the split that is scored
    kind: str

    def column(self, name: str) -> tuple[Decimal, ...] | None:
        """Returns a column by name; None if it is not printed."""
        if name not in self.columns:
            return None
        return tuple(row[self.columns.index(name)] for row in self.rows)


@dataclasses.dataclass(frozen=True)
class Test:
    """A row of test results; `percent` holds the scores as printed."""

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
    """The numbers that a paper prints. Sections hold the keys that the file has."""

    title: str
    data: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    training: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    curves: tuple[Curve, ...]
    tests: tuple[Test, ...]

    @property
    def split(self) -> Mapping[str, int]:
        """Printed number of images of each split; empty if not printed."""
        return self.data.get("split_printed", {})


Verdict = Literal["pass", "fail", "cannot_tell"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of a check on one value or table.

    Attributes:
      check: name of the check, as in `paper_checks.CHECKS`.
      where: the value or table.
      verdict: "fail" means that the printed numbers cannot all be what the paper says they are; the
        arithmetic does not show why.
      arithmetic: the computation, in numbers.
    """

    check: str
    where: str
    verdict: Verdict
    arithmetic: str


def finding(check: str, where: str, holds: bool | None, arithmetic: str) -> Finding:
    """Returns a finding from a truth value; None: cannot tell."""
    verdict: Verdict = "cannot_tell" if holds is None else "pass" if holds else "fail"
    return Finding(check, where, verdict, arithmetic)


def blank_form() -> str:
    """Returns the text of a paper file to fill in."""
    return Path(__file__).with_name("paper_form.toml").read_text("utf-8")


def read(path: Path) -> Paper:
    """Reads a paper file.

    Raises:
      UserError: it cannot be read, has an unknown key (the message names the nearest), or a value
        of the wrong type.
    """
    try:
        text = read_text(path, MAX_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason}); give a paper in TOML") from error
    try:
        if _DEEP_KEY.search(text):
            raise ValueError("a key has more than 16 parts")
        content = tomllib.loads(text, parse_float=_decimal)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise UserError(f"{path}: not valid TOML ({reason}); fix it, or start from --new") from (
            error
        )
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


def _decimal(text: str) -> Decimal:
    """A number with its printed digits; one without a fraction, such as 1e2, is whole."""
    try:
        value = Decimal(text)
        # Larger exponents are refused by `_in_range`.
        return value.quantize(Decimal(1)) if 0 < _exponent(value) <= MAX_DIGITS else value
    except InvalidOperation as error:
        raise ValueError(f"{text[:40]}: the number is too large") from error


def _exponent(value: Decimal) -> int:
    exponent = value.as_tuple().exponent
    return exponent if isinstance(exponent, int) else 0  # infinities and NaN have none


def _curve(entry: Mapping[str, Any], path: Path) -> Curve:
    columns = tuple(entry.get("columns", COLUMNS))
    bad = [row for row in entry["rows"] if len(row) != len(columns)]
    if bad:
        raise UserError(
            f"{path}: curve {_shown(entry['model'])}: a row has {len(bad[0])} numbers for "
            f"{len(columns)} columns ({len(bad):,} of {len(entry['rows']):,} rows). Fix the rows "
            "or give `columns`"
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
            raise UserError(
                f"{path}: [{section}] must be written [[{section}]], because it may repeat"
            )
        if len(value) > MAX_ENTRIES[section]:
            raise UserError(
                f"{path}: {len(value):,} [[{section}]] entries, at most "
                f"{MAX_ENTRIES[section]:,} are allowed. Split the file"
            )
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
            continue
        if form[key] != _P_VALUE:
            _check_sizes(content, f"{where}: {key}")
        if not _FITS[form[key]](content):
            raise UserError(f"{where}: {key} must be {form[key]}, which {_shown(content)} is not")


def _check_sizes(value: Any, where: str) -> None:
    """Refuses numbers and lists out of bounds, of any key."""
    if isinstance(value, list):
        if len(value) > MAX_ROWS:
            raise UserError(
                f"{where}: a list of {len(value):,}, at most {MAX_ROWS:,} are allowed. Shorten it"
            )
        for item in value:
            _check_sizes(item, where)
    elif isinstance(value, int | Decimal) and not _in_range(value, MAX_DIGITS):
        raise UserError(
            f"{where}: {_shown(value)} is out of range. Give at most {MAX_NUMBER:,} with at most "
            f"{MAX_DIGITS} digits after the decimal point"
        )


def _in_range(value: int | Decimal, digits: int) -> bool:
    """Whether a number is within the bounds; the check of the type refuses infinities and NaN."""
    if isinstance(value, Decimal):
        if not value.is_finite():
            return True
        # Checks the exponent first: a comparison of 1e999999999 would expand it.
        if not -digits <= _exponent(value) <= 0 or value.adjusted() > MAX_DIGITS:
            return False
    return -MAX_NUMBER <= value <= MAX_NUMBER


def _known(key: str, form: Mapping[str, Any], where: str) -> None:
    if key not in form:
        close = difflib.get_close_matches(key[:40], form, n=1, cutoff=0.5)
        guess = f"did you mean {close[0]}?" if close else f"one of {', '.join(form)}"
        raise UserError(f"{where} {_shown(key)} is not known; {guess}")


def _shown(value: Any) -> str:
    """A value as short text for a message."""
    if isinstance(value, dict | list):
        return f"a {'table' if isinstance(value, dict) else 'list'} of {len(value):,}"
    if isinstance(value, int) and value.bit_length() > 64:
        return "a number with too many digits"
    text = str(value) if isinstance(value, Decimal) else repr(value)
    return text if len(text) <= 60 else text[:60] + "…"


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, Decimal) and value.is_finite())


def _is_list(value: Any, fits: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(fits, value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return _is_whole(value) and value >= 0


_FITS: Mapping[str, Callable[[Any], bool]] = {
    _TEXT: _is_text,
    _NUMBER: _is_number,
    _COUNT: _is_count,
    _FLAG: lambda value: isinstance(value, bool),
    _DATE: lambda value: isinstance(value, datetime.date | str),
    _TEXTS: lambda value: _is_list(value, _is_text),
    "a whole number or a text": lambda value: _is_count(value) or _is_text(value),
    "a number or a text": lambda value: _is_number(value) or _is_text(value),
    "a list of whole numbers": lambda value: _is_list(value, _is_count),
    _ROWS: lambda value: (
        value != [] and _is_list(value, lambda row: row != [] and _is_list(row, _is_number))
    ),
    _P_VALUE: lambda value: (
        _is_number(value) and _in_range(value, MAX_DIGITS_OF_P) and 0 <= value <= 1
    ),
    "counts by class": lambda value: (
        isinstance(value, dict)
        and 0 < len(value) <= MAX_ROWS
        and all(_is_count(count) and _in_range(count, 0) for count in value.values())
    ),
}
