"""Files of folders and zips."""

import os
import zipfile

import numpy as np
import pytest
from trees import cell, encode, write, zip_folder

from leukjax.data import archive
from leukjax.data.archive import Files
from leukjax.data.decode import BadImage
from leukjax.errors import UserError

BMP = encode(cell(0))


def test_folders_and_zips_give_the_same_bytes(tmp_path):
    write(tmp_path / "plain" / "a" / "One.BMP", BMP)
    write(tmp_path / "plain" / "b" / "two.png", b"2")
    write(tmp_path / "plain" / "labels.csv", b"x")
    write(tmp_path / "plain" / "readme.txt", b"x")
    (tmp_path / "zipped").mkdir()
    zip_folder(tmp_path / "plain", tmp_path / "zipped" / "all.zip")
    plain, zipped = Files(tmp_path / "plain"), Files(tmp_path / "zipped")
    one = Files(str(tmp_path / "zipped" / "all.zip"))
    assert [file.path for file in plain.files] == ["a/One.BMP", "b/two.png", "labels.csv"]
    assert [file.path for file in zipped.files] == [f"all.zip!{f.path}" for f in plain.files]
    assert [file.location for file in zipped.files] == [f"all.zip/{f.path}" for f in plain.files]
    assert [file.location for file in one.files] == [file.path for file in plain.files]
    for files in (plain, zipped, one):
        assert [files.read(file.path) for file in files.files] == [BMP, b"2", b"x"]
        assert [file.size for file in files.files] == [len(BMP), 1, 1]
    first = plain.files[0]
    assert (first.name, first.stem, first.suffix, first.zipped) == ("One.BMP", "One", ".bmp", False)
    assert zipped.files[0].zipped


def test_what_file_managers_leave_behind_is_not_seen(tmp_path):
    for name in (".DS_Store", "._x.bmp", "__MACOSX/x.bmp", ".git/x.bmp", "a/x.bmp"):
        write(tmp_path / "f" / name, BMP)
    zip_folder(tmp_path / "f", tmp_path / "f.zip")
    assert [file.location for file in Files(tmp_path / "f").files] == ["a/x.bmp"]
    assert [file.location for file in Files(tmp_path / "f.zip").files] == ["a/x.bmp"]


def test_a_link_back_up_ends(tmp_path):
    write(tmp_path / "a" / "x.bmp", BMP)
    os.symlink(tmp_path, tmp_path / "a" / "again")
    assert [file.path for file in Files(tmp_path).files] == ["a/x.bmp"]


def test_a_linked_folder_is_followed(tmp_path):
    write(tmp_path / "elsewhere" / "x.bmp", BMP)
    (tmp_path / "root").mkdir()
    os.symlink(tmp_path / "elsewhere", tmp_path / "root" / "a")
    files = Files(tmp_path / "root")
    assert files.read("a/x.bmp") == BMP
    assert files.folders == {"a"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: "", "root: is empty"),
        (lambda p: str(p / "none"), "does not exist"),
        (lambda p: str(write(p / "d" / "x.txt", "x").parent), "holds no image"),
        (lambda p: str(write(p / "x.bmp", BMP)), "is a file but not a zip"),
        (lambda p: str(write(p / "x.zip", b"PK\3\4 cut off")), "not a whole zip"),
        (lambda p: str(write(p / "f" / os.fsdecode(b"\xff.bmp"), BMP).parent), "UTF-8"),
    ],
)
def test_a_wrong_root_is_named(tmp_path, make, message):
    with pytest.raises(UserError, match=message) as caught:
        Files(make(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    write(tmp_path / "a" / "x.bmp", BMP)

    def walk(*_, onerror, **__):
        onerror(PermissionError(13, "Permission denied", str(tmp_path / "a")))
        yield from ()

    monkeypatch.setattr(os, "walk", walk)
    with pytest.raises(UserError, match=r"a cannot be read \(Permission denied\)"):
        Files(tmp_path)


@pytest.mark.parametrize(
    "name", ["../x.bmp", "/etc/x.bmp", "a/../../x.bmp", "C:/x.bmp", "..\\x.bmp", "\\x.bmp"]
)
def test_a_zip_that_points_outside_itself(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(zipfile.ZipInfo(name), BMP)
    with pytest.raises(UserError, match="outside the zip"):
        Files(tmp_path)


def test_a_zip_that_unpacks_beyond_the_limits(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for number in range(4):
            file.writestr(f"{number}.bmp", b"\0" * 1000)
        file.writestr("video.mp4", b"\0" * 9000)
    assert len(Files(tmp_path).files) == 4
    monkeypatch.setattr(archive, "MAX_MEMBER_BYTES", 999)
    with pytest.raises(UserError, match="over the limit"):
        Files(tmp_path)
    monkeypatch.setattr(archive, "MAX_MEMBER_BYTES", 1000)
    monkeypatch.setattr(archive, "MAX_ARCHIVE_BYTES", 3999)
    with pytest.raises(UserError, match=r"3\.bmp"):
        Files(tmp_path)


def test_repeated_and_encrypted_members(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("x.bmp", BMP)
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("x.bmp", BMP)
    with pytest.raises(UserError, match="occurs twice"):
        Files(tmp_path)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("x.bmp", BMP)
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1  # the flag of the central directory
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(UserError, match="encrypted"):
        Files(tmp_path)


def test_a_damaged_member_is_a_bad_image(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("x.bmp", BMP)
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[200] ^= 255
    (tmp_path / "a.zip").write_bytes(data)
    files = Files(tmp_path)
    with pytest.raises(BadImage, match=r"a\.zip!x\.bmp: damaged in its zip"):
        files.read("a.zip!x.bmp")


def test_damaged_zips_give_bytes_or_a_line(tmp_path):
    folder = tmp_path / "f"
    for number in range(3):
        write(folder / f"{number}.csv", b"0123456789" * 20)
    whole = zip_folder(folder, tmp_path / "a.zip").read_bytes()
    random = np.random.default_rng(3)
    refused = []
    for _ in range(300):
        data = np.frombuffer(whole, np.uint8).copy()
        # The directory, at the end, matters most.
        places = len(data) - 1 - random.integers(0, 250, random.integers(1, 5))
        data[places] = random.integers(0, 256, len(places))
        (tmp_path / "a.zip").write_bytes(data.tobytes()[: random.integers(1, 3 * len(data))])
        try:
            files = Files(tmp_path / "a.zip")
            for file in files.files:
                files.read(file.path)
        except UserError as error:
            refused.append(str(error))
    assert len(refused) > 100
    assert not any("\n" in message for message in refused)


def test_what_is_left_out_is_counted_by_suffix(tmp_path):
    for name in ("a/x.bmp", "a/y.webp", "a/z.jfif", "a/1.svg", "a/2.SVG", "b/3.heic", "README"):
        write(tmp_path / name, BMP)
    write(tmp_path / "labels.csv", b"x")
    (tmp_path / "packed").mkdir()
    write(tmp_path / "f" / "4.svg", b"x")
    zip_folder(tmp_path / "f", tmp_path / "packed" / "f.zip")
    (tmp_path / "f" / "4.svg").unlink()
    os.mkfifo(tmp_path / "pipe.png")
    files = Files(tmp_path)
    assert [file.path for file in files.files] == ["a/x.bmp", "a/y.webp", "a/z.jfif", "labels.csv"]
    assert files.notes() == [
        "left out 6 files that are no image that leukjax reads: 3 .svg, 1 without a suffix, "
        "1 .heic, 1 pipe or device"
    ]
    assert Files(tmp_path / "a").notes() == [
        "left out 2 files that are no image that leukjax reads: 2 .svg"
    ]
    with pytest.raises(UserError, match=r"holds no image .*left out 1 file that is no image"):
        Files(tmp_path / "packed")


def test_a_pipe_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "pipe.bmp")
    write(tmp_path / "x.bmp", BMP)
    assert [file.path for file in Files(tmp_path).files] == ["x.bmp"]


def test_a_file_beyond_the_limit(tmp_path, monkeypatch):
    write(tmp_path / "x.bmp", BMP)
    monkeypatch.setattr(archive, "MAX_MEMBER_BYTES", len(BMP) - 1)
    with pytest.raises(BadImage, match="has more than"):
        Files(tmp_path).read("x.bmp")


def test_a_file_that_vanished_is_no_bad_image(tmp_path):
    write(tmp_path / "x.bmp", BMP)
    files = Files(tmp_path)
    (tmp_path / "x.bmp").unlink()
    with pytest.raises(UserError, match=r"x\.bmp: cannot be read") as caught:
        files.read("x.bmp")
    assert not isinstance(caught.value, BadImage)
