"""A run folder prepared to do harm is predicted, explained, evaluated, compared, distorted.

Nothing outside the own cache and the output is created, read or changed, and nothing that the
folder names is imported: a tree is compared before and after, and an audit hook records every
opened path, every change of a name and every import.
"""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leukjax.data import record_files

REPOSITORY = Path(__file__).resolve().parents[2]

# Runs commands in one process and records what they touch. The hook is there before leukjax is.
PROGRAM = """
import json, os, sys
touched, events = [], {"open", "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.listdir",
                       "os.scandir", "os.symlink", "os.link", "os.truncate", "os.chmod",
                       "shutil.rmtree", "subprocess.Popen", "os.system", "import", "exec"}
def hook(event, arguments):
    if event in events:
        touched.append([event, [os.fsdecode(a) if isinstance(a, (str, bytes)) else str(a)
                                for a in arguments[:2]]])
sys.addaudithook(hook)
os.environ["MPLBACKEND"] = "Agg"
import importlib
from leukjax import command
from leukjax.__main__ import module_of
statuses = []
for name, *arguments in json.loads(sys.argv[1]):
    module = importlib.import_module(module_of(name))
    module.FLAGS.unparse_flags()
    for flag in module.FLAGS:
        module.FLAGS[flag].unparse()
    print(f"== {name}", file=sys.stderr, flush=True)
    statuses.append(command.status(module.main, module.FLAGS, arguments, doc=module.__doc__))
sys.stdout = sys.__stdout__
print("RESULT " + json.dumps({"statuses": statuses, "touched": touched,
                              "modules": sorted(sys.modules)}))
"""


def tree(folder: Path) -> dict[str, tuple]:
    """Every path below a folder, with what it is, holds, and when it was changed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        stat = path.lstat()
        data = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        digest = hashlib.sha256(data).hexdigest()
        found[str(path.relative_to(folder))] = (stat.st_mode, stat.st_mtime_ns, digest)
    return found


def png(number: int) -> bytes:
    random = np.random.default_rng(number)
    file = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (30, 30, 3)).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def alter(path: Path, **sections) -> None:
    content = json.loads(path.read_text())
    for name, fields in sections.items():
        content[name] = content[name] | fields if isinstance(fields, dict) else fields
    path.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def outside(trained_run, tmp_path_factory) -> Path:
    """What is not to be touched: private images, a cache with an altered description, a module."""
    folder = tmp_path_factory.mktemp("outside")
    for part in ("all", "hem"):
        for number in range(12):
            path = folder / "private" / part / f"patient{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(number))
    (folder / "code").mkdir()
    (folder / "code" / "evil.py").write_text(f"open({str(folder / 'was_run')!r}, 'w')\n")
    (folder / "victim").mkdir()
    (folder / "victim" / "thesis.csv").write_text("precious")
    (folder / "victim" / "clean-0.csv").write_text("precious")
    (folder / "victim.txt").write_text("precious")
    shutil.copytree(trained_run.parent / "cache", folder / "cache")
    name_a_class(folder / "cache")
    return folder


def name_a_class(cache: Path) -> None:
    """Let the descriptions of prepared images name a class to import, and the marks hold."""
    (features,) = cache.rglob("features.json")
    content = json.loads(features.read_text())
    features.write_text(json.dumps(content | {"pythonClassName": "evil.Evil"}))
    folder = features.parents[2]
    index = json.loads((folder / "index.json").read_text())["index"]
    index["files"] = {name: record_files._fingerprint(folder / name) for name in index["files"]}
    content = {"sha256": record_files._digest(index), "index": index}
    (folder / "index.json").write_text(json.dumps(content))
    assert record_files.is_complete(folder)


@pytest.fixture(scope="module")
def hostile(finished_run, outside, tmp_path_factory) -> Path:
    """Runs whose configs name compiled code, caches and images outside; with pipes and links."""
    folder = tmp_path_factory.mktemp("hostile")
    for name in ("places", "images", "links"):
        shutil.copytree(finished_run, folder / name)
        (folder / name / "xla").mkdir()
        (folder / name / "xla" / "jit__answer-cache").write_bytes(b"machine code")
        for file in ("model_card.md", "skipped.csv", "starts.jsonl", "metrics.jsonl"):
            (folder / name / file).unlink(missing_ok=True)
        os.mkfifo(folder / name / "model_card.md")
        alter(
            folder / name / "config.json",
            data={"cache_dir": str(outside / "cache"), "root": str(outside / "private")},
            runtime={"compilation_cache": str(folder / name / "xla")},
            init={"weights": str(outside / "victim.txt")},
        )
    # Its images, it says, are a folder of yours, to be prepared in another one of yours.
    alter(
        folder / "images" / "config.json",
        data={"name": "image_folder", "cache_dir": str(outside / "made")},
    )
    alter(folder / "images" / "preprocessing.json", data="image_folder")
    alter(folder / "images" / "summary.json", data="image_folder")
    robustness = folder / "links" / "robustness"
    robustness.mkdir()
    (robustness / ".lock").symlink_to(outside / "victim.txt")
    (folder / "links" / "robustness-val").mkdir()
    (folder / "links" / "robustness-val" / "predictions").symlink_to(outside / "victim")
    (folder / "links" / "evaluation").symlink_to(outside / "victim")
    os.mkfifo(folder / "links" / "unlikeness.npz")
    os.mkfifo(folder / "links" / "skipped.csv")
    return folder


@pytest.fixture(scope="module")
def result(hostile, outside, tmp_path_factory):
    """All commands in one process; what they touched, and the trees before and after."""
    work = tmp_path_factory.mktemp("work")
    (work / "in").mkdir()
    for number in range(3):
        (work / "in" / f"{number}.png").write_bytes(png(number))
    places, images, links = (hostile / name for name in ("places", "images", "links"))
    out = work / "out"
    commands = [
        ["predict", f"--workdir={places}", f"{work}/in", f"--output={out}/p.csv", "--flag_unlike"],
        ["explain", f"--workdir={places}", f"{work}/in", f"--output={out}/x", "--method=gradcam"],
        ["evaluate", f"--workdir={places}", "--part=val"],
        ["robustness", f"--workdir={places}", "--distortions=border", "--part=val"],
        ["compare", str(places), f"--output={out}/report"],
        ["compare", str(images), f"--output={out}/report2"],
        ["evaluate", f"--workdir={images}"],
        ["robustness", f"--workdir={images}"],
        ["predict", f"--workdir={links}", f"{work}/in", f"--output={out}/l.csv", "--flag_unlike"],
        ["evaluate", f"--workdir={links}"],
        ["robustness", f"--workdir={links}", "--distortions=border"],
        ["robustness", f"--workdir={links}", "--distortions=border", "--part=val"],
        ["compare", str(links), f"--output={out}/report3"],
    ]
    before = {name: tree(folder) for name, folder in (("outside", outside), ("hostile", hostile))}
    environment = os.environ | {
        "LEUKJAX_CACHE": str(work / "cache"),
        "XDG_CACHE_HOME": str(work / "xdg"),
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(outside / "code")]),
        "JAX_NUM_CPU_DEVICES": "1",
    }
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(commands)],
        cwd=work, env=environment, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    line = next(x for x in process.stdout.splitlines() if x.startswith("RESULT "))
    after = {name: tree(folder) for name, folder in (("outside", outside), ("hostile", hostile))}
    found = json.loads(line.removeprefix("RESULT "))
    errors = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    return found | {"before": before, "after": after, "errors": errors, "out": out}


def test_what_can_be_done_is_done_and_the_rest_is_refused_in_a_line(result):
    assert result["statuses"] == [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1]
    expected = [
        "--config.data.root is missing",
        "--config.data.root is missing",
        "unlikeness.npz: cannot be read (is not a regular file)",
        "evaluation: is a symbolic link",
        "cannot be written (Too many levels of symbolic links)",
        "predictions: is a symbolic link",
        "skipped.csv: cannot be read (is not a regular file)",
    ]
    assert len(result["errors"]) == len(expected)
    for line, says in zip(result["errors"], expected, strict=True):
        assert says in line
    assert (result["out"] / "p.csv").exists()
    assert (result["out"] / "report2" / "report.html").exists()


def test_nothing_outside_is_created_or_changed(result):
    assert result["before"]["outside"] == result["after"]["outside"]


def test_nothing_outside_is_opened_or_imported(result, outside):
    # The module search looks at the folder of the module; nothing there may be opened.
    touched = [
        (event, arguments)
        for event, arguments in result["touched"]
        if any(str(outside) in argument for argument in arguments)
        and not (event in ("os.listdir", "os.scandir") and arguments[0].endswith("/code"))
    ]
    assert touched == []
    assert not [name for name in result["modules"] if "evil" in name]


def test_compiled_code_in_the_folder_is_not_loaded(result, hostile):
    assert not [
        arguments
        for _, arguments in result["touched"]
        if any(str(hostile) in argument and "xla" in argument for argument in arguments)
    ]


def test_the_runs_get_nothing_but_results(result):
    """`places` was predicted, evaluated and distorted; the others were refused or only read."""
    before, after = result["before"]["hostile"], result["after"]["hostile"]
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    results = ("places/evaluation", "places/robustness-val", "places/unlikeness.npz")
    assert {name for name in changed if not name.startswith(results)} == {"places"}
    assert changed > {*results}
