import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from absl import logging
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter
from tiny_source import Tiny, tiny_source

from leukjax.data import preprocess, record_files
from leukjax.data.decode import BadImage
from leukjax.data.manifest_builder import scan
from leukjax.data.preprocess import Preprocessing
from leukjax.data.record_files import RecordFiles
from leukjax.errors import UserError

COUNTS = (40, 1, 59)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    random = np.random.default_rng(0)
    paths = []
    for part, count in enumerate(COUNTS):
        paths.append(folder / f"{part}.array_record")
        writer = ArrayRecordWriter(str(paths[-1]), "group_size:1")
        for _ in range(count):
            writer.write(random.bytes(int(random.integers(1, 5000))))
        writer.close()
    return paths


def test_records_are_those_of_the_librarys_own_reader(files):
    ours, theirs = RecordFiles(files, COUNTS), ArrayRecordDataSource([str(f) for f in files])
    for number in np.random.default_rng(1).permutation(100).tolist():
        assert ours[number] == theirs[number]


def test_threads_do_not_disturb_each_other(files):
    records = RecordFiles(files, COUNTS)
    expected = [records[number] for number in range(100)]
    numbers = np.random.default_rng(2).integers(0, 100, 4000).tolist()
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(records.__getitem__, numbers))
    assert read == [expected[number] for number in numbers]


def test_after_a_damaged_record_others_can_be_read(files, tmp_path):
    content = bytearray(files[0].read_bytes())
    path = tmp_path / "damaged.array_record"
    record = ArrayRecordDataSource([str(files[0])])[20]
    content[content.index(record) + len(record) // 2] ^= 1
    path.write_bytes(content)
    whole, damaged = RecordFiles([files[0]], [40]), RecordFiles([path], [40])
    with pytest.raises(RuntimeError, match="hash mismatch"):
        damaged[20]
    for number in (19, 21, 39, 0):
        assert damaged[number] == whole[number]


def test_files_of_tfds_are_read_in_the_order_of_parts_and_shards(files, tmp_path):
    """By their names alone: of a hundred thousand parts, too, and whatever else is there."""
    names = [
        "smears/1.0.0/smears-part_100000.array_record-00000-of-00001",
        "smears/1.0.0/smears-part_00002.array_record-00001-of-00002",
        "smears/1.0.0/smears-part_00002.array_record-00000-of-00002",
    ]
    (tmp_path / "smears" / "1.0.0").mkdir(parents=True)
    for name, file in zip(names, files, strict=True):
        (tmp_path / name).write_bytes(file.read_bytes())
    found = RecordFiles.of_tfds(tmp_path, ["smears/1.0.0/features.json", *names])
    expected = RecordFiles(files[::-1], COUNTS[::-1])
    assert len(found) == sum(COUNTS)
    assert [found[n] for n in range(100)] == [expected[n] for n in range(100)]
    with pytest.raises(ValueError, match="points outside"):
        RecordFiles.of_tfds(tmp_path, [f"../x/{names[0]}"])


def made(source, folder, manifest=None, **fields) -> Path:
    """The folder that was written."""
    manifest = source.scan(str(folder / "scan"), 2) if manifest is None else manifest
    written = folder / "written"
    written.mkdir(parents=True, exist_ok=True)
    record_files.write(written, source, manifest, Preprocessing(16, **fields), 2)
    return written


def examples(folder: Path) -> list[dict]:
    """What TFDS reads."""
    shards = sorted(folder.glob("part_*/*/1.0.0"))
    return [
        example
        for shard in shards
        for example in tfds.builder_from_directory(shard).as_data_source(split="all")
    ]


def test_a_builder_is_quiet(tmp_path, capfd, caplog):
    # TFDS talks through print, tqdm, and absl's log.
    before = logging.get_verbosity()
    logging.set_verbosity(logging.INFO)
    try:
        made(tiny_source(24), tmp_path)
    finally:
        logging.set_verbosity(before)
    out, error = capfd.readouterr()
    assert out == ""
    assert "tensorflow_datasets" not in error
    assert "Generating" not in error
    assert not [r for r in caplog.records if "tensorflow_datasets" in r.pathname]


def test_record_i_is_row_i_of_the_manifest(tmp_path):
    source = tiny_source(30, side=20)
    manifest, _ = scan(source, tmp_path, 2, "error")
    manifest = manifest.take(np.random.default_rng(0).permutation(30))
    manifest.label[3] = -1
    written = made(source, tmp_path, manifest, denoise="median")

    read = examples(written)
    entries = {entry.id: entry for entry in source.entries}
    digest = hashlib.sha256()
    for row, example in enumerate(read):
        name = example["id"].decode()
        assert name == manifest.id[row]
        wanted = preprocess.process(source.image(entries[name]), 16, 0, "median")
        np.testing.assert_array_equal(example["image"], wanted)
        digest.update(wanted.tobytes())
        assert example["label"] == manifest.label[row]
        assert example["subject"].decode() == manifest.subject[row]
        assert example["group"].decode() == manifest.group[row]
    assert row == 29
    assert read[3]["label"] == -1
    index = record_files.read_index(written)
    assert index["checksum"] == digest.hexdigest()
    assert "30 shrink by 0.8" in index["preprocessing"]
    (shard,) = written.glob("part_*/*/1.0.0")
    assert tfds.builder_from_directory(shard).info.features["label"].names == ["hem", "all"]


def test_shards_stay_below_what_tfds_sorts_without_tensorflow(tmp_path, monkeypatch):
    assert 2 * record_files.SHARD_BYTES < tfds.core.shuffle.MAX_MEM_BUFFER_SIZE
    source = tiny_source(100)
    whole = made(source, tmp_path / "whole")
    monkeypatch.setattr(record_files, "SHARD_BYTES", 3 * 16 * 16 * 3)
    shards = made(source, tmp_path / "shards")
    assert len(list(shards.glob("part_*"))) == 34
    names = [x["id"].decode() for x in examples(shards)]
    assert names == sorted(f"cell{i}" for i in range(100))
    facts, of_whole = record_files.read_index(shards), record_files.read_index(whole)
    for name in ("checksum", "preprocessing", "image_size"):
        assert facts[name] == of_whole[name]


class Stopping(Tiny):
    """A data set that stops after some images, as if the process were killed."""

    stop = 10**9
    loaded = 0

    def load(self, entry):
        self.loaded += 1
        if self.loaded > self.stop:
            raise KeyboardInterrupt
        return super().load(entry)


@pytest.mark.parametrize("damage", ["none", "half a shard", "bytes", "missing", "other sizes"])
def test_whole_shards_of_a_killed_preparation_are_kept(tmp_path, monkeypatch, damage):
    monkeypatch.setattr(record_files, "SHARD_IMAGES", 8)
    tiny = tiny_source(40, side=20)
    manifest, _ = scan(tiny, tmp_path, 2, "error")
    fields = {name: getattr(tiny, name) for name in ("name", "classes", "positive", "entries")}
    expected = record_files.read_index(made(tiny, tmp_path / "alone", manifest))
    stopped = Stopping(**fields)
    stopped.stop = 34
    with pytest.raises(KeyboardInterrupt):
        made(stopped, tmp_path / "again", manifest)
    written = tmp_path / "again" / "written"
    shards = sorted(path.name for path in written.glob("part_*[0-9]"))
    assert len(shards) >= 2
    kept = len(shards)
    if damage == "half a shard":
        (written / f"part_{kept:05d}.tmp" / "builder").mkdir(parents=True, exist_ok=True)
    elif damage != "none":
        kept = 1
        (file,) = (written / shards[1]).rglob("*.array_record*")
        if damage == "bytes":
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 1
            file.write_bytes(content)
        elif damage == "missing":
            file.unlink()
        else:
            record_files._write_index(written / shards[1], {"checksum": "", "sizes": [[1, 1]]})
    again = Stopping(**fields)
    made(again, tmp_path / "again", manifest)
    assert again.loaded == 40 - 8 * kept
    (written / "index.json").unlink()  # as if it was killed just before the end
    made(again, tmp_path / "again", manifest)
    assert again.loaded == 40 - 8 * kept
    index = record_files.read_index(written)
    for name in ("checksum", "preprocessing", "image_size"):
        assert index[name] == expected[name]
    assert record_files.is_complete(written)
    assert [x["id"].decode() for x in examples(written)] == manifest.id.tolist()
    assert len(list(written.iterdir())) == 6  # five shards and the index


def test_errors_of_the_user_come_through(tmp_path):
    class Broken(Tiny):
        def image(self, entry):
            raise BadImage(f"{entry.path}: broken")

    whole = tiny_source(8)
    manifest, _ = scan(whole, tmp_path, 2, "error")
    fields = {name: getattr(whole, name) for name in ("name", "classes", "positive", "entries")}
    with pytest.raises(UserError, match=r"cell\d\.bmp: broken"):
        made(Broken(**fields), tmp_path, manifest)
    with pytest.raises(UserError, match=r"data\.denoise"):
        Preprocessing(16, denoise="x")


def test_the_filter_leaves_no_trace():
    logger = logging.get_absl_logger()
    before = list(logger.filters)
    with record_files._quiet():
        assert len(logger.filters) == len(before) + 1
    assert logger.filters == before
