"""The preview command and the sheet that it draws."""

import numpy as np
import pytest

from leukjax import command
from leukjax.images.distort import DISTORTIONS
from leukjax.preview import cli
from leukjax.preview.write_preview import sheet
from leukjax.report.style import save


def _status(*arguments):
    cli.FLAGS.unparse_flags()
    return command.status(cli.main, cli.FLAGS, list(arguments), doc=cli.__doc__)


FIELDS = (
    "--config=cnn",
    "--config.data.smears_subjects=12",
    "--config.data.smears_cells=6",
    "--config.data.image_size=24",
    "--config.augment.rotate=90",
)


@pytest.mark.smoke("preview")
def test_a_sheet_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("LEUKJAX_CACHE", str(tmp_path / "cache"))
    output = tmp_path / "sheets" / "cells.png"
    assert _status(*FIELDS, f"--output={output}", "--rows=3", "--views=2") == 0
    assert output.read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in output.parent.iterdir()] == ["cells.png"]


def test_a_sheet_of_distortions_has_one_row_per_distortion(tmp_path, monkeypatch):
    monkeypatch.setenv("LEUKJAX_CACHE", str(tmp_path / "cache"))
    for name in ("a.svg", "b.svg"):
        assert _status(*FIELDS, "--distorted", f"--output={tmp_path / name}") == 0
    text = (tmp_path / "a.svg").read_bytes()
    assert text == (tmp_path / "b.svg").read_bytes()
    assert text.count(b"<image") == 6 * len(DISTORTIONS)


@pytest.mark.parametrize(
    ("argument", "expected", "message"),
    [("--output=cells.gif", 1, "must end in .png or .svg"), ("--rows=0", 2, "rows")],
)
def test_mistakes(tmp_path, monkeypatch, capsys, argument, expected, message):
    monkeypatch.setenv("LEUKJAX_CACHE", str(tmp_path / "cache"))
    assert _status(*FIELDS, argument) == expected
    assert message in capsys.readouterr().err


def test_every_image_and_every_view_is_drawn(tmp_path):
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    views = rng.random((3, 4, 16, 16, 3)).astype(np.float32)
    figure = sheet(raw, views, ["hem H1", "all H2", "all H3"], "smears: flip")
    arrays = [axes.images[0].get_array() for axes in figure.axes]
    assert len(arrays) == 15
    np.testing.assert_array_equal(arrays[0], raw[0])
    np.testing.assert_array_equal(arrays[7], views[1, 1])
    assert [axes.get_ylabel() for axes in figure.axes[::5]] == ["hem H1", "all H2", "all H3"]
    first, second = (save(figure, tmp_path / run, "preview") for run in "ab")
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes()


def test_without_views_the_raw_images_remain():
    figure = sheet(np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 0, 8, 8, 3)), ["a", "b"], "x")
    assert len(figure.axes) == 2
