"""Records of noise in any number, written without TFDS' preparation, which takes hours for 1M.

They are read by the package's own `StoredRecords.images`, from files of the same format.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from jax.sharding import Mesh
from tensorflow_datasets.proto import tf_example_pb2

from leukjax.data import image_store
from leukjax.data.loader import Batches
from leukjax.data.manifest import Manifest
from leukjax.data.record_files import RecordFiles
from leukjax.data.records import StoredRecords
from leukjax.training import data_placement
from leukjax.training.prefetch import DevicePrefetcher

PER_SUBJECT = 50  # images


class Synthetic(StoredRecords):
    """`count` images of `size` pixels per side under `folder`, written at the first use."""

    def __init__(self, folder: str, count: int, size: int):
        self.folder = Path(folder) / f"{count}-{size}"
        self.image_size = size
        self._file = self.folder / "images.array_record"
        index = self.folder / "index.json"
        if not index.exists():
            index.write_text(json.dumps({"checksum": self._write(count)}))
        self.checksum = json.loads(index.read_text())["checksum"]
        self.manifest = _manifest(count)
        self.classes, self.background = self.manifest.classes, "black"
        self._open()

    def _open(self) -> None:
        self._files = RecordFiles([self._file], [len(self.manifest)])

    def _write(self, count: int) -> str:
        self.folder.mkdir(parents=True, exist_ok=True)
        random, digest = np.random.default_rng(0), hashlib.sha256()
        writer = ArrayRecordWriter(str(self._file), "group_size:1")
        for row in range(count):
            image = random.bytes(self.image_size**2 * 3)
            digest.update(image)
            example = tf_example_pb2.Example()
            example.features.feature["id"].bytes_list.value.append(b"%07d" % row)
            example.features.feature["image"].bytes_list.value.append(image)
            writer.write(example.SerializeToString())
        writer.close()
        return digest.hexdigest()

    def prefetch(
        self, mesh: Mesh, rows: np.ndarray, batch: int, mode: str
    ) -> tuple[DevicePrefetcher, Any]:
        """Returns endless training batches from a data cache, and the sharding of its images.

        Args:
          mesh: of the batches.
          rows: of the records.
          batch: images per batch.
          mode: as ``data.cache``: none, host or device.
        """
        images = None
        if mode == "device":
            images = data_placement.put_on_devices(self, mesh, sharded=False)
        source = image_store.decode(self) if mode == "host" else self
        batches = Batches(source, rows, batch, training=True)
        prefetcher = DevicePrefetcher(batches, mesh, 0, 10**9, device_images=images)
        return prefetcher, None if images is None else images.sharding


def _manifest(count: int) -> Manifest:
    rows = np.arange(count)
    names = np.char.mod("%07d", rows)
    subjects = np.char.mod("s%05d", rows // PER_SUBJECT)
    digests = np.char.mod("%064d", rows)  # as long as real ones, for the size of the manifest
    return Manifest(
        classes=("hem", "all"),
        id=names,
        path=names,
        label=(rows // PER_SUBJECT) % 2,
        subject=subjects,
        group=subjects,
        phase=np.full(count, ""),
        sha256=digests,
        pixels=digests,
        phash=np.random.default_rng(1).integers(1, 2**64, count, dtype=np.uint64),
        area=np.full(count, 0.5, np.float32),
    )
