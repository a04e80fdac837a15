"""The table of explanations: a row for each image, run and method."""

import dataclasses
import io
import math
from collections.abc import Sequence

from leukjax.storage import csv_writer

COLUMNS = (
    "path", "run", "method", "layer", "predicted", "target", "p_target", "score",
    "share_in_cell", "cell_area", "baseline_score", "map_sum", "completeness_error",
    "map", "overlay", "error", "steps", "incompleteness", "complete",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Row:
    """One map, or a file that is no image (then only `path` and `error`). docs/explain.md says
    what each column holds."""

    path: str
    run: str = ""
    method: str = ""
    layer: str = ""
    predicted: str = ""
    target: str = ""
    p_target: float = math.nan
    score: float = math.nan
    share_in_cell: float = math.nan
    cell_area: float = math.nan
    baseline_score: float = math.nan
    map_sum: float = math.nan
    completeness_error: float = math.nan
    map: str = ""
    overlay: str = ""
    error: str = ""
    steps: float = math.nan
    incompleteness: float = math.nan
    complete: str = ""


def as_csv(rows: Sequence[Row]) -> bytes:
    """The file's content; what does not apply is empty."""
    text = io.StringIO()
    writer = csv_writer(text)
    writer.writerow(COLUMNS)
    for row in rows:
        values = (getattr(row, name) for name in COLUMNS)
        writer.writerow([_text(value) for value in values])
    return text.getvalue().encode()


def _text(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return "" if math.isnan(value) else f"{value:.6g}"
