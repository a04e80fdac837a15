"""The command: what it says, and what it refuses, by one line each."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "compare"))

from fake_runs import predict, subjects, write_run

from leukjax import command
from leukjax.compare import cli


def run(capsys, *arguments):
    status = command.status(cli.main, cli.FLAGS, [str(a) for a in arguments], doc=None)
    streams = capsys.readouterr()
    return status, streams.out, streams.err


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    write_run(folder / "good", 1.0)
    return folder


def edited(place, name, change):
    """A copy of the good run's test predictions with its lines changed."""
    lines = (place / "good/predictions/test.csv").read_text().splitlines()
    path = place / f"{name}.csv"
    path.write_text("\n".join(change(lines)) + "\n")
    return path


def a_copy(place, name):
    shutil.copytree(place / "good", place / name)
    return place / name


def set_field(path, **fields):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | fields))


def cell(line, column, value):
    parts = line.split(",")
    parts[column] = value
    return ",".join(parts)


def _unknown_ids(place):
    return edited(
        place, "unknown", lambda x: [x[0], *(cell(r, 0, "z" + r.split(",")[0]) for r in x[1:])]
    )


def _fewer(place):
    return edited(place, "fewer", lambda lines: lines[:-1])


def _missing_column(place):
    return edited(place, "column", lambda x: [r.split(",", 2)[2] for r in x])


def _logits(place):
    return edited(place, "logits", lambda x: [*x[:4], cell(x[4], 5, "2.5"), *x[5:]])


def _nan(place):
    return edited(place, "nan", lambda x: [*x[:4], cell(x[4], 5, "nan"), *x[5:]])


def _no_number(place):
    return edited(place, "word", lambda x: [*x[:4], cell(x[4], 5, "high"), *x[5:]])


def _unknown_label(place):
    return edited(place, "label", lambda x: [*x[:4], cell(x[4], 3, "blast"), *x[5:]])


def _twice(place):
    return edited(place, "twice", lambda x: [*x, x[-1]])


def _ragged(place):
    return edited(place, "ragged", lambda x: [*x[:4], x[4] + ",7", *x[5:]])


def _header_only(place):
    return edited(place, "header", lambda x: x[:1])


def _other_order(place):
    def turned(lines):
        return [",".join([*p[:5], p[6], p[5]]) for p in (line.split(",") for line in lines)]

    return edited(place, "order", turned)


def _other_labels(place):
    return edited(place, "turned", lambda x: [x[0], cell(x[1], 3, "hem"), *x[2:]])


def _one_subject(place):
    columns = subjects({"test": 1})
    predict(columns, 1.0, 0).write(place / "single.csv")
    return place / "single.csv"


def _empty_file(place):
    (place / "empty.csv").write_text("")
    return place / "empty.csv"


def _empty_folder(place):
    (place / "nothing").mkdir()
    return place / "nothing"


def _unfinished(place):
    folder = a_copy(place, "unfinished")
    (folder / "summary.json").unlink()
    return folder


def _damaged(place):
    folder = a_copy(place, "damaged")
    (folder / "summary.json").write_text("{")
    return folder


def _other_data(place):
    folder = a_copy(place, "other-data")
    set_field(folder / "data.json", records_sha256="f" * 64)
    return folder


def _other_set(place):
    folder = a_copy(place, "other-set")
    set_field(folder / "summary.json", data="cnmc")
    return folder


def _not_of_its_split(place):
    folder = a_copy(place, "torn")
    path = folder / "split.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-3]) + "\n")
    return folder


BAD = {
    _unknown_ids: "is no test image of",
    _fewer: "ids are unknown",
    _missing_column: "lacks the columns id, subject",
    _logits: "do not sum to 1",
    _nan: "line 5: a probability of test00_03 is not a finite number",
    _no_number: "could not convert string to float",
    _unknown_label: "not in",
    _twice: "occurs twice",
    _ragged: "line 5: 8 values for 7 columns",
    _header_only: "contains no predictions",
    _other_order: "its classes are hem, all and those of",
    _other_labels: "has another label than in",
    _one_subject: "are of one group",
    _empty_file: "cannot be read as predictions",
    _empty_folder: "holds no run",
    _unfinished: "is not finished (summary.json is missing)",
    _damaged: "summary.json: cannot be read",
    _other_data: "its data are not those of",
    _other_set: "was trained on cnmc",
    _not_of_its_split: "is no test image of split.csv",
}


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__.strip("_"))
def test_every_bad_input_is_answered_by_one_line(place, capsys, make):
    path = make(place)
    status, _, err = run(capsys, place / "good", path, f"--output={place}/out")
    assert status == 1
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert BAD[make] in line
    assert not (place / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "nothing to compare"),
        (["nowhere"], "nowhere: no such file or folder"),
        (["{good}", "--positive=blast"], "no such class; one of all, hem"),
        (["{good}", "{good}"], "is the name of 2 models"),
        (["x={good}", "x={good}"], "is the name of 2 models"),
        (["--config=cnn", "{good}"], "takes finished runs and no config"),
    ],
)
def test_bad_flags(place, capsys, arguments, says):
    given = [a.format(good=place / "good") for a in arguments]
    status, _, err = run(capsys, *given, f"--output={place}/out")
    assert status == 1
    assert says in err.splitlines()[-1]
    assert not (place / "out").exists()


def test_above_two_classes_no_class_is_positive(tmp_path, capsys):
    write_run(tmp_path / "three", 1.0, classes=("a", "b", "c"))
    status, _, err = run(capsys, tmp_path / "three", "--positive=a", f"--output={tmp_path}/out")
    assert status == 1
    assert "leave the flag out" in err


@pytest.mark.smoke("compare")
def test_it_prints_the_headline(tmp_path, capsys):
    columns = subjects({"test": 30})
    for name, skill in (("good", 4.0), ("poor", 0.3)):
        predict(columns, skill, 3).write(tmp_path / f"{name}.csv")
    arguments = [tmp_path / "good.csv", tmp_path / "poor.csv", f"--output={tmp_path}/out"]
    status, out, _ = run(capsys, *arguments, "--positive=all")
    assert status == 0
    assert out.startswith("Significant difference. good scored highest (balanced accuracy 0.")
    found = json.loads((tmp_path / "out/results.json").read_text())["comparisons"]
    (deciding,) = [
        c for c in found if (c["score"], c["test"]) == ("balanced_accuracy", "cluster_permutation")
    ]
    assert deciding["p_holm"] <= 0.05
    assert np.isclose(deciding["p"] * 10_001, round(deciding["p"] * 10_001))


def test_names_that_are_no_text_are_shown_as_escapes(place, tmp_path, capsys):
    """`place` is a run; its name on the command line may be any bytes."""
    odd = f"a\udc9b\rb={place / 'good'}"
    status, out, err = run(capsys, odd, f"c={place / 'good'}", f"--output={tmp_path}/out")
    assert status == 0, err
    assert "a\\udc9b\\rb" in out
    for path in (tmp_path / "out").rglob("*.csv"):
        assert "\r" not in path.read_text(encoding="utf-8")
