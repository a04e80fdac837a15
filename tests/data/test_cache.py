import errno
import fcntl
import os
import subprocess
import sys
import textwrap
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


@pytest.mark.parametrize("configured", ["", "~/cells", "~nobody-of-this-name/cells"])
def test_a_user_without_a_home_is_told_what_to_set(monkeypatch, configured):
    def no_home(*_):
        raise RuntimeError("Could not determine home directory.")

    for variable in ("LEUKJAX_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("pathlib.Path.home", no_home)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as it answers without a home
    with pytest.raises(UserError, match=r"^data\.cache_dir: .*config\.data\.cache_dir .*LEUKJAX_C"):
        cache.root(configured)
    monkeypatch.setenv("LEUKJAX_CACHE", "/a")
    assert configured or str(cache.root("")) == "/a"


NO_HOME = """
    import os
    from leukjax.data import cache
    from leukjax.errors import UserError
    os.setuid(54321)
    try:
        folder = cache.root("") / "smears" / "key"
        cache.make_once(folder, lambda folder: False, lambda folder: None, 1)
    except UserError as error:
        print(error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone may become another user")
@pytest.mark.parametrize("home", [None, "/", "/read-only"])
def test_a_required_cache_that_cannot_be_made_is_a_line(home, tmp_path):
    kept = {k: v for k, v in os.environ.items() if k not in ("LEUKJAX_CACHE", "XDG_CACHE_HOME")}
    kept.pop("HOME", None)
    (tmp_path / "read-only").mkdir(mode=0o555)
    if home:
        kept["HOME"] = "/" if home == "/" else str(tmp_path / "read-only")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(NO_HOME)],
        env=kept, capture_output=True, text=True, check=False,
    )  # fmt: skip
    (line,) = done.stdout.splitlines()
    assert line.startswith("data.cache_dir: ")
    assert "--config.data.cache_dir or the variable LEUKJAX_CACHE" in line
    assert "Traceback" not in done.stderr


def test_a_lock_file_that_is_a_link_is_refused(tmp_path):
    target = tmp_path / "precious"
    target.write_text("x")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / ".key.lock").symlink_to(target)
    with pytest.raises(UserError, match=r"data\.cache_dir: .*set cannot be written"):
        cache.make_once(tmp_path / "set" / "key", whole, write, 10)
    assert target.read_text() == "x"


@pytest.fixture
def object_store(monkeypatch):
    """A file system that has neither locks nor fsync nor chmod."""

    def refuse(*_):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(os, "fsync", refuse)
    monkeypatch.setattr("pathlib.Path.chmod", refuse)


def test_a_file_system_without_locks_will_do(tmp_path, object_store):
    alive = tmp_path / ".alive.abc.tmp"
    alive.mkdir()  # its maker may live: nothing tells

    def write_as_another_does(folder):
        (tmp_path / "key").mkdir()
        write(tmp_path / "key")
        write(folder)

    cache.make_once(tmp_path / "key", whole, write_as_another_does, 10)
    assert whole(tmp_path / "key")
    assert alive.exists()
    cache.make_once(tmp_path / "other", whole, write, 10)
    assert whole(tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".tmp") == [alive.name]


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_file_or_link_instead_of_a_folder_is_replaced(tmp_path, kind):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "x").write_text("x")
    if kind == "file":
        (tmp_path / "key").write_text("x")
    else:
        (tmp_path / "key").symlink_to(tmp_path / "precious")
    cache.make_once(tmp_path / "key", whole, write, 10)
    assert whole(tmp_path / "key")
    assert (tmp_path / "precious" / "x").read_text() == "x"


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


@pytest.mark.parametrize("left_by", ["a killed process", "an interrupt"])
def test_what_was_begun_is_continued(tmp_path, left_by):
    folder = tmp_path / "set" / "key"

    def begin(half):
        (half / "half").write_text("x")
        raise KeyboardInterrupt

    if left_by == "an interrupt":
        with pytest.raises(KeyboardInterrupt):
            cache.make_once(folder, whole, begin, 10, resume=True)
    else:
        half = folder.parent / ".key.abc.tmp"
        half.mkdir(parents=True)
        (half / "half").write_text("x")
    seen = []
    cache.make_once(
        folder, whole, lambda path: (seen.extend(os.listdir(path)), write(path)), 10, resume=True
    )
    assert seen == ["half"]
    assert sorted(path.name for path in folder.parent.iterdir()) == [".key.lock", "key"]


def test_what_was_begun_is_not_continued_after_an_error(tmp_path):
    def fail(half):
        (half / "half").write_text("x")
        raise UserError("no")

    with pytest.raises(UserError, match="no"):
        cache.make_once(tmp_path / "key", whole, fail, 10, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == [".key.lock"]


def test_without_locks_or_behind_a_link_nothing_is_continued(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".linked.abc.tmp").symlink_to(tmp_path / "elsewhere")
    cache.make_once(tmp_path / "linked", whole, write, 10, resume=True)
    assert not list((tmp_path / "elsewhere").iterdir())

    def refuse(*_):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(fcntl, "flock", refuse)
    (tmp_path / ".key.abc.tmp").mkdir()
    cache.make_once(tmp_path / "key", whole, write, 10, resume=True)
    assert (tmp_path / ".key.abc.tmp").exists()  # its process may live


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


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
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
