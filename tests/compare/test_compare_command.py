"""The compare command: its output, and one line per refused input."""

import json
import shutil

import numpy as np
import pytest
from fake_runs import predict, subjects, write_run

from leukjax import command
from leukjax.compare import cli


def run(capsys, *arguments):
    status = command.status(cli.main, cli.FLAGS, [str(a) for a in arguments], doc=None)
    streams = capsys.readouterr()
    return status, streams.out, streams.err


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    write_run(folder / "good", 1.0)
    return folder


def edited(folder, name, change):
    """A copy of the good run's test predictions with its lines changed."""
    lines = (folder / "good/predictions/test.csv").read_text().splitlines()
    path = folder / f"{name}.csv"
    path.write_text("\n".join(change(lines)) + "\n")
    return path


def a_copy(folder, name):
    shutil.copytree(folder / "good", folder / name)
    return folder / name


def set_field(path, **fields):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | fields))


def cell(line, column, value):
    parts = line.split(",")
    parts[column] = value
    return ",".join(parts)


def _unknown_ids(folder):
    return edited(
        folder, "unknown", lambda x: [x[0], *(cell(r, 0, "z" + r.split(",")[0]) for r in x[1:])]
    )


def _fewer(folder):
    return edited(folder, "fewer", lambda lines: lines[:-1])


def _missing_column(folder):
    return edited(folder, "column", lambda x: [r.split(",", 2)[2] for r in x])


def _logits(folder):
    return edited(folder, "logits", lambda x: [*x[:4], cell(x[4], 5, "2.5"), *x[5:]])


def _nan(folder):
    return edited(folder, "nan", lambda x: [*x[:4], cell(x[4], 5, "nan"), *x[5:]])


def _not_a_number(folder):
    return edited(folder, "word", lambda x: [*x[:4], cell(x[4], 5, "high"), *x[5:]])


def _unknown_label(folder):
    return edited(folder, "label", lambda x: [*x[:4], cell(x[4], 3, "blast"), *x[5:]])


def _twice(folder):
    return edited(folder, "twice", lambda x: [*x, x[-1]])


def _ragged(folder):
    return edited(folder, "ragged", lambda x: [*x[:4], x[4] + ",7", *x[5:]])


def _header_only(folder):
    return edited(folder, "header", lambda x: x[:1])


def _other_order(folder):
    def turned(lines):
        return [",".join([*p[:5], p[6], p[5]]) for p in (line.split(",") for line in lines)]

    return edited(folder, "order", turned)


def _other_labels(folder):
    return edited(folder, "turned", lambda x: [x[0], cell(x[1], 3, "hem"), *x[2:]])


def _one_subject(folder):
    columns = subjects({"test": 1})
    predict(columns, 1.0, 0).write(folder / "single.csv")
    return folder / "single.csv"


def _empty_file(folder):
    (folder / "empty.csv").write_text("")
    return folder / "empty.csv"


def _empty_folder(folder):
    (folder / "nothing").mkdir()
    return folder / "nothing"


def _unfinished(folder):
    copy = a_copy(folder, "unfinished")
    (copy / "summary.json").unlink()
    return copy


def _damaged(folder):
    copy = a_copy(folder, "damaged")
    (copy / "summary.json").write_text("{")
    return copy


def _other_data(folder):
    copy = a_copy(folder, "other-data")
    set_field(copy / "data.json", records_sha256="f" * 64)
    return copy


def _other_set(folder):
    copy = a_copy(folder, "other-set")
    set_field(copy / "summary.json", data="cnmc")
    return copy


def _other_split(folder):
    copy = a_copy(folder, "torn")
    path = copy / "split.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-3]) + "\n")
    return copy


BAD = {
    _unknown_ids: "is no test image of",
    _fewer: "ids are unknown",
    _missing_column: "lacks the columns id, subject",
    _logits: "do not sum to 1",
    _nan: "line 5: a probability of test00_03 is not a finite number",
    _not_a_number: "could not convert string to float",
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
    _other_split: "is no test image of split.csv",
}


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__.strip("_"))
def test_every_bad_input_gives_one_line(folder, capsys, make):
    path = make(folder)
    status, _, err = run(capsys, folder / "good", path, f"--output={folder}/out")
    assert status == 1
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert BAD[make] in line
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to compare"),
        (["nowhere"], "nowhere: no such file or folder"),
        (["{good}", "--positive=blast"], "no such class; one of all, hem"),
        (["{good}", "{good}"], "is the name of 2 models"),
        (["x={good}", "x={good}"], "is the name of 2 models"),
        (["--config=cnn", "{good}"], "takes finished runs and no config"),
    ],
)
def test_bad_flags(folder, capsys, arguments, message):
    given = [a.format(good=folder / "good") for a in arguments]
    status, _, err = run(capsys, *given, f"--output={folder}/out")
    assert status == 1
    assert message in err.splitlines()[-1]
    assert not (folder / "out").exists()


def test_above_two_classes_no_class_is_positive(tmp_path, capsys):
    write_run(tmp_path / "three", 1.0, classes=("a", "b", "c"))
    status, _, err = run(capsys, tmp_path / "three", "--positive=a", f"--output={tmp_path}/out")
    assert status == 1
    assert "do not set it" in err


@pytest.mark.smoke("compare")
def test_it_prints_the_headline(tmp_path, capsys):
    columns = subjects({"test": 30})
    for name, skill in (("good", 4.0), ("poor", 0.3)):
        predict(columns, skill, 3).write(tmp_path / f"{name}.csv")
    arguments = [tmp_path / "good.csv", tmp_path / "poor.csv", f"--output={tmp_path}/out"]
    status, out, _ = run(capsys, *arguments, "--positive=all")
    assert status == 0
    assert out.startswith("Significant difference. good scored highest (balanced accuracy 0.")
    comparisons = json.loads((tmp_path / "out/results.json").read_text())["comparisons"]
    (deciding,) = [
        c
        for c in comparisons
        if (c["score"], c["test"]) == ("balanced_accuracy", "cluster_permutation")
    ]
    assert deciding["p_holm"] <= 0.05
    assert np.isclose(deciding["p"] * 10_001, round(deciding["p"] * 10_001))


def test_names_that_are_not_text_are_escaped(folder, tmp_path, capsys):
    """A name on the command line may be any bytes."""
    odd = f"a\udc9b\rb={folder / 'good'}"
    status, out, err = run(capsys, odd, f"c={folder / 'good'}", f"--output={tmp_path}/out")
    assert status == 0, err
    assert "a\\udc9b\\rb" in out
    for path in (tmp_path / "out").rglob("*.csv"):
        assert "\r" not in path.read_text(encoding="utf-8")
