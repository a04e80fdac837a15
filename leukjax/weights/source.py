"""Files of published weights, and what is known about them."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from leukjax.errors import UserError
from leukjax.weights import layouts, names, read
from leukjax.weights.axes import Axes

METADATA = "leukjax"  # key of our own JSON in a safetensors file


@dataclasses.dataclass(frozen=True)
class Source:
    """Weights, and what is known about them."""

    title: str
    tensors: read.Tensors
    names: Callable[[names.Path], tuple[str, ...]]
    axes: Axes
    model: Mapping[str, Any]  # fields of config.model that they need
    mean: list[float]
    std: list[float]
    classes: list[str] | None  # None if unknown
    sha256: str
    positions: str = "bilinear"  # how position embeddings are resized


def of_file(path: Path) -> Source:
    """Returns the weights of a file, in any layout that leukjax knows.

    Raises:
      UserError: it is damaged, or has another layout.
    """
    tensors = read.open_file(path)
    layout = layouts.recognize(str(path), tensors.shapes)
    mean, std = (list(values) for values in layout.statistics)
    classes = None
    if METADATA in tensors.metadata:  # written by leukjax
        mean, std, classes = _described(path, tensors.metadata[METADATA])
    return Source(
        title=layout.title,
        tensors=layout.prepare(tensors),
        names=layout.names,
        axes=layout.axes,
        model=layouts.model_of(layout, tensors.shapes),
        mean=mean,
        std=std,
        classes=classes,
        sha256=read.checksum(path),
        positions=layout.positions,
    )


def _described(path: Path, text: str) -> tuple[list[float], list[float], list[str]]:
    """Mean, standard deviation and classes from the JSON in a file that leukjax wrote."""
    try:
        content = json.loads(text)
        mean, std, classes = (content[name] for name in ("mean", "std", "classes"))
        mean, std = ([float(value) for value in values] for values in (mean, std))
        good = len(mean) == len(std) == 3 and all(map(math.isfinite, mean + std)) and min(std) > 0
        if not good or not all(isinstance(name, str) for name in classes):
            raise ValueError
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
        raise UserError(
            f"init.weights: {path}: its description of mean, std and classes is damaged"
        ) from error
    return mean, std, list(classes)
