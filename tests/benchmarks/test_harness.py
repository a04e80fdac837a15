"""The arithmetic of benchmarks/harness.py, and its processes."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import harness

COUNTING = """
import sys
sys.path.insert(0, {folder!r})
import harness

def prepare(spec):
    print("a library that prints")
    count = 0
    def run():
        nonlocal count
        count += 1
        if spec["name"] == "d" and count == 2:
            raise MemoryError("on the way")
        with open(spec["order"], "a") as file:
            file.write(spec["name"])
        return {{"speed": spec["speed"] * count}}
    if spec["speed"] == 0:
        raise ValueError("cannot run here")
    return {{"device": "abacus"}}, run

harness.serve(prepare)
"""


@pytest.fixture
def contender(tmp_path):
    script = tmp_path / "counting.py"
    script.write_text(COUNTING.format(folder=str(Path(harness.__file__).parent)))

    def make(name: str, speed: float) -> harness.Contender:
        spec = {"name": name, "speed": speed, "order": str(tmp_path / "order")}
        return harness.Contender(name, str(script), spec)

    return make


def test_quartiles_and_ratio_within_rounds():
    values = [3.0, 1.0, 10.0, 2.0, 7.5]
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    assert harness.spread(values) == (median, low, high)
    # Every second round is ten times slower: the ratio does not show it.
    assert harness.ratio([20.0, 2.0, 22.0], [10.0, 1.0, 11.0]) == (2.0, 2.0, 2.0)


def test_rounds_interleave_and_a_failing_contender_is_left_out(contender, tmp_path, capsys):
    field = [contender("a", 4.0), contender("b", 2.0), contender("c", 0), contender("d", 1.0)]
    results = harness.measure(field, rounds=3, touch=False)
    assert (tmp_path / "order").read_text() == "abdabab"
    assert [answer["speed"] for answer in results["a"]] == [4.0, 8.0, 12.0]
    assert results["b"][0]["device"] == "abacus"
    assert set(results) == {"a", "b"}
    errors = capsys.readouterr().err
    assert "c: ended; ValueError: cannot run here" in errors
    assert "d: ended; MemoryError: on the way" in errors
    line = harness.verdict("counting", "speed", results, ours="a")
    assert line == "counting: a 8 [6, 10] speed, 2 [2, 2] x b"


def test_rows_are_appended_and_new_columns_added(tmp_path):
    results = {"ours": [{"v": 2.0, "device": "cpu"}], "peer": [{"v": 1.0, "device": "cpu"}]}
    rows = harness.rows(results, "v", ours="ours", about={"batch": 32})
    harness.append("one", rows[:1], tmp_path)
    file = harness.append("one", rows[1:], tmp_path)
    with file.open(newline="") as lines:
        first, second = csv.DictReader(lines)
    assert (first["median"], first["batch"], first["ours_ratio_median"]) == ("2.0", "32", "")
    assert (second["contender"], second["ours_ratio_median"]) == ("peer", "2.0")


def test_a_step_is_repeated_for_the_given_time():
    done = []
    run = harness.repeated(lambda: done.append(1) or len(done), lambda result: None, seconds=0)
    assert run()["steps"] == 1
    assert len(done) == 4  # two to warm up, one to learn how long it takes, one measured


def test_a_variable_names_the_folder_of_the_peers(tmp_path, monkeypatch):
    monkeypatch.setenv("LEUKJAX_PEERS", str(tmp_path))
    assert harness.peers_python() is None
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    assert harness.peers_python() == str(tmp_path / "bin" / "python")


def test_touching_memory_leaves_the_peak_of_this_process(monkeypatch):
    monkeypatch.setattr(harness, "MOST_TOUCHED", 2**28)
    ran = []
    run = subprocess.run
    monkeypatch.setattr(
        harness.subprocess, "run", lambda *a, **options: ran.append(run(*a, **options))
    )
    before = harness.host_memory()
    harness.touch_memory.__wrapped__()
    assert [done.returncode for done in ran] == [0]
    assert harness.host_memory() < before + 2**27
