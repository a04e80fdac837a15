"""A work directory is untrusted input: whatever its files hold, a reader fails in one line."""

import contextlib
import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from leukjax.checkpoints import reader
from leukjax.compare.load_results import read_entries, read_run
from leukjax.errors import UserError
from leukjax.evaluate import rescore, scores
from leukjax.predict import member, out_of_distribution
from leukjax.predict.predictor import load
from leukjax.rundir import RunDir

JSON = ("config.json", "data.json", "preprocessing.json", "summary.json")
TABLES = ("split.csv", "predictions/val.csv", "predictions/test.csv", "duplicates.csv")
LOGS = ("metrics.jsonl", "starts.jsonl", "test_openings.jsonl")


@pytest.fixture
def run(finished_run, tmp_path) -> Path:
    """A copy to alter."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


@pytest.fixture
def values(finished_run, monkeypatch) -> None:
    """The values of the checkpoint without Orbax, for tests that read hundreds of folders."""
    found = reader.for_evaluation(finished_run / "checkpoints", lower_is_better=False)
    monkeypatch.setattr(reader, "for_evaluation", lambda *_, **__: found)
    monkeypatch.setattr(member, "_expected", lambda *_: {"params": {}, "batch_stats": {}})


def readers(folder: Path):
    """All functions that read a work directory."""
    run = RunDir(folder)
    return [
        lambda: member.restore(folder, "best"),
        lambda: member.temperature(folder, "best"),
        lambda: read_run(folder),
        lambda: scores.about_of(folder, "test"),
        lambda: rescore.finished(folder),
        lambda: run.check_same_data(
            records_sha256=run.data()["records_sha256"], classes=("all", "hem"), image_size=24
        ),
        run.starts,
        run.test_accesses,
    ]


def answers(folder: Path, reads=None) -> list[str]:
    """The error of each reader: "" or one line; anything else fails the test."""
    said = []
    for read in reads or readers(folder):
        with limit(20):
            try:
                read()
                said.append("")
            except UserError as error:
                said.append(str(error))
    assert not [line for line in said if "\n" in line or len(line) > 2000]
    return said


@contextlib.contextmanager
def limit(seconds: int):
    """Fails instead of hanging."""

    def stop(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def device(path: Path) -> None:
    path.symlink_to("/dev/null")


def folder(path: Path) -> None:
    path.mkdir()


def circle(path: Path) -> None:
    path.symlink_to(path)


def content(data: bytes):
    def write(path: Path) -> None:
        path.write_bytes(data)

    return write


KINDS = {
    "fifo": fifo,
    "link_to_dev_zero": endless,
    "link_to_dev_null": device,
    "folder": folder,
    "circle_of_links": circle,
    "empty": content(b""),
    "list": content(b"[1, 2]"),
    "number": content(b"3"),
    "null": content(b"null"),
    "text": content(b'"run"'),
    "cut": content(b'{"classes": ["all", "he'),
    "not_utf8": content(b'{"classes": "\xff\xfe"}'),
    "nan": content(b'{"mean": NaN}'),
    "deep": content(b"[" * 100_000 + b"]" * 100_000),
    "deep_dict": content(b'{"a":' * 900 + b"1" + b"}" * 900),
    "long_number": content(b'{"seed": ' + b"9" * 10_000 + b"}"),
    "nul": content(b"\0" * 1000),
    "large": content(b'{"classes": "' + b"x" * 5_000_000 + b'"}'),
}


def test_the_unaltered_run_is_read(run):
    assert answers(run) == [""] * len(readers(run))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", JSON)
def test_a_json_file_of_another_kind(run, values, name, kind):
    (run / name).unlink()
    KINDS[kind](run / name)
    said = answers(run)
    assert any(name in line for line in said)


@pytest.mark.parametrize("kind", ["fifo", "link_to_dev_zero", "folder", "not_utf8", "nul", "deep"])
@pytest.mark.parametrize("name", [*TABLES, *LOGS])
def test_a_table_or_log_of_another_kind(run, values, name, kind):
    (run / name).unlink(missing_ok=True)
    KINDS[kind](run / name)
    answers(run)


BAD = [None, "x", "", [], {}, [1, 2, 3], -1, 0, 3.5, 1e308, 10**400, 2**70, True, "y" * 20_000]


@pytest.mark.parametrize("name", JSON)
def test_every_field_with_every_wrong_value(run, values, name):
    """Hundreds of altered files: each is read, or refused in one line."""
    whole = json.loads((run / name).read_text())
    every = readers(run)
    place = {"preprocessing.json": 0, "summary.json": 3, "config.json": 4, "data.json": 5}[name]
    refused = 0
    for number, path in enumerate(fields(whole)):
        # ...: the field is missing. Of the many fields of a config each gets half of the values.
        for value in BAD[number % 2 :: 2] if name == "config.json" else [*BAD, ...]:
            altered = copy.deepcopy(whole)
            *sections, last = path
            section = altered
            for key in sections:
                section = section[key]
            if value is ...:
                del section[last]
            else:
                section[last] = value
            (run / name).write_text(json.dumps(altered))
            refused += any(answers(run, [every[place]]))
    assert refused > 20


def fields(whole: dict) -> list[tuple]:
    """The paths of one field of each kind: those of a long section are alike."""
    found = []
    for key, value in whole.items():
        found.append((key,))
        if isinstance(value, dict):
            found += [(key, inner) for inner in sorted(value)[:12:3]]
        elif isinstance(value, list):
            found.append((key, 0))
    return found


@pytest.mark.parametrize(
    ("name", "path", "value", "says"),
    [
        ("preprocessing.json", ["std", 0], 0, "std: must be a number from 1e-06"),
        ("preprocessing.json", ["std", 0], 1e-300, "std: must be a number"),
        ("preprocessing.json", ["std"], [0.1, 0.1], "std: must be a list of three numbers"),
        ("preprocessing.json", ["mean", 1], 1e30, "mean: must be a number"),
        ("preprocessing.json", ["image_size"], 0, "image_size: must be a whole number"),
        ("preprocessing.json", ["image_size"], 2**31, "image_size: must be a whole number"),
        ("preprocessing.json", ["image_size"], 32, "image_size: differs from config.json"),
        ("preprocessing.json", ["crop"], -5, "crop: must be a whole number"),
        ("preprocessing.json", ["classes"], ["a"], "classes: must be a list of 2"),
        ("preprocessing.json", ["classes"], ["a", "a"], "classes: must be different names"),
        ("preprocessing.json", ["classes", 1], 7, "classes: must be a text"),
        ("preprocessing.json", ["positive"], "blast", "positive: is none of the classes"),
        ("preprocessing.json", ["background"], "green", "background: must be one of"),
        ("preprocessing.json", ["stain"], "vahadane", "stain: must be one of none, reinhard"),
        ("preprocessing.json", ["stain"], "macenko", "lacks stain_target"),
        ("preprocessing.json", ["stain_target"], [[1] * 4], "stain_target: must be two lists"),
        ("preprocessing.json", ["stain_target"], [[1e9] * 4] * 2, "stain_target: must be a num"),
        ("preprocessing.json", ["model", "width"], 4096, "model: differs from config.json"),
        ("preprocessing.json", ["model"], "cnn", "model: must be a JSON object"),
        ("config.json", ["model", "width"], -3, "model.width=-3: must be between"),
        ("config.json", ["train", "batch_size"], 2**60, "train.batch_size="),
        ("config.json", ["data", "smears_cells"], 10**6, "synthetic cells"),
        ("config.json", ["data", "subject_pattern"], "(" * 9000 + ")" * 9000, "subject_pattern"),
        ("config.json", ["train", "epochs"], "many", "train.epochs=many: expected a number"),
        ("config.json", ["os"], {"system": "rm"}, "os.system: no such field"),
        ("data.json", ["records_sha256"], 5, "records_sha256: must be a text"),
        ("data.json", ["protocol"], "none", "protocol: must be one of"),
        ("summary.json", ["leaky"], "no", "leaky: must be true or false"),
        ("summary.json", ["versions"], ["jax"], "versions: must be a JSON object"),
    ],
)
def test_errors_name_file_and_field(run, values, name, path, value, says):
    whole = json.loads((run / name).read_text())
    section = whole
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = value
    (run / name).write_text(json.dumps(whole))
    said = [line for line in answers(run) if line]
    assert said
    assert all(name in line and says in line for line in said[:1])


def test_a_run_of_an_earlier_version_lacks_fields_and_is_read(run, values):
    """Fields that a config lacks get their defaults."""
    config = json.loads((run / "config.json").read_text())
    del config["runtime"], config["model"]["gelu_tanh"], config["train"]["steps_per_call"]
    (run / "config.json").write_text(json.dumps(config))
    preprocessing = json.loads((run / "preprocessing.json").read_text())
    del preprocessing["model"]["gelu_tanh"]
    (run / "preprocessing.json").write_text(json.dumps(preprocessing))
    assert answers(run) == [""] * len(readers(run))


PLACES = {
    "data.root": "/somewhere/private",
    "data.cache_dir": "/somewhere/cache",
    "data.table": "/somewhere/cells.csv",
    "data.annotations": "/somewhere/boxes.json",
    "split.file": "/somewhere/parts.csv",
    "data.threads": 256,
    "data.workers": 200,
    "data.prefetch": 1000,
    "data.host_gb": 1e5,
    "runtime.compilation_cache": "/somewhere/xla",
    "runtime.timeout": 10**6,
    "init.weights": "/somewhere/weights.npz",
    "mesh.model": 2**20,
    "profile.steps": 9,
}


def test_paths_and_settings_of_the_machine_are_never_taken_from_a_run(run, values):
    from leukjax import config as configs

    whole = json.loads((run / "config.json").read_text())
    for field, value in PLACES.items():
        section, name = field.split(".")
        whole[section][name] = value
    whole["split"]["protocol"] = "given"  # split.file goes with it
    (run / "config.json").write_text(json.dumps(whole))
    default = configs.flatten(configs.load("default"))
    for found in (RunDir(run).config(), member.restore(run, "best").config, rescore.finished(run)):
        flat = configs.flatten(found)
        assert {field: flat[field] for field in PLACES} == {f: default[f] for f in PLACES}
        assert flat["model.width"] == whole["model"]["width"]
    assert "somewhere" not in json.dumps(read_run(run).config)
    assert RunDir(run).recorded()["data.root"] == "/somewhere/private"  # for display
    given = RunDir(run).config([("data.root", "/mine"), ("runtime.compilation_cache", "none")])
    assert (given.data.root, given.runtime.compilation_cache) == ("/mine", "none")
    with pytest.raises(UserError, match=r"--config\.seed: a finished run keeps its config"):
        RunDir(run).config([("seed", "3")])


def test_images_in_a_folder_are_read_from_the_path_that_the_user_gives(run):
    whole = json.loads((run / "config.json").read_text())
    whole["data"] |= {"name": "image_folder", "root": "/old/place", "subject_csv": "/old/who.csv"}
    (run / "config.json").write_text(json.dumps(whole))
    with pytest.raises(UserError, match=r"--config\.data\.root is missing: .*'/old/place'"):
        rescore.finished(run)
    with pytest.raises(UserError, match=r"--config\.data\.subject_csv is missing: .*/old/who"):
        rescore.finished(run, [("data.root", "/new")])
    places = [("data.root", "/new"), ("data.subject_csv", "/new/who.csv")]
    assert rescore.finished(run, places).data.root == "/new"
    whole["data"] |= {"name": "table", "root": "", "subject_csv": "", "table": "/old/cells.csv"}
    (run / "config.json").write_text(json.dumps(whole))
    with pytest.raises(UserError, match=r"--config\.data\.table is missing: .*'/old/cells.csv'"):
        rescore.finished(run)
    assert rescore.finished(run, [("data.table", "/new.csv")]).data.table == "/new.csv"


# Checkpoints and arrays: sizes before allocation.


def with_checksums(folder: Path) -> None:
    from leukjax.checkpoints import checksums

    (folder / checksums.NAME).write_text(checksums.text_of(checksums.checksums(folder)))


def steps(run: Path) -> list[Path]:
    return [path for path in (run / "checkpoints").iterdir() if path.name.isdigit()]


@pytest.mark.parametrize("what", ["chunk", "shape"])
def test_a_checkpoint_that_claims_gigabytes_is_not_unpacked(run, what):
    """Half a megabyte of files whose one array unpacks to 2 GiB of zeros."""
    import tensorstore as ts

    for step in steps(run):
        store = ts.KvStore.open({"driver": "ocdbt", "base": f"file://{step}/state/"}).result()
        about = json.loads(store.read("params.fc.bias/.zarray").result().value)
        about["chunks"] = [2**29]
        about["shape"] = [2**29] if what == "shape" else about["shape"]
        about["fill_value"] = 0.0
        store.write("params.fc.bias/.zarray", json.dumps(about)).result()
        store.delete_range(ts.KvStore.KeyRange("params.fc.bias/0", "params.fc.bias/1")).result()
        with_checksums(step)
    with pytest.raises(UserError, match=r"claims 2,048 MiB|params/fc/bias is \(536870912,\)"):
        member.restore(run, "best")


def test_files_of_a_checkpoint_that_are_not_regular_are_refused(run):
    for kind in (fifo, endless):
        for step in steps(run):
            shutil.rmtree(step / "extra", ignore_errors=True)
            (step / "extra").mkdir()
            kind(step / "extra" / "file")
            with_checksums(step)
        with limit(20), pytest.raises(UserError, match="no regular file"):
            member.restore(run, "best")
    for step in steps(run):
        shutil.rmtree(step / "extra")
        (step / "state" / "_METADATA").unlink()
        fifo(step / "state" / "_METADATA")
        with_checksums(step)
    with limit(20), pytest.raises(UserError, match="_METADATA is no regular file"):
        member.restore(run, "best")


@pytest.mark.parametrize("name", ["meta/metadata", "checksums.json"])
@pytest.mark.parametrize("kind", ["fifo", "list", "nan", "deep", "empty", "folder", "number"])
def test_descriptions_of_a_checkpoint_of_another_kind(run, name, kind):
    for step in steps(run):
        (step / name).unlink()
        KINDS[kind](step / name)
        if name != "checksums.json":
            with_checksums(step)
    with limit(20), pytest.raises(UserError) as said:
        member.restore(run, "best")
    assert "\n" not in str(said.value)


def npz(path: Path, shape=(2, 128), *, compress=zipfile.ZIP_DEFLATED, **arrays) -> None:
    good = {
        "step": np.int64(10),
        "means": np.zeros((2, 128)),
        "whitening": np.zeros((128, 128)),
        "limit": np.float64(1),
    }
    with zipfile.ZipFile(path, "w", compress) as archive:
        for name, array in (good | arrays).items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                if isinstance(array, tuple):  # a header alone
                    header = {"descr": "<f8", "fortran_order": False, "shape": array}
                    np.lib.format.write_array_header_1_0(file, header)
                    file.write(b"\0" * 1000)
                else:
                    np.lib.format.write_array(file, np.asanyarray(array))


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"whitening": (2**15, 2**15)}, "has the shape"),
        ({"means": (2**40, 128)}, "has the shape"),
        ({"means": (2, 128)}, "another number of values"),
        ({"means": np.zeros((2, 64))}, "of another model"),
        ({"means": np.zeros((0, 128))}, "of another model"),
        ({"means": np.full((2, 128), np.nan)}, "not finite"),
        ({"means": np.array([["a"] * 128] * 2)}, "not numeric"),
        ({"limit": np.float64(0)}, "limit is not above 0"),
        ({"limit": np.zeros(3)}, "has the shape"),
        ({"compress": zipfile.ZIP_BZIP2}, "a compression that no run writes"),
    ],
)
def test_arrays_are_checked_before_they_are_read(run, arrays, says):
    npz(run / "unlikeness.npz", **arrays)
    (model,) = load(run).members
    assert model.feature_width == 128
    with pytest.raises(UserError, match=says):
        out_of_distribution.read(model)


def test_an_npz_that_is_not_a_regular_file(run):
    (model,) = load(run).members
    for kind in (fifo, endless, content(b"PK\3\4"), folder):
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            (run / "unlikeness.npz").unlink()
        kind(run / "unlikeness.npz")
        with limit(20), pytest.raises(UserError, match=r"unlikeness\.npz: cannot be read"):
            out_of_distribution.read(model)


# Predictions, crossval folders.


def test_values_that_are_not_probabilities(run):
    path = run / "predictions" / "val.csv"
    header, first, *rows = path.read_text().splitlines()
    for cells in ("nan,nan", "2,-1", "1e999,0", "x,1"):
        changed = ",".join(first.split(",")[:5]) + "," + cells
        path.write_text("\n".join([header, changed, *rows]) + "\n")
        with pytest.raises(UserError, match=r"val\.csv"):
            RunDir(run).predictions("val")
    path.write_text("\n".join([header, "i" * 100_000 + first, *rows * 300]) + "\n")
    with pytest.raises(UserError, match="too many for"):
        RunDir(run).predictions("val")


@pytest.mark.parametrize("path", ["../../run", "/etc", "", "runs/../../x", 5, None])
def test_a_study_refers_to_no_run_outside_its_folder(tmp_path, path):
    (tmp_path / "study").mkdir()
    content = {"models": {"cnn": {"runs": [path]}}}
    (tmp_path / "study" / "crossval.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="a run is not in the folder of the study"):
        read_entries([str(tmp_path / "study")])


@pytest.mark.parametrize(
    "models", [[], {}, {"a": 5}, {"a": {"runs": {}}}, {"../a": {"runs": ["x"]}}, None]
)
def test_a_study_with_damaged_models(tmp_path, models):
    (tmp_path / "crossval.json").write_text(json.dumps({"models": models}))
    with pytest.raises(UserError, match=r"crossval\.json"):
        read_entries([str(tmp_path)])


# Links, locks, the ledger.


def test_a_linked_lock_is_not_followed(tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match="cannot be written"), RunDir(tmp_path / "run").lock():
        pass
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_lock_that_is_a_pipe_or_holds_something(tmp_path):
    (tmp_path / "a").mkdir()
    os.mkfifo(tmp_path / "a" / ".lock")
    with (
        limit(20),
        pytest.raises(UserError, match="cannot be written"),
        RunDir(tmp_path / "a").lock(),
    ):
        pass
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / ".lock").write_text("kept")
    (tmp_path / "b" / "config.json").write_text("{}")
    with RunDir(tmp_path / "b").lock():
        pass
    assert (tmp_path / "b" / ".lock").read_text() == "kept"


def test_linked_sub_folders_are_not_written(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "robustness").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="robustness: is a symbolic link"):
        RunDir(tmp_path / "run").path("robustness", "predictions")


def test_two_processes_lose_no_line_of_the_ledger(tmp_path):
    code = (
        "import sys\n"
        "from leukjax.rundir import RunDir\n"
        "sys.stdin.readline()\n"
        "for step in range(100):\n"
        "    RunDir(sys.argv[1]).record_test_access(step, by=sys.argv[2])\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), by], stdin=subprocess.PIPE)
        for by in ("evaluate", "robustness")
    ]
    for process in processes:
        process.stdin.write(b"go\n")
        process.stdin.close()
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    lines = [json.loads(x) for x in (tmp_path / "test_openings.jsonl").read_text().splitlines()]
    assert RunDir(tmp_path).test_accesses() == len(lines) == 200
    for by in ("evaluate", "robustness"):
        assert [line["step"] for line in lines if line["by"] == by] == list(range(100))


def test_a_ledger_that_is_a_link_or_a_pipe_is_not_written(tmp_path):
    (tmp_path / "victim").write_text("precious")
    ledger = tmp_path / "test_openings.jsonl"
    ledger.symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match="cannot be written"):
        RunDir(tmp_path).record_test_access(1)
    ledger.unlink()
    os.mkfifo(ledger)
    with limit(20), pytest.raises(UserError, match=r"cannot be (read|written)"):
        RunDir(tmp_path).record_test_access(1)
    assert (tmp_path / "victim").read_text() == "precious"
