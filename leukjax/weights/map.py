"""Each tensor of a file finds its one place in a model, or is an error."""

import collections
import dataclasses
import io
import math
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from leukjax.errors import UserError
from leukjax.models.hybrid_vit import resize_position_embeddings
from leukjax.storage import csv_writer
from leukjax.weights.axes import Axes, Shape
from leukjax.weights.names import Path
from leukjax.weights.read import Tensors

HEADS = ("fc", "head")  # of the model families
_INPUTS = (("params", "conv1", "kernel"), ("params", "stem_conv", "kernel"))
# Counters of PyTorch's BatchNorm, which nothing reads, and the layer before the head that
# google-research's pre-training has and its fine-tuning drops.
COUNTER = "a counter"
_NO_PARAMETER = re.compile(r"num_batches_tracked$")
_WITH_THE_HEAD = re.compile(r"^pre_logits/")


class Row(NamedTuple):
    """What became of one variable of the model, or of one tensor that none takes."""

    variable: str  # params/conv1/kernel, or "" for a tensor that is not used
    tensor: str  # its name in the file, or "" for a variable that stays as initialised
    shape: Shape  # ours, () where there is none
    tensor_shape: Shape
    status: str  # loaded | resized | adapted | new | unused
    note: str


@dataclasses.dataclass(frozen=True)
class Mapped:
    """Values for a model's variables, and the table of what came from where."""

    values: dict[Path, np.ndarray]  # float32; a variable that is absent stays as initialised
    rows: list[Row]

    def counts(self) -> dict[str, int]:
        """Number of rows of each status."""
        return dict(collections.Counter(row.status for row in self.rows))

    def csv(self) -> str:
        """The table: ``variable,tensor,shape,tensor_shape,status,note``."""
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
) -> Mapped:
    """Find the tensors of every variable, and convert them.

    Args:
      ours: shapes of the model's variables by path, collection first.
      tensors: the file.
      names: path -> names of tensors, as a layout has it.
      axes: likewise.
      new_head: initialise the head anew whatever the file holds; one for another number of classes
        is replaced anyway.
      allow: regular expression over names of variables and tensors that may be left out; "" = none.

    Raises:
      UserError: a variable without a tensor, a tensor without a variable, or another shape, that
        `allow` does not name; or a damaged tensor.
    """

    def shape_of(path: Path) -> Shape | None:
        """Of their tensors in our order of axes; None where one is missing."""
        if not all(name in tensors.shapes for name in names(path)):
            return None
        return axes.shape([tensors.shapes[name] for name in names(path)], ours[path])

    # Kernel and bias of the head go together: both are looked at before either is taken.
    new_head = new_head or any(
        shape_of(path) != shape for path, shape in ours.items() if path[1] in HEADS
    )
    expression = re.compile(allow)

    def allowed(name: str) -> bool:
        return bool(allow and expression.search(name))

    values: dict[Path, np.ndarray] = {}
    rows, wrong = [], []
    for path, shape in ours.items():
        variable, label = "/".join(path), " + ".join(names(path))
        there = [tensors.shapes[name] for name in names(path) if name in tensors.shapes]
        held = there[0] if there else ()
        found = shape_of(path)
        how, note = _fit(path, found, shape)
        if path[1] in HEADS and new_head:
            how, note = "new", "the head" if there else "the head is not in the file"
        elif found is not None and how:
            parts = [tensors.read(name) for name in names(path)]
            values[path] = _change(axes.convert(parts, found), shape, how)
            if path[-1] == "var" and values[path].min() < 0:
                raise UserError(f"init.weights: {tensors.where}: {label} holds a variance below 0")
        elif allowed(variable):
            how, note = "new", "allowed: of another shape" if there else "allowed: not in the file"
        elif there:
            wrong.append(f"{label} is {_text(held)}, {variable} wants {_text(shape)}")
        else:
            wrong.append(f"{label} is missing, {variable} wants it")
        rows.append(Row(variable, label if there else "", shape, held, how, note))

    taken = {name for path in ours for name in names(path)}
    for name, shape in tensors.shapes.items():
        if name in taken:
            continue
        note = _why_unused(name, new_head) or ("allowed" if allowed(name) else "")
        if not note:
            wrong.append(f"{name} ({_text(shape)}) has no place in the model")
        rows.append(Row("", name, (), shape, "unused", note))
    if wrong:
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(
            f"init.weights: {tensors.where} does not fit the model: {'; '.join(wrong[:3])}{more}; "
            "mend --config.model.…, or name in --config.init.allow (a regular expression) what may "
            "be left out"
        )
    return Mapped(values, rows)


def _why_unused(name: str, new_head: bool) -> str:
    """Why a tensor need not have a place; "" if it should have one."""
    if _NO_PARAMETER.search(name):
        return COUNTER
    return "goes with the head" if new_head and _WITH_THE_HEAD.search(name) else ""


def _fit(path: Path, found: Shape | None, ours: Shape) -> tuple[str, str]:
    """How a tensor comes into ours, and a note; ("", "") if it does not."""
    if found is None:
        return "", ""
    if found == ours:
        return "loaded", ""
    if path[-1] == "pos_embed" and len(found) == 3 and (found[0], found[2]) == (1, ours[2]):
        old, new = _side(found), _side(ours)
        if old and new:
            return "resized", f"{old} x {old} places -> {new} x {new}, bilinear"
    if path in _INPUTS and found[2:3] in ((1,), (4,)) and _but_inputs(found) == _but_inputs(ours):
        how = "spread over" if found[2] == 1 else "the first"
        return "adapted", f"{found[2]} input channels: {how} 3"
    return "", ""


def _but_inputs(shape: Shape) -> Shape:
    return (*shape[:2], *shape[3:])


def _side(shape: Shape) -> int | None:
    """Of the square grid of these position embeddings; None where there is none."""
    side = math.isqrt(max(0, shape[1] - 1))
    return side if side and side * side == shape[1] - 1 else None


def _change(value: np.ndarray, shape: Shape, how: str) -> np.ndarray:
    if how == "resized":
        side = _side(shape)
        assert side is not None  # _fit asked
        value = np.asarray(resize_position_embeddings(jnp.asarray(value), (side, side)))
    elif how == "adapted":
        value = adapt_input(value, shape[2])
    return np.ascontiguousarray(value)


def adapt_input(kernel: np.ndarray, channels: int) -> np.ndarray:
    """An input convolution [h, w, c, o] of one channel or four for images of ``channels`` (3).

    One is spread evenly, so that a grey image gives what it gave; of four (RGB and one more) the
    last is left out.
    """
    if kernel.shape[2] == 1:
        return np.repeat(kernel, channels, 2) / np.float32(channels)
    return kernel[:, :, :channels]


def _text(shape: Shape) -> str:
    return " x ".join(map(str, shape)) or "a number"
