"""Files made to cost time or memory are refused before they are decoded, or read as if ordinary."""

import io
import os
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, TiffImagePlugin

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import hostile_images as hostile

from leukjax.data import archive, image_limits, image_parts, image_stream, preprocess, zips
from leukjax.data.decode import BadImage, decode
from leukjax.errors import UserError


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", hostile.REFUSED)
def test_a_costly_file_is_refused_before_its_pixels_are_decoded(name, monkeypatch):
    make, message = hostile.REFUSED[name]
    data = make()

    def load(self):
        raise AssertionError("decoded")

    for kind in (Image.Image, ImageFile.ImageFile, TiffImagePlugin.TiffImageFile):
        monkeypatch.setattr(kind, "load", load)
    with pytest.raises(BadImage, match=message):
        decode(data, "x")


@pytest.mark.parametrize("name", hostile.READ)
def test_what_is_no_pixel_does_not_matter(name):
    data = hostile.READ[name]()
    tracemalloc.start()
    try:
        pixels, _ = decode(data, "x")
        assert tracemalloc.get_traced_memory()[1] < 2 * len(data) + 2**25
    finally:
        tracemalloc.stop()
    exact = data[:2] != b"\xff\xd8"
    assert np.abs(pixels.astype(int) - hostile.picture()).max() <= (0 if exact else 12)


def test_of_many_pages_one_is_left():
    data = hostile.many_pages()
    found = image_parts.parts(data)
    assert found.several
    assert Image.open(io.BytesIO(found.data)).n_frames == 1
    assert decode(data, "x")[1] == ("first page of several",)


@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])
def test_tags_of_a_tiff_that_its_pixels_do_not_need_are_removed(order, big):
    image = hostile.picture()
    content = image.tobytes()
    tags = {256: 64, 257: 64, 258: 8, 259: 1, 262: 2, 273: 16, 277: 3, 278: 64, 279: len(content)}
    odd = {305: 2**31, 34665: 7, 34675: 2**31}  # a text and a profile that are not there
    place = 16 + len(content)
    head = struct.pack(order + ("HHHQ" if big else "HI8x"), *((43, 8, 0) if big else (42,)), place)
    table = [struct.pack(order + ("Q" if big else "H"), len(tags | odd))]
    for tag, value in (tags | odd).items():
        values = 2**30 if tag in odd else 1
        table.append(struct.pack(order + ("HHQQ" if big else "HHII"), tag, 4, values, value))
    data = b"".join((b"II" if order == "<" else b"MM", head, content, *table, bytes(8)))
    pixels, _ = decode(data, "x")
    np.testing.assert_array_equal(pixels, image)
    left = Image.open(io.BytesIO(image_parts.parts(data).data))
    assert set(left.tag_v2) == set(tags)


def test_a_strip_is_shrunk_before_it_is_padded():
    pixels, _ = decode(hostile.strip(), "x")
    assert pixels.shape == (8, 10_000, 3)
    tracemalloc.start()
    try:
        for background in ("black", "bright"):
            assert preprocess.process(pixels, 64, background=background).shape == (64, 64, 3)
        assert tracemalloc.get_traced_memory()[1] < 150e6
    finally:
        tracemalloc.stop()


def test_shrinking_first_gives_nearly_the_same_picture():
    blocks = np.random.default_rng(0).integers(0, 256, (6, 100, 3)).astype(np.uint8)
    image = blocks.repeat(80, axis=0).repeat(80, axis=1)
    found = preprocess.process(image, 100)
    assert not found[:46].any()
    assert not found[54:].any()
    assert np.abs(found[47:53].astype(int) - blocks).mean() < 5


def test_members_of_a_zip_unpack_to_no_more_than_they_state(tmp_path):
    path = tmp_path / "x.zip"
    path.write_bytes(hostile.zip_of_bzip2(size=32 * 2**20))
    assert path.stat().st_size < 20_000
    tracemalloc.start()
    try:
        items = list(image_stream.items([str(path)]))
        assert len(items) == 12
        for item in items:
            with pytest.raises(BadImage, match="damaged in its zip"):
                item.read()
        files = archive.Files(str(path))
        with pytest.raises(BadImage, match="damaged in its zip"):
            files.read(files.files[0].path)
        assert tracemalloc.get_traced_memory()[1] < 8e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_every_method_of_packing_is_read_within_bounds(tmp_path, method):
    content = {"a.png": bytes(100_000), "b.png": os.urandom(5000), "c.png": b"", "d.png": b"x"}
    with zipfile.ZipFile(tmp_path / "x.zip", "w", method) as file:
        for name, data in content.items():
            file.writestr(name, data)
    opened = zips.open_zip(tmp_path / "x.zip")
    assert {info.filename: opened.read(info) for info in opened.infos} == content
    info = opened.infos[0]
    info.file_size = 99_999
    with pytest.raises(ValueError, match="size or checksum"):
        opened.read(info)


def test_a_directory_of_a_zip_is_bounded(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        for number in range(50):
            file.writestr(f"{number}.png", b"x")
    monkeypatch.setattr(zips, "MAX_DIRECTORY_BYTES", 1000)
    with pytest.raises(UserError, match="its directory has"):
        zips.open_zip(tmp_path / "x.zip")


def test_what_cannot_be_bounded_is_decoded_in_a_process_with_limits(monkeypatch):
    """A BMP of run lengths: the process dies at its limit, and the next image gets another."""
    good = io.BytesIO()
    Image.fromarray(hostile.picture()).save(good, "TIFF", compression="jpeg", quality=95)
    before, _ = decode(good.getvalue(), "x")
    monkeypatch.setattr(image_limits, "CHILD_SECONDS", 0)  # above what it has used, by one
    with pytest.raises(BadImage, match="takes more than 0 s"):
        decode(hostile.bmp_of_run_lengths(), "x")
    after, _ = decode(good.getvalue(), "x")
    np.testing.assert_array_equal(after, before)
    monkeypatch.setattr(image_limits, "CHILD_BYTES", 2**26)
    with pytest.raises(BadImage, match=r"memory|takes more than|cut off"):
        decode(hostile.bmp_of_run_lengths(), "x")


def test_threads_share_a_bound(monkeypatch):
    """Two large images are not decoded at once; a small one is decoded beside either."""
    import threading

    monkeypatch.setattr(image_limits, "_pixels", image_limits._Budget(100))
    running, most, lock = 0, 0, threading.Lock()
    started = threading.Barrier(2, timeout=20)

    def large():
        nonlocal running, most
        with image_limits.one_image():
            image_limits.take_bytes(10)
            image_limits.take_pixels(90)
            with lock:
                running += 1
                most = max(most, running)
            threading.Event().wait(0.02)
            with lock:
                running -= 1

    def small():
        with image_limits.one_image():
            image_limits.take_pixels(5)
            started.wait()

    threads = [threading.Thread(target=large) for _ in range(4)]
    threads += [threading.Thread(target=small) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert most == 1
    assert image_limits._pixels._free == 100


def test_a_table_that_is_a_pipe_or_endless_is_refused(tmp_path):
    from leukjax.data.manifest import Manifest
    from leukjax.metrics import predictions

    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "endless.csv").symlink_to("/dev/zero")
    for name in ("pipe.csv", "endless.csv"):
        for read in (predictions.read, predictions.read_checked, Manifest.load):
            with pytest.raises(UserError, match=r"not a regular file"):
                read(tmp_path / name)


def test_special_files_neither_block_nor_fill_the_memory(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    os.mkfifo(folder / "a.png")
    os.mkfifo(folder / "b.zip")
    (folder / "c.png").symlink_to("/dev/zero")
    (folder / "d.zip").symlink_to("/dev/zero")
    code = (
        "import resource, sys\n"
        "from leukjax.data import image_stream, archive\n"
        "from leukjax.errors import UserError\n"
        "resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))\n"
        "for item in image_stream.items([sys.argv[1]]):\n"
        "    try: item.read()\n"
        "    except UserError as error: print(error)\n"
        "for root in (sys.argv[1], sys.argv[1] + '/b.zip', sys.argv[1] + '/c.png'):\n"
        "    try: archive.Files(root)\n"
        "    except UserError as error: print(error)\n"
    )
    command = [sys.executable, "-c", code, str(folder)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0, answer.stderr
    lines = answer.stdout.splitlines()
    assert len(lines) == 7
    assert all("is not a regular file: leave it out" in line for line in lines[:4])
    assert "b.zip cannot be read (is not a regular file)" in lines[4]
    assert all("is neither a folder nor a file" in line for line in lines[5:])
