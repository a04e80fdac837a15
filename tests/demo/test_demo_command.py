"""The command `leukjax.demo`: its errors, its files and connections, and how it ends."""

import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys

import pytest
from form import Client, cell, encoded

from leukjax import command
from leukjax.demo import cli

# Runs before any other import: records each file opened for writing and each connection.
WATCH = """
import os, sys

def watch(event, arguments):
    if event == "socket.connect":
        note(f"connect {arguments[1]}")
    elif event == "open":
        path, mode, flags = arguments
        if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            note(f"write {path}")
    elif event in ("os.rename", "os.mkdir", "os.remove", "os.link", "os.symlink"):
        note(f"write {arguments[0]}")

def note(line):
    os.write(2, f"WATCHED {line}\\n".encode())

sys.addaudithook(watch)
"""


def error_line(capsys, *flags: object) -> str:
    """Returns its error line."""
    cli.FLAGS.unparse_flags()
    for name in cli.FLAGS:
        cli.FLAGS[name].unparse()
    assert command.status(cli.main, cli.FLAGS, list(map(str, flags)), doc=None) == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    return line


def test_errors_before_anything_is_loaded(capsys, tmp_path):
    assert "--workdir is missing" in error_line(capsys)
    assert "named twice" in error_line(capsys, "--workdir=a,./a")
    assert "--config=cnn: not understood" in error_line(capsys, "--workdir=a", "--config=cnn")
    assert "x.png: not understood" in error_line(capsys, "--workdir=a", "x.png")
    assert "--max_error=2: must be a share" in error_line(capsys, "--workdir=a", "--max_error=2")
    assert "--step=x" in error_line(capsys, "--workdir=a", "--step=x")
    assert "--max_waiting=3" in error_line(capsys, "--workdir=a", "--max_waiting=3")
    empty = error_line(capsys, f"--workdir={tmp_path}", "--port=0")
    assert f"{tmp_path}: holds no run" in empty
    elsewhere = error_line(capsys, "--workdir=a", "--port=0", "--host=192.0.2.1")
    assert "--host=192.0.2.1: is not an address of this machine" in elsewhere


def test_a_missing_extra_is_named_with_its_command(capsys, monkeypatch):
    def find(name, *rest):
        return None if name == "uvicorn" else object()

    monkeypatch.setattr(importlib.util, "find_spec", find)
    line = error_line(capsys, "--workdir=a")
    assert line == "error: uvicorn is not installed; pip install 'leukjax[apply]'"


def test_a_port_in_use_is_an_error_before_the_run_is_read(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = error_line(capsys, "--workdir=nowhere", f"--port={port}")
    assert f"--port={port}: is in use" in line


def test_invalid_runs(capsys, trained_run, tmp_path):
    unfinished = tmp_path / "unfinished"
    shutil.copytree(trained_run, unfinished)
    shutil.rmtree(unfinished / "checkpoints")
    assert "checkpoint" in error_line(capsys, f"--workdir={unfinished}", "--port=0")
    other = tmp_path / "other"
    shutil.copytree(trained_run, other)
    about = json.loads((other / "preprocessing.json").read_text())
    about["classes"].reverse()
    (other / "preprocessing.json").write_text(json.dumps(about))
    line = error_line(capsys, f"--workdir={trained_run},{other}", "--port=0")
    assert "an ensemble needs the same classes" in line


def tree(*folders) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns)
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if "__pycache__" not in path.parts
    }


@pytest.mark.smoke("demo")
def test_it_writes_only_to_its_own_folder_and_opens_no_connection(
    trained_run, repository, tmp_path
):
    site, home, temporary = (tmp_path / name for name in ("site", "home", "tmp"))
    for folder in (site, home, temporary):
        folder.mkdir()
    (site / "sitecustomize.py").write_text(WATCH)
    before = tree(trained_run, home, temporary, repository / "leukjax")
    process = subprocess.Popen(
        [sys.executable, "-m", "leukjax.demo", f"--workdir={trained_run}", "--port=0"],
        cwd=home,
        env=os.environ
        | {
            "PYTHONPATH": f"{site}{os.pathsep}{repository}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": str(home),
            "XDG_CACHE_HOME": str(home / "cache"),
            "TMPDIR": str(temporary),
        },
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        output = []
        for line in process.stderr:
            output.append(line)
            if match := re.search(r"ready: http://127.0.0.1:(\d+)/", line):
                break
        client = Client(int(match[1]))
        noisy = encoded(cell(1, 900))  # above 1 MiB: it is stored on disk
        assert len(noisy) > 1 << 20
        assert len(client.rows(("large.png", noisy), ("bad.png", b"bad"))) == 2
    finally:
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=60)[1]
    output += rest.splitlines(keepends=True)
    assert process.returncode == 0, rest
    assert "stopped" in rest
    watched = [line.split(maxsplit=2)[1:] for line in output if line.startswith("WATCHED ")]
    assert [what for what, _ in watched if what == "connect"] == []
    written = {path.strip() for what, path in watched if what == "write"} - {"/dev/null", "1", "2"}
    assert any("leukjax-demo-" in path for path in written), output
    outside = {path for path in written if f"{temporary}/leukjax-demo-" not in path}
    # Python tries once whether TMPDIR can be written.
    assert [
        path for path in outside if not re.fullmatch(rf"{temporary}/[a-z0-9_]{{8}}", path)
    ] == []
    assert tree(trained_run, home, temporary, repository / "leukjax") == before
