"""What the JSON files of a work directory may hold: a check for every field that is read."""

from collections.abc import Callable, Mapping
from typing import Any

from leukjax import config as configs
from leukjax.fields import Choice

MAX_CLASSES = 10_000
MAX_TEXT = 1_000  # characters of an id, a name or a version
MIN_STD = 1e-6  # below it a normalized pixel leaves the range of float32's significant digits

# Accepts a value, or raises ValueError with what it must be.
Check = Callable[[Any], Any]


def check_fields(
    content: Any, fields: Mapping[str, Check], optional: Mapping[str, Check] | None = None
) -> None:
    """Checks a JSON object; fields that are not named may hold anything and are never read.

    Raises:
      ValueError: which field is wrong, and what it must be.
    """
    if not isinstance(content, dict):
        raise ValueError("must be a JSON object")
    for name, check in {**fields, **(optional or {})}.items():
        if name not in content:
            if name in fields:
                raise ValueError(f"lacks {name}")
            continue
        try:
            check(content[name])
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{name}: {error}") from error


def text(value: Any) -> None:
    """Checks a text of bounded length."""
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise ValueError(f"must be a text of at most {MAX_TEXT:,} characters")


def flag(value: Any) -> None:
    """Checks a truth value."""
    if not isinstance(value, bool):
        raise ValueError("must be true or false")


def whole(low: int, high: int) -> Check:
    """Returns a check for a whole number in bounds."""

    def check(value: Any) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")

    return check


def number(low: float, high: float) -> Check:
    """Returns a check for a number in bounds."""

    def check(value: Any) -> None:
        if not _is_number(value) or not low <= value <= high:  # false for NaN as well
            raise ValueError(f"must be a number from {low:g} to {high:g}")

    return check


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _one_of(*choices: Any) -> Check:
    def check(value: Any) -> None:
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"must be one of {', '.join(map(str, choices))}")

    return check


def _triple(low: float, high: float) -> Check:
    check_number = number(low, high)

    def check(value: Any) -> None:
        if not isinstance(value, list) or len(value) != 3:
            raise ValueError("must be a list of three numbers")
        for number in value:
            check_number(number)

    return check


def _classes(value: Any) -> None:
    if not isinstance(value, list) or not 2 <= len(value) <= MAX_CLASSES:
        raise ValueError(f"must be a list of 2 to {MAX_CLASSES:,} names")
    for name in value:
        text(name)
    if len(set(value)) < len(value) or "" in value:
        raise ValueError("must be different names, none of them empty")


def _names(value: Any) -> None:
    if not isinstance(value, list) or len(value) > MAX_CLASSES:
        raise ValueError(f"must be a list of at most {MAX_CLASSES:,} names")
    for name in value:
        text(name)


def _versions(value: Any) -> None:
    if not isinstance(value, dict) or len(value) > 100:
        raise ValueError("must be a JSON object of at most 100 versions")
    for name, version in value.items():
        text(name)
        text(version)


def init(value: Any) -> None:
    """Checks what a run started from."""
    check_fields(value, INIT_FIELDS)


def check_history(record: Any) -> None:
    """Checks a line of metrics.jsonl."""
    check_fields(record, {"step": whole(0, 2**53), "part": text}, {"epoch": number(0, 1e9)})
    for name, value in record.items():
        if name != "part" and not (value is None or _is_number(value)):
            raise ValueError(f"{name[:100]}: must be a number")
        if _is_number(value):
            float(value)  # not beyond the range of float64


_COUNT = whole(0, 2**53)
INIT_FIELDS: dict[str, Check] = {
    "weights": text,
    "sha256": text,
    "layout": text,
    "mean": _triple(-10, 10),
    "std": _triple(MIN_STD, 10),
}


def _choice_of(name: str) -> Check:
    def check(value: Any) -> None:
        field = configs.fields()[name]
        assert isinstance(field, Choice)
        _one_of(*field.values)(value)

    return check


def _stain_target(value: Any) -> None:
    check_number = number(-10, 10)
    rows = value if isinstance(value, list) else []
    if len(rows) != 2 or not all(isinstance(row, list) and len(row) == 4 for row in rows):
        raise ValueError("must be two lists of four numbers")
    for item in (*rows[0], *rows[1]):
        check_number(item)


def _groups(value: Any) -> None:
    text(value)
    configs.fields()["split.groups"].check(value, "split.groups")


DATA_FIELDS: dict[str, Check] = {"records_sha256": text, "split_sha256": text}
DATA_OPTIONAL: dict[str, Check] = {
    "images": _COUNT,
    "subjects": _COUNT,
    "groups": _COUNT,
    "classes": _classes,
    "protocol": _choice_of("split.protocol"),
    "init": init,
}
SUMMARY_FIELDS: dict[str, Check] = {
    "model": text,
    "parameters": _COUNT,
    "flops_per_image": number(0, 1e18),
    "data": text,
    "synthetic": flag,
    "subjects_known": flag,
    "protocol": text,
    "leaky": flag,
    "classes": _classes,
    "positive": text,
    "epoch_chosen": number(0, 1e9),
    "chosen_by": text,
    "test_openings": _COUNT,
    "seconds_trained": number(0, 1e12),
    "device": text,
    "versions": _versions,
}
SUMMARY_OPTIONAL: dict[str, Check] = {"rare_classes": _names, "groups": _groups, "probe": text}
PREPROCESSING_FIELDS: dict[str, Check] = {
    "classes": _classes,
    "positive": text,
    "data": text,
    "synthetic": flag,
    "background": _one_of("black", "bright"),
    "crop": whole(0, 7_000),
    "denoise": text,
    "image_size": whole(8, 2048),
    "resize": text,
    "scale": text,
    "mean": _triple(-10, 10),
    "std": _triple(MIN_STD, 10),
    "model": lambda value: check_fields(value, {"name": text}),
    "compute_dtype": text,
    "versions": _versions,
}
PREPROCESSING_OPTIONAL: dict[str, Check] = {
    "init": init,
    "stain": _choice_of("data.stain"),
    "stain_target": _stain_target,
}
