"""Decoded images in one file: written once, compared with the checksum, never read in part."""

import os
import pickle

import numpy as np
import pytest
from tiny_source import tiny_records, tiny_source

from leukjax.data import image_store
from leukjax.errors import UserError


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return tiny_records(tmp_path_factory.mktemp("cache"), tiny_source(60))


def test_decoded_once_and_the_same(records):
    ours = image_store.decode(records)
    rows = np.array([3, 59, 0, 3])
    np.testing.assert_array_equal(ours.images(rows), records.images(rows))
    file = ours.folder / "pixels.npy"
    made = file.stat().st_mtime_ns
    assert image_store.decode(records).folder == ours.folder
    assert file.stat().st_mtime_ns == made
    for wrong in ([60], [-1]):
        with pytest.raises(IndexError):
            ours.images(np.array(wrong))
    sent = pickle.dumps(ours)  # to a worker process, which maps the file itself
    assert len(sent) < records.images(np.arange(60)).nbytes
    np.testing.assert_array_equal(pickle.loads(sent).images(rows), records.images(rows))


@pytest.mark.parametrize("damage", ["flip", "cut", "index", "gone"])
def test_a_damaged_file_is_made_again(records, damage):
    folder = image_store.decode(records).folder
    file = folder / ("index.json" if damage == "index" else "pixels.npy")
    content = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    else:
        content[-100] ^= 1
        file.write_bytes(content[:-1] if damage == "cut" else content)
    whole = image_store.decode(records)
    np.testing.assert_array_equal(whole.images(np.arange(60)), records.images(np.arange(60)))


def test_a_file_cut_short_in_the_middle_of_a_run_is_a_line_and_no_signal(records):
    ours = image_store.decode(records)
    os.truncate(ours.folder / "pixels.npy", 1000)
    with pytest.raises(UserError, match=r"pixels\.npy: cannot be read \(it was cut short\)"):
        ours.images(np.array([59]))


def test_records_that_are_not_what_was_prepared_are_refused(records, monkeypatch):
    monkeypatch.setattr(records, "checksum", "0" * 64)
    with pytest.raises(UserError, match="the records are damaged"):
        image_store.decode(records)
