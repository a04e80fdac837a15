from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter

from leukjax.data.record_files import RecordFiles

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
