"""benchmarks/run_all.sh: its commands, and the CSV that it writes."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import harness
import merge_results

SCRIPT = Path(merge_results.__file__).with_name("run_all.sh")
ABOUT = {"accelerator": "1 x H100", "processor": "abacus"}


def call(*arguments, **environment):
    return subprocess.run(
        [str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHON": sys.executable, "JAX_PLATFORMS": "cpu"} | environment,
    )


def test_a_dry_run_names_every_benchmark_and_writes_nothing(tmp_path):
    done = call("--dry-run", f"--out={tmp_path / 'run'}")
    assert done.returncode == 0
    of_cpu = merge_results.ON_CPU + merge_results.WITHOUT_ROWS
    for name in merge_results.BENCHMARKS + of_cpu:
        assert f"benchmarks/{name}.py" in done.stdout
        assert SCRIPT.with_name(f"{name}.py").exists()
    assert "accelerators are not measured" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", [[], ["--small"]])
def test_every_command_uses_flags_of_its_benchmark(form):
    commands = [line for line in call("--dry-run", *form).stdout.splitlines() if "==" in line]
    assert len(commands) == 10
    for command in commands:
        script, *words = command.split("benchmarks/")[1].split()
        text = SCRIPT.with_name(script).read_text()
        for word in words:
            name = word.removeprefix("--").partition("=")[0]
            assert f'"{name}"' in text, f"{script}: {word}"


def test_an_unknown_flag_is_named():
    done = call("--dryrun")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "--dryrun: unknown" in done.stderr


def test_without_jax_one_line_says_what_to_install(tmp_path):
    done = call("--dry-run", PYTHON="/bin/false")
    assert done.returncode == 1
    assert "make train" in done.stderr


def write(folder, name, *rows):
    harness.append(name, list(rows), folder)


def test_rows_of_all_benchmarks_with_their_machine(tmp_path):
    write(tmp_path, "startup", {"device": "x", "seconds": "3"})
    write(tmp_path, "compiled", {"device": "h100", "megabytes_per_image": "300"})
    rows = merge_results.merged(tmp_path, ["startup", "compiled"], {}, ABOUT)
    assert [row["status"] for row in rows] == ["measured", "compiled ahead of time"]
    assert all(row["processor"] == "abacus" for row in rows)
    write(tmp_path, "all", *rows)
    with (tmp_path / "all.csv").open(newline="") as lines:
        assert [row["seconds"] for row in csv.DictReader(lines)] == ["3", ""]


def test_a_benchmark_that_failed_or_wrote_nothing_is_not_measured(tmp_path):
    write(tmp_path, "startup", {"seconds": "3"})
    reasons = {"startup": "error: the disk is full"}
    rows = merge_results.merged(tmp_path, ["startup", "predict"], reasons, ABOUT)
    assert [row["status"] for row in rows] == [
        "measured",
        "not measured: error: the disk is full",
        "not measured: it wrote no rows",
    ]


def test_without_an_accelerator_the_status_says_so(tmp_path):
    about = ABOUT | {"accelerator": ""}
    write(tmp_path, "startup", {"seconds": "3"})
    write(tmp_path, "compiled", {"seconds": "3"})
    rows = merge_results.merged(tmp_path, ["startup", "compiled"], {}, about)
    assert [row["status"] for row in rows] == [
        "measured",
        "not measured: on GPU or TPU: JAX saw none",
        "compiled ahead of time",
    ]


FAILING = """#!/bin/sh
case "$1" in
  *merge_results.py | -c) exec {python} "$@" ;;
  *startup.py) exit 3 ;;
  *) echo "error: the GPU is gone" >&2; exit 1 ;;
esac
"""


def test_a_failure_does_not_stop_the_others_and_its_reason_is_kept(tmp_path):
    python = tmp_path / "python"
    python.write_text(FAILING.format(python=sys.executable))
    python.chmod(0o755)
    out = tmp_path / "run"
    done = call("--small", "--only=startup", "--only=predict", f"--out={out}", PYTHON=str(python))
    assert done.returncode == 0, done.stderr
    with (out / "results.csv").open(newline="") as lines:
        statuses = {(row["benchmark"], row["status"]) for row in csv.DictReader(lines)}
    reasons = {"predict": "error: the GPU is gone", "startup": "no message"}
    assert {(name, f"not measured: {why}") for name, why in reasons.items()} <= statuses
