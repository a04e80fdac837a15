import fcntl
import os
import threading
import time
from types import SimpleNamespace

import pytest

from leukjax.data import cache
from leukjax.errors import UserError


def whole(folder) -> bool:
    return (folder / "done").exists()


def write(folder) -> None:
    (folder / "part").mkdir()
    (folder / "part" / "x").write_text("x")
    (folder / "done").write_text("done")


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("LEUKJAX_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert str(cache.root("/c")) == "/c"
    assert str(cache.root("")) == "/a"
    monkeypatch.delenv("LEUKJAX_CACHE")
    assert str(cache.root("")) == "/b/leukjax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/h")
    assert str(cache.root("")) == "/h/.cache/leukjax"
    assert str(cache.root("~/d")) == "/h/d"


def test_made_once(tmp_path):
    folder = tmp_path / "set" / "key"
    calls = []
    for _ in range(3):
        cache.make_once(folder, whole, lambda path: (calls.append(path), write(path)), 10)
    assert len(calls) == 1
    assert (folder / "part" / "x").read_text() == "x"
    assert sorted(path.name for path in folder.parent.iterdir()) == [".key.lock", "key"]


def test_a_failure_leaves_nothing(tmp_path):
    def fail(folder):
        (folder / "done").write_text("not really")
        raise UserError("no")

    folder = tmp_path / "key"
    with pytest.raises(UserError, match="no"):
        cache.make_once(folder, whole, fail, 10)
    assert [path.name for path in tmp_path.iterdir()] == [".key.lock"]
    with pytest.raises(KeyError):  # a mistake of ours is not the disk's
        cache.make_once(folder, whole, lambda folder: {}["x"], 10)


def test_a_damaged_folder_is_made_again(tmp_path):
    folder = tmp_path / "key"
    folder.mkdir()
    (folder / "old").write_text("half")
    cache.make_once(folder, whole, write, 10)
    assert not (folder / "old").exists()
    assert whole(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".key.lock", "key"]


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(tmp_path):
    for name in ("dead", "alive"):
        (tmp_path / f".{name}.abc.tmp").mkdir()
    with open(tmp_path / ".alive.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        cache.make_once(tmp_path / "key", whole, write, 10)
        assert (tmp_path / ".alive.abc.tmp").exists()
        assert not (tmp_path / ".dead.abc.tmp").exists()
    cache.make_once(tmp_path / "key", whole, write, 10)
    assert not (tmp_path / ".alive.abc.tmp").exists()


def test_two_at_once_prepare_once(tmp_path):
    calls = []

    def slow(folder):
        calls.append(folder)
        time.sleep(0.2)
        write(folder)

    arguments = (tmp_path / "key", whole, slow, 10)
    threads = [threading.Thread(target=cache.make_once, args=arguments) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert whole(tmp_path / "key")


def test_a_full_disk_is_said_in_a_line(tmp_path, monkeypatch):
    def full(folder):
        raise RuntimeError(f"write() failed: {os.strerror(28)}; writing x")

    with pytest.raises(UserError, match=r"data\.cache_dir: .*No space left on device"):
        cache.make_once(tmp_path / "key", whole, full, 10)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: SimpleNamespace(free=2e9))
    with pytest.raises(UserError, match=r"data\.cache_dir: .*2\.0 GB free .* need 3\.0 GB"):
        cache.make_once(tmp_path / "key", whole, write, int(3e9))


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"data\.cache_dir: .*file/set cannot be written"):
        cache.make_once(tmp_path / "file" / "set" / "key", whole, write, 10)
