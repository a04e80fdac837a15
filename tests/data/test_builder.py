import hashlib

import numpy as np
import pytest
import tensorflow_datasets as tfds
from absl import logging
from tiny_source import Tiny, tiny_source

from leukjax.data import preprocess, record_files
from leukjax.data.decode import BadImage
from leukjax.data.manifest_builder import scan
from leukjax.data.preprocess import Preprocessing
from leukjax.errors import UserError


def made(source, folder, manifest=None, **fields) -> record_files.Builder:
    """A builder that has written its files."""
    manifest = source.scan(str(folder), 2) if manifest is None else manifest
    result = record_files.Builder(source, manifest, Preprocessing(16, **fields), 2, folder)
    result.download_and_prepare()
    return result


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

    read = tfds.builder_from_directory(written.data_dir).as_data_source(split="all")
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
    assert written.checksum == digest.hexdigest()
    np.testing.assert_array_equal(written.sizes, np.full((30, 2), 20))
    assert written.info.features["label"].names == ["hem", "all"]


def test_parts_stay_below_what_tfds_sorts_without_tensorflow(tmp_path, monkeypatch):
    assert 2 * record_files.PART_BYTES < tfds.core.shuffle.MAX_MEM_BUFFER_SIZE
    source = tiny_source(100)
    whole = made(source, tmp_path / "whole")
    monkeypatch.setattr(record_files, "PART_BYTES", 3 * 16 * 16 * 3)
    parts = made(source, tmp_path / "parts")
    assert len(parts.info.splits) == 34
    names = [x["id"].decode() for x in parts.as_data_source(split="all")]
    assert names == sorted(f"cell{i}" for i in range(100))
    assert parts.checksum == whole.checksum
    assert len(parts.sizes) == 100


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
