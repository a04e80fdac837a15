"""The command `leukjax.predict`."""

import csv
import io
import os
import re
import shutil
import stat
import threading
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import leukjax
from leukjax import command
from leukjax.data.image_stream import Item
from leukjax.predict import batching as module
from leukjax.predict import cli
from leukjax.predict.batching import stream

SIDE = 30


def cell(number: int) -> np.ndarray:
    random = np.random.default_rng(number)
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    image[np.hypot(x, y) < random.uniform(6, 14)] = random.integers(40, 200, 3)
    return image


def png(number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(cell(number)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def trained_run(trained_run, tmp_path_factory):
    """A copy, because --flag_unlike writes into the run, which other tests only read."""
    return Path(shutil.copytree(trained_run, tmp_path_factory.mktemp("predict") / "run"))


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "in").mkdir()
    for number in range(5):
        (tmp_path / "in" / f"p{number // 2}_{number}.png").write_bytes(png(number))
    return tmp_path / "in"


def run(*arguments: object, status: int = 0) -> None:
    cli.FLAGS.unparse_flags()
    for name in cli.FLAGS:
        cli.FLAGS[name].unparse()
    argv = [str(argument) for argument in arguments]
    found = command.status(cli.main, cli.FLAGS, argv, doc=cli.__doc__)
    assert found == status


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.smoke("predict")
def test_every_kind_of_file_gets_its_row(trained_run, folder, tmp_path):
    (folder / "broken.png").write_bytes(png(0)[:60])
    (folder / "empty.png").write_bytes(b"")
    Image.fromarray(cell(1)).convert("CMYK").save(folder / "q.tif")
    with zipfile.ZipFile(folder / "z.zip", "w") as file:
        file.writestr("inside.png", png(3))
    output = tmp_path / "out" / "table.csv"
    run(f"--workdir={trained_run}", folder, f"--output={output}")
    found = table(output)
    assert [Path(row["path"]).name for row in found] == [
        "broken.png", "empty.png", "p0_0.png", "p0_1.png", "p1_2.png", "p1_3.png", "p2_4.png",
        "q.tif", "z.zip!inside.png",
    ]  # fmt: skip
    assert list(found[0]) == ["path", "predicted", "p_all", "p_hem", "conversions", "error"]
    expected = leukjax.load(trained_run).predict([cell(number) for number in range(5)])
    for row, probabilities in zip(found[2:7], expected, strict=True):
        assert not row["error"]
        given = [float(row["p_all"]), float(row["p_hem"])]
        np.testing.assert_allclose(given, probabilities, rtol=0, atol=1e-6)
        assert row["predicted"] == ("all", "hem")[int(np.argmax(given))]
    assert found[8]["p_all"] == found[5]["p_all"]
    assert found[7]["conversions"] == "CMYK"
    for row in found[:2]:
        assert row["error"].startswith(row["path"])
        assert not row["predicted"] + row["p_all"] + row["conversions"]
    assert [path.name for path in output.parent.iterdir()] == ["table.csv"]


def test_names_do_not_influence_predictions(trained_run, tmp_path):
    """C-NMC's names contain the label: the same pixels get names of both classes and of none."""
    names = ("UID_1_1_1_all.bmp", "UID_H1_1_1_hem.bmp", "x.bmp", "fold_0/hem/UID_H2_1_1_hem.bmp")
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(cell(7)).save(path)
    run(f"--workdir={trained_run}", *(tmp_path / name for name in names), "--output",
        tmp_path / "o.csv")  # fmt: skip
    found = [{k: v for k, v in row.items() if k != "path"} for row in table(tmp_path / "o.csv")]
    assert len(found) == 4
    assert all(row == found[0] for row in found)


def test_order_and_batch_change_nothing(trained_run, folder, tmp_path):
    files = sorted(folder.iterdir())
    run(f"--workdir={trained_run}", *files, f"--output={tmp_path / 'a.csv'}", "--batch_size=64")
    run(f"--workdir={trained_run}", *files[::-1], f"--output={tmp_path / 'b.csv'}",
        "--batch_size=8", "--threads=1")  # fmt: skip
    a = {row["path"]: float(row["p_all"]) for row in table(tmp_path / "a.csv")}
    b = {row["path"]: float(row["p_all"]) for row in table(tmp_path / "b.csv")}
    assert list(b) == list(a)[::-1]
    assert max(abs(a[path] - b[path]) for path in a) <= 1e-5


def test_subjects_abstention_and_out_of_distribution_scores(trained_run, folder, tmp_path):
    (folder / "p2_9.png").write_bytes(b"broken")
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    Image.fromarray(noise).save(folder / "p3_noise.png")
    output = tmp_path / "o.csv"
    run(f"--workdir={trained_run}", folder, f"--output={output}", "--subject_pattern=(p[0-9]+)_",
        "--max_error=0.75", "--flag_unlike", "--calibrated")  # fmt: skip
    found = table(output)
    assert found[-1]["unlike"] == "yes"
    assert float(found[-1]["unlikeness"]) > 1
    assert {row["abstained"] for row in found if not row["error"]} <= {"yes", "no"}
    for row in found:
        assert (row["predicted"] == "") == (row["abstained"] != "no")
    subjects = table(tmp_path / "o-subjects.csv")
    counts = [(row["subject"], row["images"], row["bad"]) for row in subjects]
    assert counts == [("p0", "2", "0"), ("p1", "2", "0"), ("p2", "2", "1"), ("p3", "1", "0")]
    mean = np.mean([float(row["p_all"]) for row in found if row["subject"] == "p0"])
    assert float(subjects[0]["p_all"]) == pytest.approx(mean, abs=1e-7)


def test_the_distance_is_stored_and_its_limit_fits_validation(trained_run):
    from leukjax.data import datasets
    from leukjax.metrics import predictions
    from leukjax.predict import out_of_distribution

    predictor = leukjax.load(trained_run)
    (model,) = predictor.members
    made = out_of_distribution.of_run(model)
    stamp = (trained_run / "unlikeness.npz").stat().st_mtime_ns
    again = out_of_distribution.of_run(model)
    assert (trained_run / "unlikeness.npz").stat().st_mtime_ns == stamp
    prepared = datasets.prepare(model.config.data)
    ids = predictions.read(trained_run / "predictions" / "val.csv").id.tolist()
    rows_of = [prepared.manifest.id.tolist().index(name) for name in ids]
    values = made.score(predictor.features(prepared.images(np.array(rows_of))))
    np.testing.assert_array_equal(again.score(made.means), made.score(made.means))
    assert np.quantile(values, 0.99) == pytest.approx(1, rel=1e-4)


def test_a_stored_distance_adds_columns_at_the_end(trained_run, folder, tmp_path, caplog):

    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    Image.fromarray(noise).save(folder / "p3_noise.png")
    (folder / "p3_bad.png").write_bytes(b"broken")
    output, own = tmp_path / "o.csv", Path(shutil.copytree(trained_run, tmp_path / "run"))
    (own / "unlikeness.npz").unlink(missing_ok=True)
    run(f"--workdir={own}", folder, f"--output={output}")
    plain = table(output)
    assert not (own / "unlikeness.npz").exists()  # nothing is made without the flag
    run(f"--workdir={own}", folder, f"--output={output}", "--flag_unlike")
    asked = table(output)
    run(f"--workdir={own}", folder, f"--output={output}")
    found = table(output)
    assert list(found[0]) == [*plain[0], "unlikeness", "unlike"]
    for row, before, same in zip(found, plain, asked, strict=True):
        assert {name: row[name] for name in before} == before
        assert row == same
    assert [row["unlike"] for row in found[-2:]] == ["", "yes"]
    assert "images are unlike the training images" in caplog.text
    caplog.clear()
    run(f"--workdir={own}", folder, f"--output={output}", "--noflag_unlike")
    assert table(output) == plain
    (own / "unlikeness.npz").write_bytes(b"broken")  # a flag that was not asked for stops nothing
    run(f"--workdir={own}", folder, f"--output={output}")
    assert table(output) == plain
    assert f"{own / 'unlikeness.npz'}: " in caplog.text


def test_the_submission_of_the_challenge(trained_run, tmp_path):
    phase = tmp_path / "C-NMC_test_final_phase_data"
    phase.mkdir()
    for number in range(1, 12):
        Image.fromarray(cell(number)).save(phase / f"{number}.bmp")
    arguments = (f"--workdir={trained_run}", phase, f"--output={tmp_path / 'o.csv'}")
    run(*arguments, f"--submission={tmp_path / 'final.zip'}")
    with zipfile.ZipFile(tmp_path / "final.zip") as file:
        assert file.namelist() == ["isbi_valid.predict"]
        lines = file.read("isbi_valid.predict").decode().split("\n")
    by_number = {int(Path(row["path"]).stem): row["predicted"] for row in table(tmp_path / "o.csv")}
    expected = [{"all": "1", "hem": "0"}[by_number[number]] for number in range(1, 12)]
    assert lines == [*expected, ""]
    (phase / "7.bmp").unlink()
    run(*arguments, f"--submission={tmp_path / 'no.zip'}", status=1)
    assert not (tmp_path / "no.zip").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{in}"], "--workdir is missing"),
        (["--workdir={tmp}", "{in}"], "holds no run"),
        (["--workdir={run}"], "no image is given"),
        (["--workdir={run}", "{tmp}/nowhere"], "nowhere: cannot be read"),
        (["--workdir={run}", "{in}", "--output={tmp}"], "is a folder"),
        (["--workdir={run}", "{in}", "--output=/proc/x/o.csv"], "cannot be written"),
        (["--workdir={run}", "{in}", "--output={in}/p0_0.png"], "would overwrite an image"),
        (["--workdir={run}", "{in}", "--max_error=2"], "--max_error=2"),
        (["--workdir={run}", "{in}", "--max_error=0.01"], "no confidence threshold keeps"),
        (["--workdir={run}", "{in}", "--max_error=0.5", "--tta"], "made without tta"),
        (["--workdir={run}", "{in}", "--subject_pattern=p"], "must have a group"),
        (["--workdir={run}", "{in}", "--step=7"], "no checkpoint of step 7"),
        (["--workdir={run}", "{in}", "--submission={tmp}/s.zip"], "is not named N.bmp"),
        (["--workdir={run}", "{tmp}/empty"], "holds no image (.bmp, .png"),
        (["--workdir={run}", "{tmp}/bad"], "none of the files (1) is an image"),
    ],
)
def test_wrong_arguments_end_in_one_line(
    trained_run, folder, tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"no image")
    places = {"in": folder, "tmp": tmp_path, "run": trained_run}
    run(*(argument.format(**places) for argument in arguments), status=1)
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("error: ")
    assert message in lines[-1]
    assert sum(line.startswith("error: ") for line in lines) == 1
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_an_existing_table_is_replaced_only_if_it_is_named(
    trained_run, folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for name in ("predictions.csv", "predictions-subjects.csv"):
        (tmp_path / name).write_text("mine")
        run(f"--workdir={trained_run}", folder, "--subject_pattern=(p[0-9])_", status=1)
        assert f"{name}: exists" in capsys.readouterr().err
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()
    run(f"--workdir={trained_run}", folder)
    first = (tmp_path / "predictions.csv").read_bytes()
    run(f"--workdir={trained_run}", folder, status=1)
    (tmp_path / "predictions.csv").write_text("old")
    run(f"--workdir={trained_run}", folder, "--output=predictions.csv")
    assert (tmp_path / "predictions.csv").read_bytes() == first


def test_pipes_devices_and_links_are_written_through(trained_run, folder, tmp_path, capfd):
    expected = tmp_path / "table.csv"
    run(f"--workdir={trained_run}", folder, f"--output={expected}")
    capfd.readouterr()
    run(f"--workdir={trained_run}", folder, "--output=/dev/stdout")
    assert capfd.readouterr().out.encode() == expected.read_bytes()

    os.mkfifo(tmp_path / "pipe")
    got = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    run(f"--workdir={trained_run}", folder, f"--output={tmp_path / 'pipe'}")
    reader.join(10)
    assert got == [expected.read_bytes()]

    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "null").symlink_to("/dev/null")
    for name in ("link", "null"):
        run(f"--workdir={trained_run}", folder, f"--output={tmp_path / name}")
        assert (tmp_path / name).is_symlink()
    assert (tmp_path / "real").read_bytes() == expected.read_bytes()
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    run(f"--workdir={trained_run}", folder, "--output=/dev/stdout", "--subject_pattern=(p)",
        status=1)  # fmt: skip
    out, err = capfd.readouterr()
    assert out == ""
    assert "the second table of --subject_pattern goes beside it" in err


def test_other_formats_are_read_or_counted(trained_run, folder, tmp_path, caplog):
    Image.fromarray(cell(0)).save(folder / "a.webp", lossless=True)
    Image.fromarray(cell(1)).save(folder / "b.GIF")
    for name in ("c.svg", "d.heic", "e.svg"):
        (folder / name).write_bytes(b"x")
    with zipfile.ZipFile(folder / "z.zip", "w") as file:
        file.writestr("f.webp", (folder / "a.webp").read_bytes())
        file.writestr("notes.txt", b"x")
    with caplog.at_level("WARNING"):
        run(f"--workdir={trained_run}", folder, f"--output={tmp_path / 'o.csv'}")
    said = "left out 4 files that are no image that leukjax reads: 2 .svg, 1 .heic, 1 .txt"
    assert said in caplog.text
    found = {Path(row["path"]).name: row for row in table(tmp_path / "o.csv")}
    assert not any(row["error"] for row in found.values())
    assert found["a.webp"]["p_all"] == found["p0_0.png"]["p_all"] == found["z.zip!f.webp"]["p_all"]
    assert found["b.GIF"]["conversions"] == "palette"


def test_the_pattern_in_the_docs_matches_every_subject_of_cnmc(repository):
    from leukjax.data.datasets.cnmc import parse_name

    text = (repository / "docs" / "howto" / "predict.md").read_text()
    (pattern,) = re.findall(r"--subject_pattern='([^']*)'", text)
    for subject, kind in (("1", "all"), ("H3", "hem"), ("h3", "hem"), ("25", "all")):
        name = f"UID_{subject}_12_3_{kind}.bmp"
        assert re.search(pattern, name)[1].upper() == parse_name(name).subject


def test_the_memory_of_a_stream_is_bounded(trained_run, monkeypatch):
    """Twenty times as many images, good and bad ones, use the same memory."""
    model = leukjax.load(trained_run, batch_size=8)
    good = png(0)

    def items(count: int):
        for number in range(count):
            bad = number % 3 == 0 or 1000 < number < 3000
            yield Item(f"{number}.png", (lambda: b"") if bad else (lambda: good))

    def peak(count: int) -> int:
        tracemalloc.start()
        assert sum(1 for _ in stream(model, items(count), threads=2)) == count
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(50)
    few, many = peak(200), peak(4000)
    assert many < few + 256 * 1024
    assert module._MAX_ITEMS_PER_SLOT * model.batch_size < 200


def test_an_ensemble_of_equal_runs_writes_the_same_table(trained_run, folder, tmp_path):
    both = f"--workdir={trained_run},{trained_run}"
    run(both, folder, f"--output={tmp_path / 'two.csv'}")
    run(f"--workdir={trained_run}", folder, f"--output={tmp_path / 'one.csv'}")
    assert (tmp_path / "two.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()
