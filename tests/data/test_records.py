import csv
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from tiny_source import settings, tiny_records, tiny_source

from leukjax.data import preprocess
from leukjax.data.datasets import prepare
from leukjax.data.decode import BadImage
from leukjax.errors import UserError

SCRIPT = Path(__file__).with_name("tiny_source.py")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    source = tiny_source(40)
    return source, tiny_records(tmp_path_factory.mktemp("cache"), source)


@pytest.mark.smoke
def test_records_are_the_processed_images(prepared):
    source, found = prepared
    entries = {entry.id: entry for entry in source.entries}
    rows = np.random.default_rng(0).integers(0, 40, 100)
    images = found.images(rows)
    assert images.shape == (100, 16, 16, 3)
    assert images.dtype == np.uint8
    for image, row in zip(images, rows, strict=True):
        entry = entries[str(found.manifest.id[row])]
        np.testing.assert_array_equal(image, preprocess.process(source.image(entry), 16))
        assert found.manifest.label[row] == entry.label
        assert found.manifest.subject[row] == entry.subject
    assert list(found.manifest.id) == sorted(entries)


def test_what_is_known_of_the_source_is_there(prepared):
    _, found = prepared
    assert found.classes == ("hem", "all")
    assert (found.name, found.positive, found.background) == ("tiny", "all", "black")
    assert (found.synthetic, found.subjects_known, found.image_size) == (False, True, 16)
    assert str(found.notes[0]) == "a note"
    assert "40 shrink by 0.8 (area)" in found.notes[-1].text
    assert len(found) == 40


def test_rows_outside_are_refused(prepared):
    _, found = prepared
    assert found.images(np.zeros(0, int)).shape == (0, 16, 16, 3)
    for row in (-1, 40):
        with pytest.raises(IndexError):
            found.images(np.array([0, row]))


def test_many_threads_may_read(prepared):
    _, found = prepared
    everything = found.images(np.arange(40))
    orders = [np.random.default_rng(seed).permutation(40) for seed in range(64)]
    with ThreadPoolExecutor(8) as pool:
        for order, images in zip(orders, pool.map(found.images, orders), strict=True):
            np.testing.assert_array_equal(images, everything[order])


def test_records_survive_pickling(prepared):
    _, found = prepared
    copy = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(copy.images(np.arange(40)), found.images(np.arange(40)))
    assert copy.checksum == found.checksum


def test_a_second_start_reads_a_sample_of_the_images_only(tmp_path, monkeypatch):
    first = tiny_records(tmp_path, tiny_source(60))
    source = tiny_source(60)
    image, read = type(source).image, []
    monkeypatch.setattr(
        type(source), "image", lambda self, entry: (read.append(entry), image(self, entry))[1]
    )
    second = tiny_records(tmp_path, source)
    assert second.folder == first.folder
    assert second.checksum == first.checksum
    assert len(read) == 16


def test_an_image_that_changed_after_the_scan_is_not_prepared(tmp_path, monkeypatch):
    """Whatever the cached scan and its sample say: what is prepared has the scanned checksums."""
    monkeypatch.setattr("leukjax.data.manifest_builder._SAMPLE", 0)
    tiny_records(tmp_path / "first", tiny_source(12))
    source = tiny_source(12)
    image = type(source).image

    def other(self, entry):
        return image(self, entry) ^ np.uint8(entry.id == "cell7")

    monkeypatch.setattr(type(source), "image", other)
    shutil.copytree(tmp_path / "first" / "scans", tmp_path / "second" / "scans")
    with pytest.raises(UserError, match=r"^cell7\.bmp: is not the image that was scanned"):
        tiny_records(tmp_path / "second", tiny_source(12))
    # The message asks to start again, and that works.
    again = tiny_records(tmp_path / "second", tiny_source(12))
    assert again.checksum != tiny_records(tmp_path / "first", tiny_source(12)).checksum


def test_another_content_or_preprocessing_has_another_folder(tmp_path):
    base = tiny_records(tmp_path, tiny_source(12))
    other = tiny_source(12)
    other.entries[0] = other.entries[0].__class__("cell0", "cell0.bmp", 0, "another subject")
    variants = [
        tiny_records(tmp_path, tiny_source(12), image_size=17),
        tiny_records(tmp_path, tiny_source(12), crop=18),
        tiny_records(tmp_path, tiny_source(12), denoise="median"),
        tiny_records(tmp_path, tiny_source(12, side=21)),
        tiny_records(tmp_path, other),
    ]
    assert len({found.folder for found in [base, *variants]}) == 6
    assert len({found.checksum for found in [base, *variants]}) == 5  # another subject, same pixels
    assert tiny_records(tmp_path, tiny_source(12), threads=3).folder == base.folder


def test_damage_is_found(tmp_path):
    found = tiny_records(tmp_path, tiny_source(12))
    found.verify()
    file = next(found.folder.rglob("*array_record*"))
    content = bytearray(file.read_bytes())
    filled = [at for at, byte in enumerate(content) if byte]
    content[filled[len(filled) // 2]] ^= 1  # in the midst of the compressed pixels
    file.write_bytes(content)
    reopened = tiny_records(tmp_path, tiny_source(12))  # same size: not seen when opened
    with pytest.raises(UserError, match=f"{found.folder}: the records are damaged"):
        reopened.verify()

    file.write_bytes(content[:-1])
    again = tiny_records(tmp_path, tiny_source(12))
    again.verify()
    assert again.checksum == found.checksum
    (again.folder / "index.json").unlink()
    tiny_records(tmp_path, tiny_source(12)).verify()


@pytest.mark.parametrize("name", ["index.json", "features.json", "dataset_info.json"])
def test_a_damaged_description_is_made_again(tmp_path, name):
    found = tiny_records(tmp_path, tiny_source(12))
    file = next(found.folder.rglob(name))
    content = file.read_bytes()
    for place in (len(content) // 3, len(content) // 2):
        file.write_bytes(content[:place] + b"\xff" + content[place + 1 :])  # the same size
        again = tiny_records(tmp_path, tiny_source(12))
        again.verify()
        assert again.checksum == found.checksum


def test_every_flipped_bit_of_the_pixels_is_found_when_they_are_read(tmp_path):
    found = tiny_records(tmp_path, tiny_source(12))
    file = next(found.folder.rglob("*array_record*"))
    content = file.read_bytes()
    rows, generator = np.arange(12), np.random.default_rng(0)
    before, refused = found.images(rows), 0
    for place in generator.integers(len(content), size=60).tolist():
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(generator.integers(8))
        file.write_bytes(damaged)
        opened = tiny_records(tmp_path, tiny_source(12))
        try:
            after = opened.images(rows)
        except UserError:
            refused += 1
            continue
        np.testing.assert_array_equal(after, before)  # the flip is in the padding
    assert refused > 5


def test_killed_at_any_moment_nothing_half_is_taken_for_whole(tmp_path):
    def start(delay: float) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, str(SCRIPT), str(tmp_path), "60", str(delay)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    # A scan is kept, so that the kills hit the preparation.
    alone = tiny_records(tmp_path / "elsewhere", tiny_source(60))
    tiny_records(tmp_path, tiny_source(60), image_size=8)
    generator = random.Random(7)
    hits = 0
    for _ in range(3):
        process = start(0.02)
        deadline = time.monotonic() + 60
        while not list((tmp_path / "tiny").glob(".*.tmp")) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(generator.uniform(0, 0.5))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        hits += bool(list((tmp_path / "tiny").glob(".*.tmp")))
    assert hits, "no kill hit a preparation"

    found = tiny_records(tmp_path, tiny_source(60))
    found.verify()
    assert found.checksum == alone.checksum
    np.testing.assert_array_equal(found.images(np.arange(60)), alone.images(np.arange(60)))
    assert not list((tmp_path / "tiny").glob(".*.tmp"))


def test_two_processes_prepare_once(tmp_path):
    command = [sys.executable, str(SCRIPT), str(tmp_path), "30", "0.01"]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=100)[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert outputs[0] == outputs[1] == tiny_records(tmp_path, tiny_source(30)).checksum
    assert len([p for p in (tmp_path / "tiny").iterdir() if not p.name.startswith(".")]) == 1


def test_skipped_images_are_listed(tmp_path):
    source = tiny_source(12)
    whole = type(source).image

    class Partly(type(source)):
        def image(self, entry):
            if entry.id == "cell3":
                raise BadImage("cell3.bmp: cut off, with a comma")
            return whole(self, entry)

    fields = {name: getattr(source, name) for name in ("name", "classes", "positive", "entries")}
    found = tiny_records(tmp_path, Partly(**fields, bad_images="skip"))
    assert len(found) == 11
    found.save_skipped(tmp_path / "skipped.csv")
    with open(tmp_path / "skipped.csv", newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"id": "cell3", "path": "cell3.bmp", "reason": "cell3.bmp: cut off, with a comma"}
        ]


def test_wrong_fields_are_named(tmp_path):
    with pytest.raises(UserError, match=r"data\.denoise"):
        tiny_source(4).prepare(16, denoise="x")
    for size in (0, 16.0):
        with pytest.raises((UserError, TypeError), match="image_size"):
            tiny_source(4).prepare(size)
    with pytest.raises(UserError, match=r"data\.name: unknown data set 'cells'"):
        prepare(settings(tmp_path, name="cells"))


def test_real_cells(shared, tmp_path):
    data: ConfigDict = settings(
        tmp_path,
        name="cnmc",
        root=str(shared / "data" / "C-NMC_Leukemia"),
        positive="",
        image_size=64,
        crop=400,
        denoise="gaussian",
    )
    found = prepare(data)
    found.verify()
    assert len(found) == 44
    images = found.images(np.arange(44))
    assert 0.5 < (images == 0).all(axis=-1).mean() < 0.95
    assert "44 shrink by 0.16 (area)" in found.notes[-1].text
