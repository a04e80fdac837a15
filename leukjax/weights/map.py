"""Maps the tensors of a file to the variables of a model: each tensor to one variable."""

import collections
import dataclasses
import io
import re
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from leukjax.errors import UserError
from leukjax.models.summary import layer_groups
from leukjax.models.tokens import position_grid, resize_position_embeddings
from leukjax.storage import csv_writer
from leukjax.weights.axes import Axes, Shape
from leukjax.weights.names import Path
from leukjax.weights.read import Tensors

_MAX_NAME = 1_000  # characters of a name that init.allow may match
_INPUTS = tuple(("params", name, "kernel") for name in ("conv1", "stem_conv", "embedding"))
COUNTER = "a counter"  # note on the counters of PyTorch's BatchNorm, which nothing reads
_COUNTER = re.compile(r"num_batches_tracked$")
# The layer before the head that google-research's pre-training has and its fine-tuning drops.
_WITH_THE_HEAD = re.compile(r"^pre_logits/")
# DINOv2's training puts it in place of hidden patches.
_TRAINING_ONLY = "mask_token"


class Row(NamedTuple):
    """What became of one variable of the model, or of one tensor that is not used."""

    variable: str  # params/conv1/kernel, or "" for a tensor that is not used
    tensor: str  # its name in the file, or "" for a variable that keeps its initial value
    shape: Shape  # of the variable; () if there is none
    tensor_shape: Shape
    status: str  # loaded | resized | adapted | new | unused
    note: str


@dataclasses.dataclass(frozen=True)
class Mapped:
    """Values for a model's variables, and a table of their origins."""

    values: dict[Path, np.ndarray]  # float32; a variable that is absent keeps its initial value
    rows: list[Row]

    def counts(self) -> dict[str, int]:
        """Returns the number of rows of each status."""
        return dict(collections.Counter(row.status for row in self.rows))

    def csv(self) -> str:
        """Returns the table: ``variable,tensor,shape,tensor_shape,status,note``."""
        text = io.StringIO()
        writer = csv_writer(text)
        writer.writerow(Row._fields)
        for row in self.rows:
            shapes = ("x".join(map(str, shape)) for shape in (row.shape, row.tensor_shape))
            writer.writerow([row.variable, row.tensor, *shapes, row.status, row.note])
        return text.getvalue()


def match(
    ours: Mapping[Path, Shape],
    tensors: Tensors,
    names: Callable[[Path], tuple[str, ...]],
    axes: Axes,
    *,
    new_head: bool,
    allow: str,
    positions: str = "bilinear",
) -> Mapped:
    """Finds the tensors of every variable and converts them.

    Args:
      ours: shapes of the model's variables by path, collection first.
      tensors: of the file.
      names: takes a path, returns names of tensors (`layouts.Layout.names`).
      axes: their order of axes.
      new_head: do not load the head. A head for another number of classes is never loaded.
      allow: regular expression for variables and tensors that may be left out; "" is none.
      positions: how position embeddings are resized (`resize_position_embeddings`).

    Raises:
      UserError: a variable without a tensor, a tensor without a variable, or a wrong shape, unless
        `allow` matches it; or a damaged tensor.
    """

    def allowed(name: str) -> bool:
        # Real names are short; the time of a search may grow with the square of the length.
        return bool(allow and len(name) <= _MAX_NAME and re.search(allow, name))

    shapes = {path: _shape_in_file(names(path), shape, tensors, axes)
              for path, shape in ours.items()}  # fmt: skip
    head = _head(ours)
    # Kernel and bias of the head are loaded both or not at all.
    new_head = new_head or any(shapes[path] != ours[path] for path in head)

    values: dict[Path, np.ndarray] = {}
    rows, errors = [], []
    for path, shape in ours.items():
        variable, label = "/".join(path), " + ".join(names(path))
        present = [tensors.shapes[name] for name in names(path) if name in tensors.shapes]
        file_shape = shapes[path]
        status, note = _fit(path, file_shape, shape, positions)
        if path in head and new_head:
            status, note = "new", "the head" if present else "the head is not in the file"
        elif file_shape is not None and status:
            parts = [tensors.read(name) for name in names(path)]
            value = axes.convert(parts, file_shape)
            values[path] = _change(value, shape, status, positions)
            if path[-1] == "var" and values[path].min() < 0:
                raise UserError(f"init.weights: {tensors.where}: {label} has a variance below 0")
        elif allowed(variable):
            status = "new"
            note = "allowed: of another shape" if present else "allowed: not in the file"
        elif present:
            errors.append(f"{label} is {_text(present[0])} and {variable} is {_text(shape)}")
        else:
            errors.append(f"{label} is missing (for {variable})")
        tensor_shape = present[0] if present else ()
        rows.append(Row(variable, label if present else "", shape, tensor_shape, status, note))

    used = {name for path in ours for name in names(path)}
    for name, shape in tensors.shapes.items():
        if name not in used:
            note = _why_unused(name, new_head) or ("allowed" if allowed(name) else "")
            if not note:
                errors.append(f"{name} ({_text(shape)}) belongs to no variable of the model")
            rows.append(Row("", name, (), shape, "unused", note))
    if errors:
        more = f"; and {len(errors) - 3} more" if len(errors) > 3 else ""
        raise UserError(
            f"init.weights: {tensors.where} does not fit the model: {'; '.join(errors[:3])}{more}; "
            "change --config.model.…, or give --config.init.allow, a regular expression for what "
            "may be left out"
        )
    return Mapped(values, rows)


def _shape_in_file(
    names: tuple[str, ...], shape: Shape, tensors: Tensors, axes: Axes
) -> Shape | None:
    """Shape of a variable's tensors in our order of axes; None if one is missing."""
    if not all(name in tensors.shapes for name in names):
        return None
    return axes.shape([tensors.shapes[name] for name in names], shape)


def _head(paths: Collection[Path]) -> set[Path]:
    """Paths of the parameters of the classification head."""
    params = {"/".join(path[1:]): path for path in paths if path[0] == "params"}
    groups = layer_groups(params)
    last = max(groups.values(), default=0)
    return {path for name, path in params.items() if groups[name] == last}


def _why_unused(name: str, new_head: bool) -> str:
    """Why a tensor needs no variable; "" if it needs one."""
    if _COUNTER.search(name):
        return COUNTER
    if name == _TRAINING_ONLY:
        return "of the pre-training"
    return "goes with the head" if new_head and _WITH_THE_HEAD.search(name) else ""


def _fit(path: Path, shape: Shape | None, ours: Shape, positions: str) -> tuple[str, str]:
    """Status and note of a variable whose tensors have a shape; ("", "") if they do not fit."""
    if shape is None:
        return "", ""
    if shape == ours:
        return "loaded", ""
    if path[-1] == "pos_embed" and len(shape) == 3 and (shape[0], shape[2]) == (1, ours[2]):
        (first, old), (own_first, new) = position_grid(shape[1]), position_grid(ours[1])
        if old and new and first == own_first:
            return "resized", f"{old} x {old} tokens -> {new} x {new}, {positions}"
    without_inputs = (*shape[:2], *shape[3:]) == (*ours[:2], *ours[3:])
    if path in _INPUTS and shape[2:3] in ((1,), (4,)) and without_inputs:
        how = "spread over" if shape[2] == 1 else "the first"
        return "adapted", f"{shape[2]} input channels: {how} 3"
    return "", ""


def _change(value: np.ndarray, shape: Shape, status: str, positions: str) -> np.ndarray:
    if status == "resized":
        _, side = position_grid(shape[1])
        resized = resize_position_embeddings(jnp.asarray(value), (side, side), positions)
        value = np.asarray(resized)
    elif status == "adapted":
        value = adapt_input(value, shape[2])
    return np.ascontiguousarray(value)


def adapt_input(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Adapts an input convolution [h, w, c, o] of 1 or 4 channels to images of ``channels`` (3).

    One channel is spread evenly, so that the response to a grey image stays the same; of four (RGB
    and one more) the last is dropped.
    """
    if kernel.shape[2] == 1:
        return np.repeat(kernel, channels, 2) / np.float32(channels)
    return kernel[:, :, :channels]


def _text(shape: Shape) -> str:
    return " x ".join(map(str, shape)) or "a number"
