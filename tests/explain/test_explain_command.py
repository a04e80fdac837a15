"""The command `leukjax.explain`."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import leukjax
from leukjax import command
from leukjax.explain import cli, explain_files, explainer, overlay

SIDE = 30
COMPILED_ONCE = "--batch_size=8"


def cell(number: int) -> np.ndarray:
    random = np.random.default_rng(number)
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    inside = np.hypot(x, y) < random.uniform(6, 14)
    image[inside] = random.integers(40, 200, (inside.sum(), 3))
    return image


def png(number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(cell(number)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "in").mkdir()
    for number in range(3):
        (tmp_path / "in" / f"{number}.png").write_bytes(png(number))
    return tmp_path / "in"


def run(*arguments: object, status: int = 0) -> None:
    cli.FLAGS.unparse_flags()
    for name in cli.FLAGS:
        cli.FLAGS[name].unparse()
    argv = [*(str(argument) for argument in arguments), COMPILED_ONCE]
    assert command.status(cli.main, cli.FLAGS, argv, doc=cli.__doc__) == status


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "explanations.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.smoke("explain")
def test_every_image_gets_maps_an_overlay_and_rows(trained_run, folder, tmp_path):
    (folder / "broken.png").write_bytes(b"broken")
    output = tmp_path / "out"
    methods = ["gradcam", "hirescam", "integrated_gradients", "occlusion"]
    run(f"--workdir={trained_run}", folder, f"--output={output}", f"--method={','.join(methods)}")
    rows = table(output)
    bad = [row for row in rows if row["error"]]
    good = [row for row in rows if not row["error"]]
    assert [Path(row["path"]).name for row in bad] == ["broken.png"]
    assert [(Path(row["path"]).name, row["method"]) for row in good] == [
        (f"{number}.png", method) for number in range(3) for method in methods
    ]
    model = leukjax.load(trained_run)
    probabilities = model.predict([cell(number) for number in range(3)])
    for number, row in enumerate(good):
        image, p = number // 4, probabilities[number // 4]
        assert row["target"] == row["predicted"] == model.classes[p.argmax()]
        assert float(row["p_target"]) == pytest.approx(p.max(), abs=1e-5)
        odds = np.log(p.max() / (1 - p.max()))
        assert float(row["score"]) == pytest.approx(odds, abs=1e-3)
        (prepared,) = model.prepare(cell(image))
        mask = prepared.any(-1)
        assert float(row["cell_area"]) == pytest.approx(mask.mean(), abs=1e-5)
        map = np.load(output / row["map"])
        assert map.dtype == np.float32
        if row["method"] in ("integrated_gradients", "occlusion"):
            assert map.shape == (24, 24)
            share = np.abs(map)[mask].sum() / np.abs(map).sum()
            assert float(row["share_in_cell"]) == pytest.approx(share, abs=1e-4)
        else:
            assert map.shape == (3, 3)
            assert row["layer"] == "feature_map"
            assert map.min() >= 0
        if row["method"] == "integrated_gradients":
            assert float(row["map_sum"]) == pytest.approx(map.sum(), abs=1e-3)
            gap = float(row["score"]) - float(row["baseline_score"])
            error = float(row["map_sum"]) - gap
            assert float(row["completeness_error"]) == pytest.approx(error, abs=1e-4)
            assert abs(error) < 0.05 * max(1.0, abs(gap))
            assert row["complete"] == "yes"
            assert float(row["incompleteness"]) <= 0.05
            assert int(row["steps"]) >= 64
        else:
            assert row["complete"] == row["steps"] == row["incompleteness"] == ""
        with Image.open(output / row["overlay"]) as picture:
            assert picture.format == "PNG"
            assert picture.width > 500
    assert not list(output.rglob(".*"))


def test_an_incomplete_map_is_marked_everywhere(trained_run, folder, tmp_path, monkeypatch, caplog):
    """With only two steps it is incomplete: log, table and figure report it."""
    figures = []

    def record(title, marks, methods, columns):
        figures.append((marks, [panel for column in columns for panel in column.panels]))
        return overlay.overlay(title, marks, methods, columns)

    monkeypatch.setattr(explainer, "MOST_STEPS", 2)
    monkeypatch.setattr(explain_files, "overlay", record)
    monkeypatch.setattr(explainer, "TOLERANCE", 1e-4)
    monkeypatch.setattr(explain_files, "TOLERANCE", 1e-4)
    run(f"--workdir={trained_run}", folder, f"--output={tmp_path / 'out'}", "--steps=2",
        "--method=gradcam,integrated_gradients")  # fmt: skip
    rows = [row for row in table(tmp_path / "out") if row["method"] == "integrated_gradients"]
    bad = [row for row in rows if row["complete"] == "no"]
    assert bad
    for row, (marks, (plain, signed)) in zip(rows, figures, strict=True):
        off = row["complete"] == "no"
        assert off == (float(row["incompleteness"]) > 1e-4)
        assert off == any("INCOMPLETE" in mark for mark in marks)
        assert off == signed.warning.startswith("INCOMPLETE: off by ")
        assert not plain.warning
    assert f"{len(bad)} of 3 maps of integrated gradients are incomplete" in caplog.text


def test_the_other_class_inverts_the_map(trained_run, folder, tmp_path):
    maps = {}
    for target in ("all", "hem"):
        run(f"--workdir={trained_run}", folder, f"--output={tmp_path / target}",
            "--method=integrated_gradients", f"--target={target}", "--nooverlays")  # fmt: skip
        rows = table(tmp_path / target)
        assert {row["target"] for row in rows} == {target}
        assert not (tmp_path / target / "overlays").exists()
        maps[target] = [np.load(tmp_path / target / row["map"]) for row in rows]
    # With two classes the log-odds of one are minus those of the other.
    for a, b in zip(maps["all"], maps["hem"], strict=True):
        np.testing.assert_allclose(a, -b, atol=1e-4 * np.abs(a).max())


def test_maps_are_the_same_in_every_batch(trained_run, folder, tmp_path):
    run(f"--workdir={trained_run}", folder, f"--output={tmp_path / 'a'}", "--method=gradcam",
        "--nooverlays")  # fmt: skip
    run(f"--workdir={trained_run}", folder / "2.png", f"--output={tmp_path / 'b'}",
        "--method=gradcam", "--nooverlays")  # fmt: skip
    a, b = (np.load(tmp_path / n / table(tmp_path / n)[-1]["map"]) for n in "ab")
    np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{in}"], "--workdir is missing"),
        (["--workdir={tmp}", "{in}"], "holds no run"),
        (["--workdir={run},{run}", "{in}"], "named twice"),
        (["--workdir={run}"], "no image is given"),
        (["--workdir={run}", "{tmp}/nowhere"], "nowhere: cannot be read"),
        (["--workdir={run}", "{tmp}/empty"], "holds no image"),
        (["--workdir={run}", "{tmp}/bad"], "none of the files (1) is an image"),
        (["--workdir={run}", "{in}", "--method=rollout"], "--method=rollout: is not for cnn"),
        (["--workdir={run}", "{in}", "--method=lime"], "--method=lime: no such method"),
        (["--workdir={run}", "{in}", "--target=aml"], "--target=aml"),
        (["--workdir={run}", "{in}", "--layer=layer9"], "--layer=layer9: no such layer"),
        (["--workdir={run}", "{in}", "--step=7"], "no checkpoint of step 7"),
        (["--workdir={run}", "{in}", "--output={tmp}/bad/x.png"], "is a file"),
        (["--workdir={run}", "{in}", "--output=/proc/x"], "cannot be written"),
        (["--workdir={run}", "{in}", "--output={in}/out"], "where images are read"),
    ],
)
def test_an_error_is_one_line(
    trained_run, folder, tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"no image")
    paths = {"in": folder, "tmp": tmp_path, "run": trained_run}
    run(*(argument.format(**paths) for argument in arguments), status=1)
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("error: ")
    assert message in lines[-1]
    assert sum(line.startswith("error: ") for line in lines) == 1


@pytest.mark.parametrize("background", ["black", "bright"])
def test_the_cell_mask_uses_the_background_of_the_image(background):
    """A bright field in a run on black cells is not "100 % cell", and the reverse."""
    y, x = np.mgrid[:32, :32] - 15.5
    disc = np.hypot(y, x) < 9
    for field, cell in ((230, 90), (0, 90)):
        image = np.repeat(np.where(disc, cell, field)[..., None], 3, axis=2).astype(np.uint8)
        np.testing.assert_array_equal(explain_files._cell(image, image, background), disc)
