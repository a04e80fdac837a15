"""benchmarks/fuzz.py: what counts as a failure, and what is observed."""

import mmap
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import fuzz_case
import fuzz_check
import fuzz_watch
from broken_case import Case, Surroundings

GOOD = "path,predicted,p_a,p_b,error\nx.png,a,0.9,0.1,\n"


def ended(case: Case, **changes) -> str:
    result = {"status": 0, "out": "", "err": "", "peak": 0} | changes
    before = {name: fuzz_watch.snapshot(case.folder / name) for name in ("outside", "inputs")}
    return fuzz_check.check(case, False, before, **result)


@pytest.fixture
def case(tmp_path) -> Case:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "answers.csv").write_text(GOOD)
    return Case("run", tmp_path, "", {}, command="predict", arguments=[], rows=1)


def test_good_endings(case):
    assert ended(case) == ""
    assert ended(case, status=1, err="wrote nothing\nerror: x: is damaged; remove it\n") == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"status": None, "err": "Traceback\nValueError: no\n"}, "raised: ValueError: no"),
        ({"err": "Traceback (most recent call last):\n"}, "traceback"),
        ({"status": 1, "err": ""}, "0 lines of error"),
        ({"status": 1, "err": "error: x\nand more\n"}, "more after it"),
        ({"status": 3}, "status 3"),
        ({"status": 1, "err": "error: out of memory; lower train.batch_size\n"}, "out of memory"),
        ({"peak": 2.1e9}, "2.1 GB"),
        ({"out": "\x1b[31m"}, "raw"),
        ({"err": "a\rb"}, "raw"),
    ],
)
def test_bad_endings(case, changes, message):
    assert message in ended(case, **changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("0.9,0.1", "nan,nan"), "probabilities"),
        (GOOD.replace("0.9,0.1", "0.9,0.3"), "probabilities"),
        (GOOD.replace("0.9,0.1", ","), "neither"),
        (GOOD + "y.png,a,0.9,0.1,\n", "2 rows for 1 files"),
        (GOOD + "y.png\n", "other lengths"),
    ],
)
def test_bad_tables(case, text, message):
    (case.folder / "out" / "answers.csv").write_text(text)
    assert message in ended(case)


def test_changed_inputs_and_temporary_files_are_problems(case):
    inputs = case.folder / "inputs"
    inputs.mkdir()
    before = {"inputs": fuzz_watch.snapshot(inputs)}
    (inputs / "new.png").write_bytes(b"")
    quiet = {"status": 0, "out": "", "err": "", "peak": 0}
    # A folder that was empty is not compared.
    assert fuzz_check.check(case, False, before, **quiet) == ""
    before = {"inputs": fuzz_watch.snapshot(inputs)}
    (inputs / "new.png").write_bytes(b"1")
    assert fuzz_check.check(case, False, before, **quiet) == "changed inputs/new.png"
    (case.folder / "out" / ".answers.csv.0123456789ab").write_text("")
    assert "left out/.answers.csv" in ended(case)


def test_writes_outside_and_imports_are_recorded(tmp_path):
    """In its own process: an audit hook cannot be removed."""
    (tmp_path / "in").mkdir()
    code = f"""
import sys, os
sys.path.insert(0, {str(Path(fuzz_watch.__file__).parent)!r})
import fuzz_watch
from pathlib import Path
base = Path({str(tmp_path)!r})
recorder = fuzz_watch.Recorder()
def problem():
    return fuzz_watch.written_elsewhere(recorder, [base / "in"], base / "outside")
recorder.start()
open(base / "in" / "a", "w").close()
assert problem() == "", problem()
(base / "in" / "link").symlink_to(base)
recorder.start()
open(base / "in" / "link" / "b", "w").close()
assert problem() == f"wrote {{base.resolve() / 'b'}}", problem()
recorder.start()
os.rename(base / "in" / "a", base / "c")
assert problem().endswith("c"), problem()
recorder.start()
try:
    open(base / "outside" / "secret")
except OSError:
    pass
assert problem().startswith("opened"), problem()
try:
    import fuzz_canary
except ImportError:
    pass
assert recorder.problems
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def run_python(monkeypatch, tmp_path):
    """Runs Python code instead of a command."""

    def run(code: str, case: Case, timeout: int = 20) -> dict:
        line = [sys.executable, "-c", code]
        monkeypatch.setattr(fuzz_case.broken_environments, "launcher", lambda *_: line)
        return fuzz_case.run_process(case, timeout)

    return run


def test_a_process_that_hangs_or_grows_is_killed(run_python, case, monkeypatch):
    assert "did not end" in run_python("import time; time.sleep(60)", case, timeout=0)["problem"]
    monkeypatch.setattr(fuzz_watch, "MEMORY", 10**8)
    grown = run_python("x = b'1' * 3 * 10**8; import time; time.sleep(60)", case)
    assert grown["problem"] == f"held {grown['peak'] / 1e9:.1f} GB"
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', "
    child += "\"x = b'1' * 3 * 10**8; import time; time.sleep(60)\"])"
    assert "held" in run_python(child, case)["problem"]


def test_a_file_in_the_working_directory_is_a_problem(run_python, case):
    assert "left x" in run_python("open('x', 'w')", case)["problem"]


def test_surroundings_reach_the_process(case):
    case.command, case.arguments = "predict", ["--help"]
    case.surroundings = Surroundings(
        streams={1: "closed"}, variables={"HOME": None}, before=["os.umask(0o77)"]
    )
    assert fuzz_case.run_process(case, 60)["out"] == ""
    case.surroundings = Surroundings(before=["print(os.environ['HOME'], flush=True)"],
                                     variables={"HOME": "/proc"})  # fmt: skip
    assert fuzz_case.run_process(case, 60)["out"].startswith("/proc\n")


def test_the_peak_is_reset_between_cases():
    # Mapped, because a process that trained keeps what it frees (`runtime.hold_memory`).
    with mmap.mmap(-1, 300 * 2**20) as data:
        for start in range(0, len(data), 4096):
            data[start] = 1
        high = fuzz_watch.peak()
    fuzz_watch.forget_peak()
    assert fuzz_watch.peak() < high - 2 * 10**8
