"""Everything that a user can do wrong is answered by one line, status 1 and nothing half-written.

The real command gets every case; many cases share a process, which must continue after each.
"""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bad_inputs import CASES, arguments, cell, images, png, write
from many import run_all
from PIL import Image
from runs import REPOSITORY


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, and every folder, with its content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if os.access(path, os.R_OK) and not path.is_symlink():
            found[str(path)] = path.read_bytes() if path.is_file() else b""
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("bad")


def test_every_bad_input_is_answered_by_one_line(place):
    good = place / "good"
    commands = {"good": arguments(good, {"data.root": images(good / "data")})}
    for name, (make, _) in CASES.items():
        folder = place / name
        folder.mkdir()
        commands[name] = arguments(folder, make(folder))
    before = {name: snapshot(place / name) for name in CASES}
    answers = dict(
        zip(commands, run_all(list(commands.values()), place / "cache", devices=4), strict=True)
    )
    assert answers.pop("good")["status"] == 0
    problems = {}
    for name, answer in answers.items():
        lines = answer["err"].splitlines() or [""]
        says = f"error: .*{CASES[name][1]}"
        if answer["status"] != 1:
            problems[name] = answer["err"][-2000:]
        elif not re.match(says, lines[-1]):
            problems[name] = f"{lines[-1]!r} is not {says!r}"
        elif "Traceback" in answer["err"] or sum("error:" in line for line in lines) != 1:
            problems[name] = answer["err"]
        elif snapshot(place / name) != before[name]:
            left = snapshot(place / name).keys() - before[name].keys()
            problems[name] = f"left {sorted(left)}"
    assert not problems, "\n\n".join(f"{name}: {text}" for name, text in problems.items())
    half = [path for path in (place / "cache").rglob("*") if path.name.endswith(".tmp")]
    assert not half
    # The run that stood there before still stands.
    assert (good / "run" / "summary.json").exists()


def test_bad_images_are_skipped_and_odd_ones_converted(tmp_path):
    root = images(tmp_path / "data")
    bad = {
        "empty.png": b"",
        "cut.png": png(cell(1))[:-200],
        "text.png": b"hello",
        "one.png": png(cell(1)[:1, :1]),
        "huge.png": png(Image.new("1", (20_000, 20_000))),
    }
    whole, exif = Image.fromarray(cell(5)), Image.Exif()
    exif[0x0112] = 6
    wide = Image.fromarray(np.asarray(whole.convert("L")).astype(np.uint16) * 257)
    odd = {
        "cmyk.jpg": png(whole.convert("CMYK"), "JPEG"),
        "sixteen.png": png(wide),
        "grey.png": png(whole.convert("L")),
        "alpha.png": png(whole.convert("RGBA")),
        "turned.jpg": png(whole, "JPEG", exif=exif),
    }
    for name, content in (bad | odd).items():
        write(root / "blast" / f"p00_{name}", content)
    run = tmp_path / "run"
    changes = {"data.root": root, "data.bad_images": "skip", "workdir": run}
    (answer,) = run_all([arguments(tmp_path, changes)], tmp_path / "cache")
    assert answer["status"] == 0, answer["err"]
    with open(run / "skipped.csv", newline="") as file:
        skipped = {row["id"]: row["reason"] for row in csv.DictReader(file)}
    assert skipped.keys() == {f"blast/p00_{name}" for name in bad}
    assert all(id in reason for id, reason in skipped.items())
    with open(run / "split.csv", newline="") as file:
        used = {row["id"] for row in csv.DictReader(file)}
    assert len(used) == 24 + len(odd)
    assert {f"blast/p00_{name}" for name in odd} <= used
    said = answer["err"]
    assert "5 of 34 images cannot be decoded and are left out" in said
    assert "5 images were left out: see skipped.csv" in said
    conversions = "16-bit: 1, CMYK: 1, EXIF rotation: 1, grey: 2, transparency: 1 images"
    assert f"converted to 8-bit RGB ({conversions})" in said


def fuzz(place: Path, kinds: str, *flags: str) -> str:
    """What the fuzz command prints, with what failed if anything did."""
    script = REPOSITORY / "benchmarks" / "fuzz.py"
    keep = f"--keep={place / 'failed'}"
    # Not the folder for temporary files that all users share.
    options = {"TMPDIR": str(place), "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, str(script), f"--kind={kinds}", keep, *flags]
    done = subprocess.run(command, env=os.environ | options, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_damaged_inputs_drawn_at_random(tmp_path):
    kinds = "image,table,tables,labels,zip,folder,field,extreme,config file,cache"
    said = fuzz(tmp_path, kinds, "--count=60", "--seed=1", "--train_every=30", "--process_every=0")
    assert "seed 1: 60 cases, 0 failed" in said
    assert "succeeded" in said
    assert "refused in one line" in said


@pytest.mark.slow
def test_damaged_runs_hostile_files_odd_names_and_environments_drawn_at_random(tmp_path):
    said = fuzz(tmp_path, "run,hostile,names,environment", "--count=40", "--seed=1")
    assert "seed 1: 40 cases, 0 failed" in said
    for kind in ("run", "hostile", "names", "environment"):
        assert f"  {kind}" in said
