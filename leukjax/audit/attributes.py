"""Attributes: whether the source of an image, or another attribute, predicts its class."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from leukjax.audit import shortcuts
from leukjax.audit.shortcuts import Shortcut
from leukjax.data.manifest import Manifest
from leukjax.metrics.subgroups import MAX_ATTRIBUTES, MAX_VALUES, Attributes

SOURCE = "source"
STRONG = 0.3  # Cramér's V from which an attribute is reported as a warning


@dataclasses.dataclass(frozen=True)
class Association:
    """How strongly an attribute and the class go together.

    Attributes:
      attribute: its name.
      values: number of its values.
      images, groups: labelled images that have a value, and their groups.
      cramers_v: see `cramers_v`; None where `reason` says why.
      reason: else "".
    """

    attribute: str
    values: int
    images: int
    groups: int
    cramers_v: float | None
    reason: str = ""


def cramers_v(table: Float[np.ndarray, "r k"]) -> float:
    """Returns Cramér's V of a contingency table, corrected for its bias.

    With n the sum of the table, phi² = chi² / n, phi'² = max(0, phi² - (r - 1)(k - 1) / (n - 1)),
    r' = r - (r - 1)² / (n - 1) and k' from k in the same way, it is
    sqrt(phi'² / min(r' - 1, k' - 1)): 0 for independence, 1 for a class that the value determines
    (Bergsma 2013, Journal of the Korean Statistical Society 42:323).

    Args:
      table: counts or weights; no row and no column is empty.

    Raises:
      ValueError: fewer than two rows or columns, or a sum of 2 or less.
    """
    n, (r, k) = table.sum(), table.shape
    if min(r, k) < 2 or n <= 2:
        raise ValueError("needs two rows, two columns and a sum above 2")
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / n
    phi2 = ((table - expected) ** 2 / expected).sum() / n
    corrected = max(0.0, phi2 - (r - 1) * (k - 1) / (n - 1))
    sides = [size - (size - 1) ** 2 / (n - 1) - 1 for size in (r, k)]
    return float(min(1.0, np.sqrt(corrected / min(sides)))) if min(sides) > 0 else 0.0


def associations(manifest: Manifest, attributes: Attributes) -> list[Association]:
    """Returns the association of each attribute with the class.

    Images of a group are not independent: each group counts once, spread evenly over its images.

    Args:
      manifest: the images.
      attributes: column -> id -> value; images without a value are left out.
    """
    results = []
    for name, value_of in list(attributes.items())[:MAX_ATTRIBUTES]:
        rows, values = _stated(manifest, value_of)
        names, codes = np.unique(values, return_inverse=True)
        labels, groups = manifest.label[rows], manifest.group[rows]
        classes, label_codes = np.unique(labels, return_inverse=True)
        members, member, size = np.unique(groups, return_inverse=True, return_counts=True)
        facts = (name, len(names), len(rows), len(members))
        if len(names) > MAX_VALUES or min(len(names), len(classes)) < 2 or len(members) <= 2:
            reason = f"above {MAX_VALUES} values" if len(names) > MAX_VALUES else (
                "needs two values, two classes and three groups"
            )  # fmt: skip
            results.append(Association(*facts, None, reason))
            continue
        table = np.zeros((len(names), len(classes)))
        np.add.at(table, (codes, label_codes), 1 / size[member])
        results.append(Association(*facts, cramers_v(table)))
    return results


def source_shortcuts(
    measured: Mapping[str, Float[np.ndarray, "n k"]], manifest: Manifest, attributes: Attributes
) -> list[Shortcut]:
    """Returns how well each measure of the pixels tells the source of an image.

    Args:
      measured: result of `shortcuts.measures`, in the order of the manifest.
      manifest: the images.
      attributes: those of the data; without a source of two values or more the result is empty.
    """
    rows, values = _stated(manifest, attributes.get(SOURCE, {}), labelled=False)
    names, codes = np.unique(values, return_inverse=True)
    if not 2 <= len(names) <= MAX_VALUES:
        return []
    return shortcuts.shortcuts(
        {name: numbers[rows] for name, numbers in measured.items()},
        codes.astype(np.int32),
        manifest.group[rows],
        tuple(names.tolist()),
        str(names[1]) if len(names) == 2 else "",
    )


def _stated(
    manifest: Manifest, value_of: Mapping[str, str], *, labelled: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the manifest that have a value (and a label), and their values."""
    values = np.array([value_of.get(i, "") for i in manifest.id.tolist()], dtype=np.str_)
    keep = values != ""
    if labelled:
        keep &= manifest.label >= 0
    rows = np.flatnonzero(keep)
    return rows, values[rows]
