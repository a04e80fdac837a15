"""From a stream of image files to a stream of predictions: decoded in threads, in batches."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Float

from leukjax.data import image_limits
from leukjax.data.decode import decode
from leukjax.data.image_stream import Item
from leukjax.data.parallel import map_in_order
from leukjax.errors import UserError
from leukjax.metrics.predictions import mean
from leukjax.predict.member import Outputs, overlapped
from leukjax.predict.out_of_distribution import FeatureDistance
from leukjax.predict.predictor import NOT_FINITE, Predictor, Prepared

# A batch is closed after this many items per slot, however many of them were bad.
_MAX_ITEMS_PER_SLOT = 4


@dataclasses.dataclass(frozen=True)
class Row:
    """The prediction of one image file.

    Attributes:
      path: as in `Item`.
      probabilities: mean over the members; None where there is an error.
      unlikeness: out-of-distribution score, mean over the members (`FeatureDistance.score`); None
        where it is not computed.
      conversions: what had to be converted ("CMYK", "EXIF rotation", …).
      error: why there is no prediction, in one line; else "".
    """

    path: str
    probabilities: Float[np.ndarray, " c"] | None = None
    unlikeness: float | None = None
    conversions: tuple[str, ...] = ()
    error: str = ""


# The row of an item so far, and its prepared images; None where the file is bad.
Loaded = tuple[Row, Prepared | None]


def stream(
    predictor: Predictor,
    items: Iterable[Item],
    *,
    threads: int = 8,
    distances: Sequence[FeatureDistance] = (),
) -> Iterator[Row]:
    """Yields a row for each item, in the items' order; a bad file gives a row with its error.

    Memory is bounded: two batches on the devices, one that fills, and four images per thread.

    Args:
      predictor: the runs.
      items: the files.
      threads: threads that read, decode and prepare.
      distances: one for each member, or none.
    """
    loaded = map_in_order(lambda item: _load(predictor, item), items, threads)
    batches = _batches(loaded, predictor.batch_size)
    for rows in overlapped(_submit(predictor, batch, distances) for batch in batches):
        yield from rows


def _load(predictor: Predictor, item: Item) -> Loaded:
    with image_limits.one_image():
        try:
            image, conversions = decode(item.read(), item.path)
        except UserError as error:
            return Row(item.path, error=" ".join(str(error).split())), None
        return Row(item.path, conversions=conversions), predictor.prepare(image)


def _batches(loaded: Iterable[Loaded], size: int) -> Iterator[list[Loaded]]:
    """Splits items into lists that hold up to `size` good ones."""
    batch: list[Loaded] = []
    good = 0
    for item in loaded:
        batch.append(item)
        good += item[1] is not None
        if good == size or len(batch) == _MAX_ITEMS_PER_SLOT * size:
            yield batch
            batch, good = [], 0
    if batch:
        yield batch


def _submit(
    predictor: Predictor, batch: list[Loaded], distances: Sequence[FeatureDistance]
) -> Callable[[], list[Row]]:
    prepared = [images for _, images in batch if images is not None]
    if not prepared:
        return lambda: [row for row, _ in batch]
    columns = [np.stack(column) for column in zip(*prepared, strict=True)]
    wait = predictor.submit(columns)

    def finish() -> list[Row]:
        outputs = wait()
        results = iter(_results(outputs, distances))
        return [row if images is None else _filled(row, *next(results)) for row, images in batch]

    return finish


def _results(
    outputs: Sequence[Outputs], distances: Sequence[FeatureDistance]
) -> Iterator[tuple[np.ndarray, float | None]]:
    """Probabilities and out-of-distribution score of each image, means over the members."""
    probabilities = mean([output.probabilities for output in outputs])
    if not distances:
        yield from ((row, None) for row in probabilities)
        return
    scores = [d.score(output.features) for d, output in zip(distances, outputs, strict=True)]
    for row, value in zip(probabilities, np.stack(scores).mean(axis=0), strict=True):
        yield row, float(value)


def _filled(row: Row, probabilities: np.ndarray, unlikeness: float | None = None) -> Row:
    """The row with its prediction; one that is not finite is an error."""
    if not np.isfinite(probabilities).all():
        return dataclasses.replace(row, error=f"{row.path}: {NOT_FINITE}")
    if unlikeness is not None and not np.isfinite(unlikeness):
        return dataclasses.replace(row, error=f"{row.path}: the features are not finite")
    return dataclasses.replace(row, probabilities=probabilities, unlikeness=unlikeness)
