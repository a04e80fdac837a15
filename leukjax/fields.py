"""Config fields: each has a default, a type, the values it allows, and one line of documentation.

``configs/default.py`` lists the fields; `leukjax.config` applies them.
"""

import dataclasses
import difflib
import math
import re
from collections.abc import Callable
from typing import Any, ClassVar, Self

from leukjax.errors import UserError


class Field:
    """A field; the subclasses, all dataclasses, know their type.

    Attributes:
      default: the value where a config does not change it; its type is the field's.
      doc: what the field means, for people.
      is_free: it changes speed or places only, so a run may be resumed with another value.
    """

    default: Any
    doc: str
    is_free: bool
    expected: ClassVar[str] = ""

    def free(self) -> Self:
        """The same field, marked free."""
        return dataclasses.replace(self, is_free=True)  # type: ignore[type-var]

    def parse(self, value: Any, name: str) -> Any:
        """The value as the field's type; text (from the command line) is converted.

        Raises:
          UserError: it is of another type.
        """
        parsed = self._convert(value)
        if parsed is None:
            raise UserError(
                f"--config.{name}={value}: expected {self.expected} (default {self.default!r})"
            )
        return parsed

    def check(self, value: Any, name: str) -> None:
        """Raises a UserError if a value of the right type is not allowed."""

    def _convert(self, value: Any) -> Any:
        """The value as the field's type, or None."""
        return value if isinstance(value, str) else None


@dataclasses.dataclass(frozen=True)
class Text(Field):
    """Any text."""

    default: str
    doc: str
    is_free: bool = False

    expected: ClassVar[str] = "text"


@dataclasses.dataclass(frozen=True)
class Location(Text):
    """The path of a file or folder; empty means none."""


@dataclasses.dataclass(frozen=True)
class Flag(Field):
    """True or false."""

    default: bool
    doc: str
    is_free: bool = False

    expected: ClassVar[str] = "true or false"

    def _convert(self, value: Any) -> bool | None:
        if isinstance(value, str):
            return {"true": True, "1": True, "false": False, "0": False}.get(value.lower())
        return value if isinstance(value, bool) else None


@dataclasses.dataclass(frozen=True)
class Bounded(Field):
    """A number between two bounds, both allowed."""

    default: Any
    bounds: tuple[float, float]
    doc: str
    is_free: bool = False

    def check(self, value: Any, name: str) -> None:
        low, high = self.bounds
        if not low <= value <= high:  # false for NaN as well
            raise UserError(f"--config.{name}={value}: must be between {low:g} and {high:g}")


@dataclasses.dataclass(frozen=True)
class Whole(Bounded):
    """A whole number between two bounds."""

    expected: ClassVar[str] = "a whole number"

    def _convert(self, value: Any) -> int | None:
        return _to_int(value)


@dataclasses.dataclass(frozen=True)
class Number(Bounded):
    """A number between two bounds."""

    expected: ClassVar[str] = "a number"

    def _convert(self, value: Any) -> float | None:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            return None
        try:
            return float(value)
        except (ValueError, OverflowError):
            return None


@dataclasses.dataclass(frozen=True)
class Choice(Field):
    """One of a few values, all text or all whole numbers.

    Attributes:
      choices: the values, or a function that returns them: names of a registry.
    """

    default: Any
    choices: tuple[Any, ...] | Callable[[], tuple[Any, ...]]
    doc: str
    is_free: bool = False

    @property
    def expected(self) -> str:  # type: ignore[override]
        return "a whole number" if isinstance(self.default, int) else "text"

    @property
    def values(self) -> tuple[Any, ...]:
        """The values that are allowed now."""
        return self.choices() if callable(self.choices) else self.choices

    def check(self, value: Any, name: str) -> None:
        if value not in self.values:
            # "custom" is recorded for what was given in Python; no one can choose it.
            known = [str(choice) for choice in self.values if choice != "custom"]
            close = difflib.get_close_matches(str(value), known, n=1)
            guess = f"; did you mean {close[0]}?" if close else ""
            raise UserError(f"--config.{name}={value}: must be one of {', '.join(known)}{guess}")

    def _convert(self, value: Any) -> Any:
        if isinstance(self.default, int):
            return _to_int(value)
        return value if isinstance(value, str) else None


@dataclasses.dataclass(frozen=True)
class Pattern(Text):
    """A regular expression; empty means none.

    Attributes:
      group: whether it must have a group, whose match is used.
    """

    group: bool = False

    def check(self, value: str, name: str) -> None:
        try:
            expression = re.compile(value)
        except (re.error, RecursionError, OverflowError) as error:
            raise UserError(
                f"--config.{name}={value}: not a regular expression: {error}"
            ) from error
        if self.group and value and not expression.groups:
            kind = name.rpartition(".")[2].removesuffix("_pattern")
            raise UserError(f"--config.{name}={value}: must have a group in brackets, the {kind}")


@dataclasses.dataclass(frozen=True)
class Formed(Text):
    """A text of a certain form.

    Attributes:
      form: regular expression that the whole text must match.
      example: what to write, for the message.
    """

    form: str = ""
    example: str = ""

    def check(self, value: str, name: str) -> None:
        if not re.fullmatch(self.form, value):
            raise UserError(f"--config.{name}={value}: must be {self.example}")


@dataclasses.dataclass(frozen=True)
class Duration(Text):
    """A number of epochs, steps or examples, as text: "5 epochs"."""

    def check(self, value: str, name: str) -> None:
        parse_duration(value, name)


def parse_duration(text: str, name: str) -> tuple[float, str]:
    """``"5 epochs"`` -> ``(5.0, "epochs")``; the unit is epochs, steps or examples.

    Raises:
      UserError: anything else.
    """
    match = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*(epoch|step|example)s?\s*", text)
    try:
        number = float(match[1]) if match else math.nan
    except ValueError:
        number = math.nan
    if not match or not math.isfinite(number):
        raise UserError(
            f"--config.{name}={text}: must read like '5 epochs', '200 steps' or '1e6 examples'"
        )
    return number, match[2] + "s"


def _to_int(value: Any) -> int | None:
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            return None
    return value if isinstance(value, int) and not isinstance(value, bool) else None
