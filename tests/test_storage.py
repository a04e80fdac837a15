"""Atomic writes, bounded reads, locks, CSV, and errors of the disk."""

import csv
import errno
import io
import multiprocessing
import os
import threading

import pytest

from leukjax import storage
from leukjax.storage import append_line, csv_text, describe_failure, read_json, write_atomic


def test_content_replaces_content_and_parents_are_made(tmp_path):
    path = tmp_path / "a" / "b.csv"
    write_atomic(path, "one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["b.csv"]


def test_a_failure_leaves_the_old_content_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "b.csv"
    write_atomic(path, "old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["b.csv"]


def test_the_umask_holds(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "x", "y")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640


def test_a_link_at_the_target_is_replaced_not_followed(tmp_path):
    (tmp_path / "theirs").write_text("kept")
    (tmp_path / "x").symlink_to(tmp_path / "theirs")
    write_atomic(tmp_path / "x", "new")
    assert (tmp_path / "theirs").read_text() == "kept"
    assert (tmp_path / "x").read_text() == "new"


def test_an_output_is_written_through_links_and_into_pipes(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with storage.open_output(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"

    os.mkfifo(tmp_path / "pipe")
    got = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    with storage.open_output(tmp_path / "pipe") as file:
        file.write(b"through")
    reader.join(10)
    assert got == [b"through"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe", "real"]


def _append(path, name):
    for number in range(50):
        append_line(path, {"by": name, "number": number})


def test_no_process_loses_a_line_of_another(tmp_path):
    path = tmp_path / "ledger.jsonl"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_append, args=(path, name)) for name in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    lines = storage.read_json_lines(path)
    assert len(lines) == 100
    assert [line["number"] for line in lines if line["by"] == "a"] == list(range(50))


def test_a_line_that_a_kill_cut_off_does_not_swallow_the_next(tmp_path):
    path = tmp_path / "ledger.jsonl"
    path.write_text('{"n": 1}\n{"n"')
    append_line(path, {"n": 2})
    assert path.read_text().splitlines() == ['{"n": 1}', '{"n"', '{"n": 2}']


@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "large", "zero"])
def test_only_regular_files_of_bounded_size_are_read(tmp_path, kind):
    path = tmp_path / "x.json"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "large":
        path.write_text("[" + "1," * 1000 + "1]")
    else:
        path.symlink_to("/dev/zero" if kind == "zero" else "/dev/null")
    with pytest.raises(OSError, match=r"not a regular file|has more than|Is a directory"):
        read_json(path, limit=1000)


@pytest.mark.parametrize("text", ["{", "[NaN]", '{"a": -Infinity}', "[" * 100_000, "\ud800"])
def test_what_is_not_json_is_a_value_error(tmp_path, text):
    (tmp_path / "x").write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(ValueError):  # noqa: PT011  the texts are those of three libraries
        read_json(tmp_path / "x")


def test_a_lock_is_exclusive_keeps_content_and_follows_no_link(tmp_path):
    path = tmp_path / ".lock"
    path.write_text("content")
    with (
        storage.lock(path, wait=False),
        pytest.raises(BlockingIOError),
        storage.lock(path, wait=False),
    ):
        pass
    assert path.read_text() == "content"
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(OSError, match="symbolic"), storage.lock(tmp_path / "link", wait=False):
        pass


def test_a_file_system_without_locks_is_tolerated(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(storage.fcntl, "flock", refuse)
    with storage.lock(tmp_path / "l", wait=False):
        pass
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOTSUP, "")))
    write_atomic(tmp_path / "x", "y")
    assert (tmp_path / "x").read_text() == "y"


def test_every_name_comes_back_from_a_table(tmp_path):
    names = ["plain", "a,b", 'quote"', "line\nend", "carriage\rreturn", "both\r\n", "", " x "]
    text = csv_text(("name", "n"), [(name, 1) for name in names])
    assert text.startswith("name,n\nplain,1\n")
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert [row[0] for row in rows[1:]] == names
    write_atomic(tmp_path / "t.csv", text)
    header, read = storage.read_csv(tmp_path / "t.csv")
    assert header == ["name", "n"]
    assert [row["name"] for row in read] == names


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/a/b"), "/a/b: no space left"),
        (OSError(errno.EROFS, "Read-only file system", b"/a/b"), "/a/b: the file system is read"),
        (OSError(errno.EIO, "Input/output error"), "a file: the device reports"),
        (
            ValueError(
                'RESOURCE_EXHAUSTED: Error writing "x/0" in OCDBT database at local file "/r/": '
                "Failed writing: \"/r/d/1\": No space left on device [os_error_code='28']"
            ),
            "/r/d/1: no space left",
        ),
        (RuntimeError(f"Could not write: {os.strerror(errno.EDQUOT)}"), "a file: the disk quota"),
    ],
)
def test_failures_of_the_disk(error, says):
    assert describe_failure(error).startswith(says)
    assert "; " in describe_failure(error)  # the fix
    outer = RuntimeError("the worker failed")
    outer.__cause__ = error
    assert describe_failure(outer) == describe_failure(error)


@pytest.mark.parametrize(
    "error",
    [KeyError("bug"), FileNotFoundError(errno.ENOENT, "No such file", "x"), ValueError("shape")],
)
def test_anything_else_is_no_failure_of_the_disk(error):
    assert describe_failure(error) is None
