"""Rows of benchmarks/compiled.py: requests, resuming, tables. Nothing is compiled for a GPU."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import compiled
import compiled_grid
from compiled_grid import OURS, PLAIN, Row

BENCHMARKS = Path(compiled.__file__).parent
MEASURED = {
    "precision": "bfloat16",
    "versions": "jax 1 libtpu 2",
    "reader": "r",
    "megabytes_per_image": 300.0,
    "gigaflops_per_image": 25.0,
    "roofline_microseconds_per_image": 100.0,
    "images_per_second_bound": 10000.0,
    "bound_by_memory": 0.9,
    "peak_gigabytes": 4.0,
    "all_reduces": 0,
    "all_reduce_megabytes": 0.0,
    "all_reduces_overlapped": 0,
    "links_microseconds_per_image": 0.0,
    "estimated_cycles": 0,
    "compile_seconds": 40.0,
}


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The command with a fake compiler; calling it returns the requests that it received."""
    requests = []

    def run(command, input, **_):
        request = json.loads(input)
        requests.append(request)
        words = (request["contender"], request["fields"]["train.batch_size"], request["flags"])
        program = str(words)
        answer = {"row": {**MEASURED, "program": program}}
        if request["config"] == "broken":
            answer = {"error": "does not fit"}
        elif [program, MEASURED["versions"], MEASURED["reader"]] in request["known"]:
            answer = {"known": program}
        return subprocess.CompletedProcess(command, 0, json.dumps(answer) + "\n", "")

    monkeypatch.setattr(compiled.subprocess, "run", run)
    monkeypatch.setattr("leukjax.compiler.targets.missing", lambda target: "")
    monkeypatch.setattr(compiled.harness, "commit", lambda: "abc1234")

    def call(*given):
        flags.FLAGS.unparse_flags()
        for name in flags.FLAGS.flags_by_module_dict()[compiled.__name__]:
            flags.FLAGS[name.name].unparse()
        flags.FLAGS(["compiled.py", f"--results={tmp_path}", *given])
        compiled.main([])
        return requests

    return call


def rows_of(folder):
    with (folder / "compiled.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_a_pair_gives_two_rows_a_table_and_a_verdict(command, tmp_path, capsys):
    command("--devices=h100:8", "--batch=16")
    ours, plain = rows_of(tmp_path)
    assert (ours["contender"], plain["contender"]) == (OURS, PLAIN)
    assert (ours["device"], ours["devices"], ours["batch"]) == ("h100", "8", "16")
    output = capsys.readouterr().out
    assert "1.00 of plain Flax's bytes" in output


def test_existing_rows_are_compiled_again_only_with_the_flag(command, tmp_path):
    command("--devices=h100:1")
    command("--devices=h100:1")
    assert len(rows_of(tmp_path)) == 2
    command("--devices=v5e:1")  # another device is another row
    assert len(rows_of(tmp_path)) == 4
    command("--devices=h100:1", "--again")
    assert len(rows_of(tmp_path)) == 6


def test_equal_programs_of_two_levers_are_two_rows(command, tmp_path):
    for lever in ("sgd", "accumulate 4", "sgd"):  # the fake compiler does not distinguish them
        command(f"--lever={lever}")
    assert [row["lever"] for row in rows_of(tmp_path)] == ["sgd", "accumulate 4"]


def test_the_grid_resumes(command, tmp_path, monkeypatch):
    rows = [Row("h100", 1, OURS, "cnn", batch) for batch in (1, 2, 3)]
    monkeypatch.setattr(compiled_grid, "grid", lambda: rows)
    command("--grid", "--only=, [12] a device")
    requests = command("--grid")
    assert [row["batch"] for row in rows_of(tmp_path)] == ["1", "2", "3"]
    assert [len(request["known"]) for request in requests] == [0, 0, 1, 1, 0]


def test_a_row_that_fails_does_not_stop_the_others(command, tmp_path, monkeypatch, capsys):
    rows = [Row("h100", 1, OURS, name) for name in ("broken", "cnn")]
    monkeypatch.setattr(compiled_grid, "grid", lambda: rows)
    with pytest.raises(SystemExit, match="1 of 2 rows failed"):
        command("--grid")
    assert len(rows_of(tmp_path)) == 1
    assert "does not fit" in capsys.readouterr().err


def test_a_field_without_a_value_is_named(command):
    with pytest.raises(SystemExit, match=r"--field=train\.remat: must be FIELD=VALUE"):
        command("--field=train.remat")


def test_every_row_of_the_grid_is_a_config_that_loads():
    from leukjax import config as configs

    rows = compiled_grid.grid()
    assert len({row.label for row in rows}) == len(rows)
    requests = [row.request(Path("p"), []) for row in rows]
    for text in {json.dumps([request["config"], request["fields"]]) for request in requests}:
        name, fields = json.loads(text)
        config = configs.load(name, fields)
        assert config.data.image_size == 224


def test_without_alike_the_config_is_unchanged():
    row = Row("h100", 1, OURS, "resnet50", fields=(("train.remat", "True"),), alike=False)
    fields = row.request(Path("p"), [])["fields"]
    assert fields == {
        "compute_dtype": "bfloat16",
        "model.fused": "on",
        "train.batch_size": 128,
        "train.remat": "True",
    }
    assert row.label.endswith("leukjax, train.remat=True as configured")


def test_without_the_compilers_one_line_says_what_to_install():
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT, str(BENCHMARKS)], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "pip install -e '.[preflight]'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


_WITHOUT = """
import sys
sys.path.insert(0, sys.argv[1])
from leukjax.compiler import targets
targets.importlib.util.find_spec = lambda name: None
import compiled
sys.argv = ["compiled.py", "--nosave"]
compiled.app.run(compiled.main)
"""
