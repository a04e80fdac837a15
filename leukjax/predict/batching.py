"""From a stream of image files to a stream of rows: decoded in threads, answered in batches."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Float, UInt8

from leukjax.data import image_limits
from leukjax.data.decode import decode
from leukjax.data.image_stream import Item
from leukjax.data.parallel import map_in_order
from leukjax.errors import UserError
from leukjax.metrics.predictions import mean
from leukjax.predict.out_of_distribution import Unlikeness
from leukjax.predict.predictor import NOT_FINITE, Answers, Model

# A batch is closed after so many items for each of its places, however many of them were bad.
_PATIENCE = 4


@dataclasses.dataclass(frozen=True)
class Row:
    """What is known of one image.

    Attributes:
      path: as in `Item`.
      probabilities: mean over the models; None where there is an error.
      unlikeness: mean over the models (`Unlikeness.of`); None where it was not asked for.
      conversions: what had to be converted ("CMYK", "EXIF rotation", …).
      error: why there is no answer, in one line; "" where there is one.
    """

    path: str
    probabilities: Float[np.ndarray, " c"] | None = None
    unlikeness: float | None = None
    conversions: tuple[str, ...] = ()
    error: str = ""


@dataclasses.dataclass(frozen=True)
class _Loaded:
    row: Row
    pixels: tuple[UInt8[np.ndarray, "s s 3"], ...]  # one for each model; none where bad


def rows(
    models: Sequence[Model],
    items: Iterable[Item],
    *,
    threads: int,
    unlikeness: Sequence[Unlikeness] = (),
) -> Iterator[Row]:
    """A row for each item, in the items' order.

    What is read ahead is bounded: two batches on the devices, one that fills, and four images a
    thread. A file that is bad gives a row that says why.

    Args:
      models: of equal classes; of several, the mean probability is given.
      items: the files.
      threads: that read, decode and prepare.
      unlikeness: one for each model, or none.
    """
    size = min(model.batch_size for model in models)
    waiting: Callable[[], list[Row]] | None = None
    for part in _parts(map_in_order(lambda item: _load(models, item), items, threads), size):
        following = _submit(models, part, unlikeness)
        if waiting is not None:  # read only now that the next batch is under way
            yield from waiting()
        waiting = following
    if waiting is not None:
        yield from waiting()


def _load(models: Sequence[Model], item: Item) -> _Loaded:
    with image_limits.one_image():
        return _prepared(models, item)


def _prepared(models: Sequence[Model], item: Item) -> _Loaded:
    try:
        image, conversions = decode(item.read(), item.path)
    except UserError as error:
        return _Loaded(Row(item.path, error=" ".join(str(error).split())), ())
    # Members of an ensemble mostly see the same pixels: they are prepared once.
    ready: dict[tuple, np.ndarray] = {}
    for model in models:
        if model.recipe not in ready:
            ready[model.recipe] = model.preprocess(image)
    row = Row(item.path, conversions=conversions)
    return _Loaded(row, tuple(ready[model.recipe] for model in models))


def _parts(loaded: Iterable[_Loaded], size: int) -> Iterator[list[_Loaded]]:
    """Runs of items that hold up to `size` good ones."""
    part: list[_Loaded] = []
    good = 0
    for one in loaded:
        part.append(one)
        good += bool(one.pixels)
        if good == size or len(part) == _PATIENCE * size:
            yield part
            part, good = [], 0
    if part:
        yield part


def _submit(
    models: Sequence[Model], part: list[_Loaded], unlikeness: Sequence[Unlikeness]
) -> Callable[[], list[Row]]:
    good = [one.pixels for one in part if one.pixels]
    if not good:
        return lambda: [one.row for one in part]
    pending = [
        model.submit(np.stack(pixels))
        for model, pixels in zip(models, zip(*good, strict=True), strict=True)
    ]

    def finish() -> list[Row]:
        answers = _mean([result() for result in pending], unlikeness)
        return [_answered(one.row, **next(answers)) if one.pixels else one.row for one in part]

    return finish


def _answered(row: Row, probabilities: np.ndarray, unlikeness: float | None = None) -> Row:
    """The row with its answer; an answer that is not finite is an error."""
    if not np.isfinite(probabilities).all():
        return dataclasses.replace(row, error=f"{row.path}: {NOT_FINITE}")
    if unlikeness is not None and not np.isfinite(unlikeness):
        return dataclasses.replace(row, error=f"{row.path}: the features are not finite")
    return dataclasses.replace(row, probabilities=probabilities, unlikeness=unlikeness)


def _mean(each: list[Answers], unlikeness: Sequence[Unlikeness]) -> Iterator[dict]:
    """The fields of `Row` that the models fill, one image after the other."""
    probabilities = mean([one.probabilities for one in each])
    if not unlikeness:
        for row in probabilities:
            yield {"probabilities": row}
        return
    measured = [like.of(one.features) for like, one in zip(unlikeness, each, strict=True)]
    for row, value in zip(probabilities, np.stack(measured).mean(axis=0), strict=True):
        yield {"probabilities": row, "unlikeness": float(value)}
