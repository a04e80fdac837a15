"""A finished run from an untrusted source: some of its files are changed."""

import csv
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import broken_values
import numpy as np
from broken_case import FIELDS, Case, damage, write_folder

from leukjax import storage
from leukjax.checkpoints import checksums

REPOSITORY = Path(__file__).resolve().parents[1]

# Files that are read back, with their weights.
_FILES = {
    "config.json": 6,
    "preprocessing.json": 6,
    "summary.json": 4,
    "data.json": 3,
    "split.csv": 3,
    "predictions/test.csv": 5,
    "predictions/val.csv": 4,
    "unlikeness.npz": 4,
    "test_openings.jsonl": 2,
    "starts.jsonl": 1,
    "metrics.jsonl": 2,
    "duplicates.csv": 2,
    ".reached": 1,
    "robustness": 2,
    "checkpoint": 6,
    "arrays": 5,
    "places": 4,
    "links": 3,
}
# Quick commands have larger weights.
_COMMANDS = {"predict": 0.4, "evaluate": 0.2, "explain": 0.1, "robustness": 0.13, "compare": 0.17}
_DISTORTION = "brightness_up"

_MAKE = """
import importlib, sys, json
from leukjax import command
from leukjax.__main__ import module_of
for name, argv in json.loads(sys.argv[1]):
    module = importlib.import_module(module_of(name))
    status = command.status(module.main, module.FLAGS, argv, doc=None)
    assert status == 0, f"{name} ended with {status}"
    for flag in module.FLAGS:
        module.FLAGS[flag].unparse()
"""


@functools.cache
def template() -> Path:
    """Returns a folder with a tiny trained run (run/), its images (data/) and answers.csv.

    Made once per state of the sources, and kept in the temporary folder.
    """
    sources = hashlib.sha256(Path(__file__).read_bytes())
    for file in sorted((REPOSITORY / "leukjax").rglob("*.py")):
        sources.update(file.read_bytes())
    base = Path(os.environ.get("LEUKJAX_FUZZ_BASE") or tempfile.gettempdir())
    folder = base / f"leukjax-fuzz-run-{sources.hexdigest()[:16]}"
    base.mkdir(parents=True, exist_ok=True)
    with storage.lock(base / f".{folder.name}.lock", wait=True):
        if not (folder / "answers.csv").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            _make(folder)
    return folder


def _make(folder: Path) -> None:
    case = Case("", folder, "cnn:image_folder", dict(FIELDS))
    paths = write_folder(case, np.random.default_rng(0))
    run, asked = folder / "run", folder / "asked"
    asked.mkdir()
    for path in paths[::7]:
        shutil.copy(path, asked)
    again = [f"--workdir={run}", f"--config.data.root={folder / 'data'}"]
    commands = [
        ("main", case.argv()),
        ("robustness", [*again, f"--distortions={_DISTORTION}"]),
        ("predict", [f"--workdir={run}", str(asked), f"--output={folder / 'answers.csv'}"]),
    ]
    unlike = [*again, str(asked), f"--output={folder / 'unlike.csv'}", "--flag_unlike"]
    commands.insert(2, ("predict", unlike))
    # The run must name no cache: the commands of the cases use their own.
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, "-c", _MAKE, json.dumps(commands)], env=environment, check=True,
                   cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip


def copy_run(case: Case) -> Path:
    """Copies the run for a case to damage, and makes a folder that no case may touch."""
    run = case.folder / "run"
    shutil.copytree(template() / "run", run)
    shutil.copytree(template() / "asked", case.folder / "inputs")
    outside = case.folder / "outside"
    (outside / "cache").mkdir(parents=True)
    (outside / "secret.txt").write_text("not for the report")
    shutil.copytree(template() / "data", outside / "images")
    return run


def run(case: Case, random: np.random.Generator) -> None:
    """Changes one to three files of a run; then chooses a command that reads a run."""
    folder = copy_run(case)
    names, weights = list(_FILES), np.array(list(_FILES.values()), float)
    for name in random.choice(names, random.integers(1, 4), p=weights / weights.sum()):
        what = _change(str(name), folder, case.folder / "outside", random)
        case.changes.append(f"{name}: {what}")
    choose(case, str(random.choice(list(_COMMANDS), p=list(_COMMANDS.values()))), random)


def choose(case: Case, command: str, random: np.random.Generator) -> None:
    """Sets the command line of a command that reads a run."""
    run, out, inputs = (case.folder / name for name in ("run", "out", "inputs"))
    case.command = command
    data = f"--config.data.root={template() / 'data'}"
    extra: dict[str, tuple[str, ...]] = {
        "predict": (
            "--flag_unlike",
            data,
            "--calibrated",
            "--tta",
            "--max_error=0.4",
            "--step=latest",
        ),
        "evaluate": ("--part=val", "--tta", data, data, "--threshold=sensitivity=0.9"),
        "explain": ("--method=occlusion", "--overlays=false", "--method=gradcam", "--steps=8"),
        "robustness": (data, data, data, "--part=val", "--background=masked"),
        "compare": ("--positive=blast", "--positive=healthy"),
    }
    chosen = random.choice(extra[command], random.integers(0, 3), replace=False).tolist()
    chosen = list({flag.split("=")[0]: flag for flag in chosen}.values())
    given = {
        "predict": [f"--workdir={run}", str(inputs), f"--output={out / 'answers.csv'}"],
        "evaluate": [f"--workdir={run}", f"--output={out}"],
        "explain": [f"--workdir={run}", str(inputs), f"--output={out}"],
        "robustness": [f"--workdir={run}", f"--distortions={_DISTORTION}", f"--output={out}"],
        "compare": [f"theirs={run}", f"ours={template() / 'run'}", f"--output={out}"],
    }
    case.arguments = [*given[command], *chosen]
    out.mkdir()
    if command == "predict":
        # Hidden files are left out.
        case.rows = sum(not path.name.startswith(".") for path in inputs.iterdir())


def _change(name: str, run: Path, outside: Path, random: np.random.Generator) -> str:
    """Changes one of `_FILES`; returns a description."""
    if name == "places":
        return _redirect_paths(run, outside, random)
    if name == "links":
        return _link(run, outside, random)
    path = run / name
    if name in ("robustness", "arrays", "checkpoint") and not (run / "checkpoints").is_dir():
        return "a link already"
    if name == "robustness":
        return _change_file(_some_file(path, random), outside, random) if path.is_dir() else "none"
    if name not in ("arrays", "checkpoint"):
        return _change_file(path, outside, random)
    checkpoint = max(
        (path for path in (run / "checkpoints").iterdir() if path.name.isdigit()),
        key=lambda path: int(path.name),
        default=None,
    )
    if checkpoint is None:
        return "a link already"
    if name == "arrays":
        what = _change_arrays(checkpoint / "state", random)
    else:
        what = _change_file(_some_file(checkpoint, random), outside, random)
    if random.random() < 0.8 and (checkpoint / checksums.NAME).is_file():
        _seal(checkpoint)
        what += ", checksums updated"
    return what


def _some_file(folder: Path, random: np.random.Generator) -> Path:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return files[int(random.integers(len(files)))]


def _change_file(path: Path, outside: Path, random: np.random.Generator) -> str:
    if not path.is_file() or path.is_symlink() or path.stat().st_size > 2**30:
        return "changed already"
    if random.random() < 0.15:
        return broken_values.make_special(path, random, outside)
    data = path.read_bytes()
    try:
        if path.suffix == ".npz":
            data = broken_values.change_arrays(data, random)
        elif path.suffix == ".csv":
            data = broken_values.change_table(broken_values.read_table(data), random)
        else:
            data = broken_values.change_json(data, random)
    except (ValueError, KeyError, IndexError, EOFError, OSError, zipfile.BadZipFile, csv.Error):
        # Damaged already, or not JSON.
        data = damage(data, random)
    path.write_bytes(data)
    return path.name


def _change_arrays(state: Path, random: np.random.Generator) -> str:
    """Changes the metadata of an array in a checkpoint: shape, type, chunks."""
    import tensorstore

    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": f"file://{state}"}).result()
    try:
        names = [name for name in store.list().result() if name.endswith(b"/.zarray")]
        name = names[int(random.integers(len(names)))]
        described = json.loads(store.read(name).result().value)
    except (ValueError, IndexError):
        return "damaged already"
    how = random.integers(6)
    if how == 0:
        size = 2 ** int(random.choice((20, 28, 31, 33, 62)))
        described["shape"] = [size] * len(described["shape"])
    elif how == 1:
        described["shape"] = described["chunks"] = [2**29]
        described["fill_value"] = 0
    elif how == 2:
        described["dtype"] = str(random.choice(("<f8", "|S1000000", "<c16", "|b1", "<M8[ns]")))
    elif how == 3:
        store.write(name, None).result()
        return f"{name.decode()} removed"
    elif how == 4:
        prefix = name.removesuffix(b".zarray")
        values = [other for other in store.list().result() if other.startswith(prefix)]
        store.write(values[-1], damage(store.read(values[-1]).result().value, random)).result()
        return f"{values[-1].decode()} damaged"
    else:
        described = broken_values.change(described, random)
    text = broken_values.dump(described)
    store.write(name, text.encode(errors="replace")).result()
    return f"{name.decode()} = {text[:200]}"


def _seal(checkpoint: Path) -> None:
    """Updates the checksums, as anyone who changes a checkpoint can."""
    sums = {
        str(path.relative_to(checkpoint)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(checkpoint.rglob("*"))
        if path.name != checksums.NAME and path.is_file() and path.stat().st_size < 2**30
        and path.resolve().is_relative_to(checkpoint.resolve())
    }  # fmt: skip
    (checkpoint / checksums.NAME).write_text(checksums.text_of(sums))


def _redirect_paths(run: Path, outside: Path, random: np.random.Generator) -> str:
    """Points a config to paths elsewhere on this machine, which must stay untouched."""
    path = run / "config.json"
    try:
        config = json.loads(path.read_bytes())
        sections = config["data"], config["runtime"]
        sections[0]["cache_dir"] = str(outside / "cache")
        sections[1]["compilation_cache"] = str(outside / "compiled")
        if random.random() < 0.5:
            sections[0]["root"] = str(outside / "images")
        if random.random() < 0.3:
            sections[0]["subject_csv"] = str(outside / "secret.txt")
        if random.random() < 0.3:
            sections[0]["threads"], sections[0]["workers"] = 256, 64
    except (ValueError, KeyError, TypeError, OSError):
        return "changed already"
    prepared = outside / "cache" / "image_folder" / "0" / "image_folder" / "1.0.0"
    prepared.mkdir(parents=True, exist_ok=True)
    (prepared / "features.json").write_text(json.dumps({"pythonClassName": "fuzz_canary.Canary"}))
    path.write_text(json.dumps(config))
    return "config.json names them"


def _link(run: Path, outside: Path, random: np.random.Generator) -> str:
    """Replaces sub-folders or lock files by links to a folder outside."""
    target = outside / "linked"
    target.mkdir(exist_ok=True)
    (target / "kept.txt").write_text("not to be removed")
    (target / "predictions").mkdir(exist_ok=True)
    (target / "predictions" / "kept.csv").write_text("id\n")
    odd = ("robustness", "evaluation", ".lock", "test_openings.jsonl", "predictions", "figures",
           "checkpoints", "unlikeness.npz")  # fmt: skip
    path = run / odd[int(random.integers(len(odd)))]
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.symlink_to(target if "." not in path.name else target / "kept.txt")
    return f"{path.name} is a link outside"
