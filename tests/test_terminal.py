"""Standard output and error: any name can be printed, and a reader that leaves ends nothing."""

import os
import subprocess
import sys

import pytest

from leukjax import terminal

# Prints what it is given on both streams, in the way of a command.
PROGRAM = """
import sys
from absl import flags, logging
from leukjax import command
def main(names, overrides, arguments):
    print("table", *arguments)
    logging.error("log %s", *arguments[:1])  # what is no error is left out: this is not our file
    sys.stderr.write("bar\\rbar\\n")
    for _ in range(int(arguments[-1]) if arguments[-1].isdigit() else 0):
        print("line" * 20)
        logging.error("more")
    open(sys.argv[1].removeprefix("--v="), "w").write("done")
values = flags.FlagValues()
flags.DEFINE_string("v", "", "file", flag_values=values)
command.run(main, values, doc=None)
"""


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("plain, 白血球 é\tx\n", "plain, 白血球 é\tx\n"),
        ("a\x1b[2Jb\rc\x07\x9b", "a\\x1b[2Jb\\rc\\x07\\x9b"),
        ("right\u202eleft\u2066", "right\\u202eleft\\u2066"),
        ("not utf-8 \udcff", "not utf-8 \\udcff"),
    ],
)
def test_escape(text, escaped):
    assert terminal.escape(text) == escaped


def _run(tmp_path, arguments, shell="", **environment):
    done = tmp_path / "done"
    command = [sys.executable, "-c", PROGRAM, f"--v={done}", *arguments]
    if shell:
        command = ["bash", "-c", f'"$@" {shell}', "bash", *command]
    ended = subprocess.run(
        command, capture_output=True, env=os.environ | environment, timeout=60, check=False
    )
    return ended, done.exists()


def test_names_on_a_terminal_that_lacks_their_letters(tmp_path):
    name = os.fsencode("白–é\x1b[31m") + b"\xff"
    for encoding, shown in (
        ("ascii", rb"\u767d-\xe9\x1b[31m\udcff"),
        ("latin-1", b"\\u767d-\xe9\\x1b[31m\\udcff"),
        ("utf-8", "白–é".encode() + rb"\x1b[31m\udcff"),
    ):
        ended, done = _run(tmp_path, [name], PYTHONIOENCODING=encoding)
        assert ended.returncode == 0, ended.stderr
        assert done
        assert b"table " + shown in ended.stdout
        assert ended.stderr.startswith(b"error: log " + shown)
        assert b"\x1b" not in ended.stdout + ended.stderr
        assert b"Traceback" not in ended.stderr
        assert b"Error" not in ended.stderr


@pytest.mark.parametrize(
    "shell", ["| head -1", "2>&-", ">&-", ">&- 2>&-", "2>&1 | true", "2> /dev/full"]
)
def test_a_reader_that_leaves_does_not_end_the_work(tmp_path, shell):
    # More than a pipe holds.
    ended, done = _run(tmp_path, ["2000"], f"{shell}; exit ${{PIPESTATUS[0]}}")
    assert done, ended.stderr
    assert ended.returncode == 0
    assert b"Traceback" not in ended.stderr
    assert b"BrokenPipe" not in ended.stderr


def test_a_full_disk_under_standard_output_is_one_line(tmp_path):
    for unbuffered in ("", "1"):
        ended, _ = _run(tmp_path, ["x"], "> /dev/full", PYTHONUNBUFFERED=unbuffered)
        assert ended.returncode == 1
        last = ended.stderr.decode().splitlines()[-1]
        assert last.startswith("error: standard output: no space left on the device")
        assert ended.stderr.count(b"error: standard output") == 1
        assert b"Traceback" not in ended.stderr


def test_closed_streams_do_not_give_their_numbers_to_files(tmp_path):
    """A file opened as number 2 would get what libraries write to standard error."""
    code = "from leukjax import terminal as t; t.prepare(); print(open(t.__file__).fileno())"
    ended = subprocess.run(
        ["bash", "-c", '"$@" 2>&- <&-', "bash", sys.executable, "-c", code],
        capture_output=True,
        text=True,
    )
    assert int(ended.stdout) > 2
