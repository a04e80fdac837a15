"""The preview command: one sheet, of the kind that was asked for."""

import pytest

from leukjax import command
from leukjax.images.distort import DISTORTIONS
from leukjax.preview import cli


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


def test_a_sheet_of_distortions_has_a_row_for_each(tmp_path, monkeypatch):
    monkeypatch.setenv("LEUKJAX_CACHE", str(tmp_path / "cache"))
    for name in ("a.svg", "b.svg"):
        assert _status(*FIELDS, "--distorted", f"--output={tmp_path / name}") == 0
    text = (tmp_path / "a.svg").read_bytes()
    assert text == (tmp_path / "b.svg").read_bytes()
    assert text.count(b"<image") == 6 * len(DISTORTIONS)


@pytest.mark.parametrize(
    ("argument", "expected", "says"),
    [("--output=cells.gif", 1, "must end in .png or .svg"), ("--rows=0", 2, "rows")],
)
def test_mistakes(tmp_path, monkeypatch, capsys, argument, expected, says):
    monkeypatch.setenv("LEUKJAX_CACHE", str(tmp_path / "cache"))
    assert _status(*FIELDS, argument) == expected
    assert says in capsys.readouterr().err
