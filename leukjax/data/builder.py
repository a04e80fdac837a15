"""The TFDS builder that all data sets share: decode, process, write ArrayRecord; no TensorFlow."""

import contextlib
import hashlib
import logging as standard_logging
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from jaxtyping import UInt8
from ml_collections import ConfigDict

from leukjax.data import cache, image_limits, preprocess
from leukjax.data.dataset import Entry, Source
from leukjax.data.manifest import Manifest
from leukjax.data.manifest_builder import forget, scan
from leukjax.data.parallel import map_in_order
from leukjax.data.progress import progress
from leukjax.errors import UserError

# TFDS keeps a split in memory while it sorts, and above 1 GB it goes on in files, which needs
# TensorFlow. Parts of this many bytes of pixels never get there, and bound the memory besides.
PART_BYTES = 2**28


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Writes the images of a source, processed; TFDS' split "all" is all of them.

    A data set derives from it with a docstring, a CITATION, a VERSION (raised when the meaning of
    its records changes) and ``make_source = staticmethod(source)``. Examples are
    ``{image: uint8[S, S, 3], label: int64, subject, group, id: bytes}``; label -1 = unlabelled.
    Record i is row i of the manifest.

    Attributes:
      checksum: hex SHA-256 of all processed pixels in the order of the records, once prepared.
      sizes: int[n, 2], height and width of the images as they were found, once prepared.
    """

    VERSION = tfds.core.Version("1.0.0")
    CITATION: ClassVar[str] = ""
    # Nothing is downloaded. TFDS would look for a file of checksums beside the module, by way of a
    # package that it does not depend on (importlib_resources).
    url_infos = None

    def __init__(
        self,
        *,
        data: ConfigDict,
        source: Source | None = None,
        manifest: Manifest | None = None,
        **options: Any,
    ) -> None:
        """Makes a builder; ``download_and_prepare()`` writes.

        Args:
          data: the `data` section of a config.
          source: where the images come from; None = what ``make_source(data)`` says.
          manifest: the rows to write, in this order; None = every image that can be read.
          **options: TFDS' own: data_dir, version.
        """
        preprocess.check(data.denoise)
        self._data = data
        self._source = self.make_source(data) if source is None else source
        self._manifest = manifest
        self.checksum = ""
        self.sizes = np.zeros((0, 2), np.int64)
        super().__init__(file_format="array_record", **options)

    @staticmethod
    @abstractmethod
    def make_source(data: ConfigDict) -> Source:
        """The source that a config's `data` section describes."""

    def _info(self) -> tfds.core.DatasetInfo:
        side = self._data.image_size
        features = tfds.features.FeaturesDict(
            {
                # Without this encoding TFDS widens every pixel to an int64.
                "image": tfds.features.Tensor(
                    shape=(side, side, 3), dtype=np.uint8, encoding=tfds.features.Encoding.BYTES
                ),
                "label": tfds.features.ClassLabel(names=list(self._source.classes)),
                "subject": tfds.features.Text(),
                "group": tfds.features.Text(),
                "id": tfds.features.Text(),
            }
        )
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__ or self._source.name,
            citation=self.CITATION,
            features=features,
            supervised_keys=("image", "label"),
            disable_shuffling=True,  # record i is row i of the manifest
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        source, manifest, data = self._source, self._manifest, self._data
        if manifest is None:
            manifest, _ = scan(source, Path(self.data_dir_root), data.threads, data.bad_images)
        rows = range(len(manifest))
        step = max(1, PART_BYTES // (data.image_size**2 * 3))
        parts = [rows[start : start + step] for start in range(0, len(rows), step)]
        # TFDS writes one split after the other, so that all of them can draw from one stream.
        stream = self._process(manifest)
        return {
            f"part_{number:05d}": self._generate_examples(manifest, part, stream)
            for number, part in enumerate(parts)
        }

    def _process(self, manifest: Manifest) -> Iterator[UInt8[np.ndarray, "s s 3"]]:
        data, source = self._data, self._source
        entries = {entry.id: entry for entry in source.entries}
        todo = [entries[name] for name in manifest.id.tolist()]
        scanned = dict(zip(manifest.id.tolist(), manifest.sha256.tolist(), strict=True))

        def load(entry: Entry) -> tuple[np.ndarray, tuple[int, ...]]:
            with image_limits.one_image():
                loaded = source.load(entry)
                if hashlib.sha256(loaded.data).hexdigest() != scanned[entry.id]:
                    raise self._changed(entry)
                image = loaded.image
                size, crop, denoise = data.image_size, data.crop, data.denoise
                processed = preprocess.process(image, size, crop, denoise, source.background)
                return processed, image.shape[:2]

        digest = hashlib.sha256()
        sizes = []
        results = map_in_order(load, todo, data.threads)
        for image, size in progress(results, len(todo), f"preparing {source.name}"):
            digest.update(image.data)
            sizes.append(size)
            yield image
        self.checksum, self.sizes = digest.hexdigest(), np.array(sizes, np.int64)

    def _changed(self, entry: Entry) -> UserError:
        """What to raise for an image that is not the one that was scanned."""
        data = self._data
        forget(self._source, cache.root(data.cache_dir), data.bad_images)
        return UserError(
            f"{entry.path or entry.id}: is not the image that was scanned: the data set was "
            "changed. Start again, and all images are scanned again"
        )

    def _generate_examples(
        self, manifest: Manifest, rows: range, stream: Iterator[np.ndarray]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        # `rows` first: at its end nothing must be taken from the stream, which goes on.
        for row, image in zip(rows, stream, strict=False):
            yield (
                row,
                {
                    "image": image,
                    "label": int(manifest.label[row]),
                    "subject": str(manifest.subject[row]),
                    "group": str(manifest.group[row]),
                    "id": str(manifest.id[row]),
                },
            )
        if rows.stop == len(manifest):
            next(stream, None)  # lets the stream come to its end, where the checksum is taken

    def _log_download_bytes(self) -> None:
        """Says nothing: nothing is downloaded."""

    def _log_download_done(self) -> None:
        """Says nothing: the caller reports."""

    def download_and_prepare(self, **options: Any) -> None:
        """TFDS' own, without its progress bars, its chatter and its look at a cloud bucket."""
        options.setdefault("download_config", tfds.download.DownloadConfig(try_download_gcs=False))
        tfds.disable_progress_bar()
        with quiet():
            super().download_and_prepare(**options)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps TFDS' information lines out of the log; warnings and our own lines stay."""

    def ours(record: standard_logging.LogRecord) -> bool:
        foreign = "tensorflow_datasets" in record.pathname or "array_record" in record.pathname
        return not foreign or record.levelno >= standard_logging.WARNING

    logger = logging.get_absl_logger()
    logger.addFilter(ours)
    try:
        yield
    finally:
        logger.removeFilter(ours)
