"""Features of all images of a data set: computed once, kept in the cache folder."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from absl import logging
from jaxtyping import Float16, Float32

from leukjax import storage
from leukjax.data import cache
from leukjax.data.parallel import map_in_order, progress
from leukjax.data.records import Records, StoredRecords
from leukjax.errors import UserError
from leukjax.predict.member import overlapped
from leukjax.probe.backbone import Backbone
from leukjax.probe.stored_arrays import StoredArrays

FORMAT = 1  # part of every key
# Images per device and dispatch. Always the same: a program for another number may give other bits.
CHUNK = 32

Outputs = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """Features of the records of a data set, in their order.

    Attributes:
      pooled: the input of the classification head.
      tokens: the last feature map, in reading order; None if it was not asked for.
    """

    pooled: Float32[np.ndarray, "n d"]
    tokens: Float16[np.ndarray, "n t e"] | None = None


def compute(
    backbone: Backbone,
    records: Records,
    *,
    tokens: bool = False,
    cache_dir: str = "",
    threads: int = 8,
) -> Features:
    """Returns the features of all records; computes those that the cache does not hold.

    The bits do not depend on the cache, on interruptions and, on CPU, on the number of devices.
    Features of images in memory, and of models whose code is not part of leukjax, are not kept.

    Args:
      backbone: the network.
      records: prepared images.
      tokens: whether the last feature map is wanted too.
      cache_dir: the cache folder; "" = $LEUKJAX_CACHE or the user's cache folder.
      threads: that read records.

    Raises:
      UserError: the model sows no features (or no feature map), or gives no finite ones; or the
        cache folder cannot be written.
    """
    names = ("features", "tokens") if tokens else ("features",)
    if tokens and "tokens" not in backbone.forms:
        raise UserError("--heads: attentive needs a model that sows its feature_map; leave it out")
    count = len(records)
    forms = {
        name: ((count, *shape), dtype)
        for name, (shape, dtype) in backbone.forms.items()
        if name in names
    }
    with _locked(_folder(backbone, records, cache_dir)) as folder:
        store = StoredArrays(folder, forms, CHUNK)
        missing = store.missing()
        left = sum(len(store.rows(chunk)) for chunk in missing)
        if left < count:
            logging.info("features: %d of %d images are in the cache", count - left, count)

        def written() -> Iterator[int]:
            for chunk, outputs in _computed(backbone, records, store, missing, names, threads):
                store.write(chunk, outputs)
                yield from store.rows(chunk)

        for _ in progress(written(), left, "computing features"):
            pass
        arrays = store.arrays()
    return Features(arrays["features"], arrays.get("tokens"))


def _computed(
    backbone: Backbone,
    records: Records,
    store: StoredArrays,
    chunks: Sequence[int],
    names: Sequence[str],
    threads: int,
) -> Iterator[tuple[int, Outputs]]:
    """Yields chunks with their outputs; each device computes one chunk of a dispatch."""
    devices, side = backbone.mesh.shape["data"], backbone.image_size
    # Few threads: each keeps four chunks of images in memory.
    images = map_in_order(records.images, map(store.rows, chunks), min(threads, 2))

    def dispatch(part: Sequence[int]) -> Callable[[], tuple[Sequence[int], Outputs]]:
        batch = np.zeros((devices * CHUNK, side, side, 3), np.uint8)
        for place in range(len(part)):
            pixels = next(images)
            batch[place * CHUNK : place * CHUNK + len(pixels)] = pixels
        outputs = backbone(batch)
        return lambda: (part, {name: np.asarray(outputs[name]) for name in names})

    parts = (chunks[start : start + devices] for start in range(0, len(chunks), devices))
    for part, outputs in overlapped(map(dispatch, parts)):
        for place, chunk in enumerate(part):
            rows = slice(place * CHUNK, place * CHUNK + len(store.rows(chunk)))
            values = {name: array[rows] for name, array in outputs.items()}
            for name, array in values.items():
                if not np.isfinite(array).all():
                    raise UserError(
                        f"--weights: the network gives {name} that are not finite; give other "
                        "weights" + (", or leave out attentive" if name == "tokens" else "")
                    )
            yield chunk, values


def _folder(backbone: Backbone, records: Records, cache_dir: str) -> Path | None:
    """The folder of these features in the cache; None if they are not kept."""
    if not backbone.identity or not isinstance(records, StoredRecords):
        return None
    key = f"{FORMAT}\n{CHUNK}\n{backbone.identity}\n{records.checksum}\n{len(records)}"
    return cache.root(cache_dir) / "features" / hashlib.sha256(key.encode()).hexdigest()[:32]


@contextlib.contextmanager
def _locked(folder: Path | None) -> Iterator[Path | None]:
    """Makes the folder; one process at a time computes."""
    if folder is None:
        yield None
        return
    cache.make_folder(folder)
    waiting = f"another process computes the features in {folder}: waiting for it"
    with storage.lock(folder / ".lock", wait=True, waiting=waiting):
        logging.info("features: in %s", folder)
        yield folder
