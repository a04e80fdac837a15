"""Records of noise in any number, written without TFDS' preparation, which takes hours for 1M.

They are read by the package's own `StoredRecords.images`, from the same files of the same format.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2

from leukjax.data.manifest import Manifest
from leukjax.data.record_files import RecordFiles
from leukjax.data.records import StoredRecords

SUBJECT = 50  # images of each


class Synthetic(StoredRecords):
    """`count` images of `size` pixels a side under `folder`, written at the first use."""

    def __init__(self, folder: Path, count: int, size: int):
        self.folder = Path(folder) / f"{count}-{size}"
        self.image_size = size
        self._file = self.folder / "images.array_record"
        if not (self.folder / "index.json").exists():
            self._write(count)
        self.checksum = json.loads((self.folder / "index.json").read_text())["checksum"]
        self.manifest = _manifest(count)
        self.classes, self.background = self.manifest.classes, "black"
        self._open()

    def _open(self) -> None:
        self._files = RecordFiles([self._file], [len(self.manifest)])

    def _write(self, count: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(0)
        digest = hashlib.sha256()
        writer = ArrayRecordWriter(str(self._file), "group_size:1")
        for _ in range(count):
            pixels = random.bytes(self.image_size**2 * 3)
            digest.update(pixels)
            example = tf_example_pb2.Example()
            example.features.feature["image"].bytes_list.value.append(pixels)
            writer.write(example.SerializeToString())
        writer.close()
        (self.folder / "index.json").write_text(json.dumps({"checksum": digest.hexdigest()}))


def _manifest(count: int) -> Manifest:
    rows = np.arange(count)
    names = np.char.mod("%07d", rows)
    subjects = np.char.mod("s%05d", rows // SUBJECT)
    # Digests as long as real ones, so that the manifest weighs what a real one weighs.
    digests = np.char.mod("%064d", rows)
    return Manifest(
        classes=("hem", "all"),
        id=names,
        path=names,
        label=(rows // SUBJECT) % 2,
        subject=subjects,
        group=subjects,
        phase=np.full(count, ""),
        sha256=digests,
        pixels=digests,
        phash=np.random.default_rng(1).integers(1, 2**64, count, dtype=np.uint64),
        area=np.full(count, 0.5, np.float32),
    )
