"""A stream of images: what is wrong is one item, order is by name, links end, memory is flat."""

import os
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from leukjax.data import archive, image_stream
from leukjax.errors import UserError


def named(paths) -> list[str]:
    return [item.path for item in image_stream.items([str(path) for path in paths])]


def error_of(item: image_stream.Item) -> str:
    with pytest.raises(UserError) as caught:
        item.read()
    return str(caught.value)


def test_files_folders_and_zips_in_order(tmp_path):
    for name in ("b.png", "a/2.bmp", "a/1.JPG", "a/notes.txt", ".hidden.png", "table.csv"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    with zipfile.ZipFile(tmp_path / "in" / "c.zip", "w") as file:
        file.writestr("x/y.tif", "y")
        file.writestr("labels.csv", "1")
    other = tmp_path / "cell"
    other.write_bytes(b"no suffix")
    found = list(image_stream.items([str(other), str(tmp_path / "in")]))
    root = tmp_path / "in"
    expected = [other, root / "a/1.JPG", root / "a/2.bmp", root / "b.png", f"{root}/c.zip!x/y.tif"]
    assert [item.path for item in found] == [str(path) for path in expected]
    contents = [b"no suffix", b"a/1.JPG", b"a/2.bmp", b"b.png", b"y"]
    assert [item.read() for item in found] == contents


def test_links_that_go_round_end(tmp_path):
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    (folder / "x.png").write_bytes(b"x")
    (folder / "up").symlink_to(tmp_path, target_is_directory=True)
    assert named([tmp_path]) == [str(folder / "x.png")]
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UserError, match="loop: cannot be read"):
        image_stream.check([str(tmp_path / "loop")])
    with pytest.raises(UserError, match="no image is given"):
        image_stream.check([])


def test_what_is_wrong_is_an_item_and_the_others_go_on(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("fine.png", "1")
        file.writestr("../outside.png", "2")
    (tmp_path / "b.zip").write_bytes(b"PK no zip")
    with zipfile.ZipFile(tmp_path / "c.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("bomb.png", bytes(5000))
    (tmp_path / "d.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "e.png")
    (tmp_path / "f.png").write_bytes(bytes(5000))
    (tmp_path / "g.png").write_bytes(b"good")
    monkeypatch.setattr(archive, "MAX_MEMBER_BYTES", 4000)
    found = list(image_stream.items([str(tmp_path)]))
    assert [Path(item.path).name for item in found] == [
        "a.zip", "b.zip", "c.zip", "d.png", "e.png", "f.png", "g.png"
    ]  # fmt: skip
    messages = ["points outside the zip", "not a whole zip", "over the limit", "No such file",
            "is not a regular file", "more than 0 MiB"]  # fmt: skip
    for item, words in zip(found, messages, strict=False):
        assert words in error_of(item)
        assert item.path in error_of(item)
    assert found[-1].read() == b"good"


def test_a_name_that_is_no_utf8_is_written_with_escapes(tmp_path):
    with open(os.fsencode(tmp_path) + b"/\xff.png", "wb") as file:
        file.write(b"data")
    (item,) = image_stream.items([str(tmp_path)])
    assert item.path.endswith("\\xff.png")
    assert item.read() == b"data"


def test_memory_does_not_grow_with_the_folders(tmp_path):
    """What is held is one folder's names, so that a hundred folders take no more than ten."""

    def peak(folders: int) -> int:
        root = tmp_path / str(folders)
        for number in range(folders):
            (root / f"{number:03}").mkdir(parents=True)
            for image in range(40):
                (root / f"{number:03}" / f"{image}.png").touch()
        used = []
        for _ in range(3):  # the least of three: threads that other tests left allocate, too
            tracemalloc.start()
            assert sum(1 for _ in image_stream.items([str(root)])) == 40 * folders
            used.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        return min(used)

    peak(2)
    few, many = peak(10), peak(100)
    assert many < 2 * few + 64 * 1024
