"""Writes prepared images as ArrayRecord files, by TFDS and without TensorFlow."""

import contextlib
import hashlib
import logging as standard_logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from leukjax.data import record_files
from leukjax.data.manifest import Manifest
from leukjax.data.manifest_builder import preprocessed
from leukjax.data.preprocess import Preprocessing
from leukjax.data.source import Source

# TFDS keeps a split in memory while it sorts it; above 1 GB it sorts in files, which needs
# TensorFlow. Parts of this many bytes of pixels stay below, and bound the memory.
PART_BYTES = 2**28


class Records(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Preprocessed images. Record i is row i of the manifest.

    Examples are ``{image: uint8[S, S, 3], label: int64, subject, group, id: bytes}``; label -1 =
    unlabelled.

    Attributes:
      checksum: hex SHA-256 of all pixels in the order of the records, after preparation.
      sizes: int[n, 2], original height and width of the images, after preparation.
    """

    VERSION = tfds.core.Version("1.0.0")
    # Nothing is downloaded. TFDS would look for a file of checksums beside the module, through a
    # package that it does not depend on (importlib_resources).
    url_infos = None

    def __init__(
        self,
        source: Source,
        manifest: Manifest,
        preprocessing: Preprocessing,
        threads: int,
        data_dir: Path,
    ) -> None:
        """Sets up the builder; ``download_and_prepare()`` writes below `data_dir`."""
        self._source, self._manifest = source, manifest
        self._preprocessing, self._threads = preprocessing, threads
        self.checksum = ""
        self.sizes = np.zeros((0, 2), np.int64)
        super().__init__(file_format="array_record", data_dir=data_dir)

    def _info(self) -> tfds.core.DatasetInfo:
        side = self._preprocessing.image_size
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
            description=type(self._source).__doc__ or self._source.name,
            citation=self._source.citation,
            features=features,
            supervised_keys=("image", "label"),
            disable_shuffling=True,  # record i is row i of the manifest
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        rows = range(len(self._manifest))
        step = max(1, PART_BYTES // (self._preprocessing.image_size**2 * 3))
        parts = [rows[start : start + step] for start in range(0, len(rows), step)]
        # TFDS writes one split after the other, so they can share one stream of images.
        stream = self._stream()
        return {
            f"part_{number:05d}": self._generate_examples(part, stream)
            for number, part in enumerate(parts)
        }

    def _stream(self) -> Iterator[np.ndarray]:
        digest = hashlib.sha256()
        sizes = []
        for image, size in preprocessed(
            self._source, self._manifest, self._preprocessing, self._threads
        ):
            digest.update(image.data)
            sizes.append(size)
            yield image
        self.checksum, self.sizes = digest.hexdigest(), np.array(sizes, np.int64)

    def _generate_examples(
        self, rows: range, stream: Iterator[np.ndarray]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        manifest = self._manifest
        # `rows` first: once it ends, nothing may be taken from the stream, which continues.
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
            next(stream, None)  # runs the stream to its end, where the checksum is computed

    def _log_download_bytes(self) -> None:
        """Logs nothing: nothing is downloaded."""

    def _log_download_done(self) -> None:
        """Logs nothing: the caller reports."""

    def download_and_prepare(self, **options: Any) -> None:
        """Runs TFDS' own, without its progress bars, its log and its look at a cloud bucket."""
        options.setdefault("download_config", tfds.download.DownloadConfig(try_download_gcs=False))
        tfds.disable_progress_bar()
        with _quiet():
            super().download_and_prepare(**options)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps TFDS' information out of the log; warnings and our own lines stay."""

    def keep(record: standard_logging.LogRecord) -> bool:
        foreign = "tensorflow_datasets" in record.pathname or "array_record" in record.pathname
        return not foreign or record.levelno >= standard_logging.WARNING

    logger = logging.get_absl_logger()
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


def write(
    folder: Path, source: Source, manifest: Manifest, preprocessing: Preprocessing, threads: int
) -> None:
    """Writes the images of a manifest, preprocessed, and the index of the folder."""
    builder = Records(source, manifest, preprocessing, threads, folder)
    builder.download_and_prepare()
    shutil.rmtree(folder / "downloads", ignore_errors=True)  # TFDS creates it, empty
    facts = {
        "checksum": builder.checksum,
        "image_size": preprocessing.image_size,
        "preprocessing": preprocessing.describe(builder.sizes),
        "tfds": str(Path(builder.data_dir).relative_to(folder)),
    }
    record_files.write_index(folder, facts)
