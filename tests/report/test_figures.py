import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
from matplotlib import colors
from matplotlib.text import Text
from PIL import Image

from leukjax.report import style
from leukjax.report.figures import (
    confusion_figure,
    curves,
    roc_figure,
    subjects_figure,
    write_figures,
)
from leukjax.report.provenance import About

NAMES = ("curves", "confusion", "roc", "subjects")


def history(epochs, accuracy=True):
    return [
        {
            "step": 10 * e,
            "epoch": float(e),
            "part": part,
            "loss": 0.7 / e,
            "accuracy": 1 - 0.4 / e if accuracy else None,
        }
        for e in range(1, epochs + 1)
        for part in ("train", "val")
    ]


def predictions(subjects, classes, mixed=False):
    rng = np.random.default_rng(0)
    member = np.repeat(np.arange(subjects), rng.integers(1, 20, subjects))
    labels = rng.integers(0, classes, len(member)) if mixed else member % classes
    p = rng.dirichlet(np.ones(classes), len(member)) + 0.3 * np.eye(classes)[labels]
    names = np.array([f"subject {i}" for i in member])
    return labels, p / p.sum(axis=1, keepdims=True), names


TWO = About("smears", "test", ("hem", "all"), "all", synthetic=True)
CASES = {
    "two classes, 30 subjects": (8, *predictions(30, 2), TWO),
    "two classes, 101 subjects, leaky": (
        50,
        *predictions(101, 2),
        About("cnmc", "test", ("hem", "all"), "all", leaky=True),
    ),
    "three classes in every field, one epoch": (
        1,
        *predictions(36, 3, mixed=True),
        About("bccd_cells", "test", ("RBC", "WBC", "Platelets"), "WBC"),
    ),
    "one class only, long names, all marks": (
        2,
        np.ones(9, int),
        np.tile([0.3, 0.7], (9, 1)),
        np.arange(9).astype(str),
        About(
            "all_idb2",
            "test",
            ("healthy lymphocytes", "leukaemic lymphoblasts"),
            "leukaemic lymphoblasts",
            synthetic=True,
            leaky=True,
            subjects_known=False,
        ),
    ),
    "fourteen classes": (
        3,
        *predictions(60, 14),
        About("x", "test", tuple(f"class {i}" for i in range(14)), "class 0"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_files_appear_and_are_the_same_again(case, tmp_path):
    epochs, labels, p, subjects, about = CASES[case]
    lines = history(epochs, accuracy=case != "one class only, long names, all marks")
    written = [
        write_figures(tmp_path / run, lines, labels, p, subjects, subjects, about, best_epoch=1)
        for run in "ab"
    ]
    assert [path.name for path in written[0]] == [
        f"{n}.{kind}" for n in NAMES for kind in ("png", "svg")
    ]
    for first, second in zip(*written, strict=True):
        assert first.read_bytes() == second.read_bytes(), first.name
    for path in written[0]:
        if path.suffix == ".svg":
            assert "date" not in path.read_text().lower()
            continue
        picture = np.asarray(Image.open(path).convert("L"))
        # Nothing is cut: the outermost pixels are blank, and those inside are not.
        frame = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
        assert (frame == 255).all(), path.name
        assert (picture < 128).sum() > 500


def test_another_process_writes_the_same_bytes(tmp_path):
    program = (
        "import sys; from pathlib import Path; from leukjax.report.figures import curves;"
        "from leukjax.report.provenance import About; from leukjax.report.style import save;"
        "h=[{'epoch': 1.0, 'part': 'val', 'loss': .5, 'accuracy': .5}];"
        "save(curves(h, About('x', 'test', ('a', 'b'), 'b')), Path(sys.argv[1]), 'curves')"
    )
    for run in "ab":
        subprocess.run([sys.executable, "-c", program, str(tmp_path / run)], check=True)
    for kind in ("png", "svg"):
        a, b = ((tmp_path / run / f"curves.{kind}").read_bytes() for run in "ab")
        assert a == b


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_cut(case):
    epochs, labels, p, subjects, about = CASES[case]
    for figure in (
        curves(history(epochs), about, best_epoch=1),
        confusion_figure(labels, p.argmax(1), about),
        roc_figure(labels, p, subjects, about),
        subjects_figure(labels, p.argmax(1), subjects, about),
    ):
        figure.draw_without_rendering()
        box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert box.x0 > -0.01
        assert box.y0 > -0.01
        assert box.x1 < width + 0.01
        assert box.y1 < height + 0.01


def texts(figure):
    figure.draw_without_rendering()
    texts = [t.get_text() for t in figure.findobj(lambda o: hasattr(o, "get_text"))]
    return "\n".join(t for t in texts if t)


def test_marks_are_in_every_title():
    labels, p, subjects = predictions(10, 2)
    about = About("smears", "test", ("hem", "all"), "all", synthetic=True, leaky=True)
    for figure in (
        curves(history(2), about),
        confusion_figure(labels, p.argmax(1), about),
        roc_figure(labels, p, subjects, about),
        subjects_figure(labels, p.argmax(1), subjects, about),
    ):
        title = figure.get_suptitle().replace("\n", " ")
        assert "SYNTHETIC data" in title
        assert "LEAKY split" in title
        assert "smears" in title


def test_confusion_shows_counts_and_row_shares():
    text = texts(confusion_figure(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]), TWO))
    for entry in ("2\n66.7%", "1\n33.3%", "0\n0.0%", "1\n100.0%"):
        assert entry in text


def test_roc_names_the_score_with_its_interval():
    labels, p, subjects = predictions(30, 2)
    assert re.search(
        r"all: AUROC 0\.\d{3} \(0\.\d{3}–[01]\.\d{3}\)", texts(roc_figure(labels, p, subjects, TWO))
    )
    alone = texts(roc_figure(np.ones(4, int), np.tile([0.4, 0.6], (4, 1)), np.arange(4), TWO))
    assert "every image is all: undefined" in alone


def test_curves_without_values_have_a_note():
    assert "no values logged" in texts(curves([], TWO))
    # The test part and absent scores are not box.
    figure = curves([{"epoch": 1.0, "part": "test", "loss": 0.1, "accuracy": 1.0}], TWO)
    assert "no values logged" in texts(figure)


def test_subjects_are_sorted_and_coloured_by_class():
    labels = np.array([0, 0, 1, 1, 1, 0])
    predicted = np.array([0, 1, 1, 1, 1, 0])
    figure = subjects_figure(labels, predicted, np.array(list("aabbcc")), TWO)
    text = texts(figure)
    assert "several classes" in text  # subject c has cells of both
    ticks = [t.get_text() for t in figure.axes[0].get_xticklabels()]
    assert ticks == ["a", "c", "b"]


def test_the_users_own_settings_change_nothing(tmp_path):
    import matplotlib

    plain = style.save(curves(history(3), TWO), tmp_path / "plain", "x")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black"}):
        changed = style.save(curves(history(3), TWO), tmp_path / "changed", "x")
    for a, b in zip(plain, changed, strict=True):
        assert a.read_bytes() == b.read_bytes()


def test_neighbouring_class_colours_differ_in_lightness_and_hue():
    rgb = np.array([colors.to_rgb(c) for c in style.CLASSES])
    assert len(np.unique(rgb, axis=0)) == len(style.CLASSES)
    lightness = rgb @ [0.2126, 0.7152, 0.0722]
    assert lightness.max() < 0.75  # legible on white
    assert abs(lightness[0] - lightness[1]) > 0.04


ODD = About("x", "test", ("_a$b$_c", "白血球 100 $", "\x1b[31mred"), "_a$b$_c")


def test_names_are_drawn_as_they_are(tmp_path, caplog, monkeypatch):
    """Dollars start no mathematics, legends keep ``_…``, and a letter gets one warning."""
    labels, p, _ = predictions(9, 3, mixed=True)
    subjects = np.array(["_1", "$2$", "白3", "4"])[np.arange(len(labels)) % 4]
    monkeypatch.setattr(style, "_warned", set())
    monkeypatch.setattr(style, "_OTHER_FONTS", ())  # as where no other font is installed
    with warnings.catch_warnings(), caplog.at_level("WARNING"):
        warnings.simplefilter("error")
        write_figures(tmp_path, history(2), labels, p, subjects, subjects, ODD)
        figure = roc_figure(labels, p, subjects, ODD)
        style.save(figure, tmp_path, "again", ("svg",))
    mean, *legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert mean.startswith("mean over classes")
    assert legend[0].startswith("\u200b_a$b$_c against the rest: AUROC")
    assert legend[1].startswith("\\u767d\\u8840\\u7403 100 $ against the rest: AUROC")
    assert legend[2].startswith("\\x1b[31mred against the rest: AUROC")
    assert not any(text.get_parse_math() for text in figure.findobj(Text))
    figure = subjects_figure(labels, p.argmax(1), subjects, ODD)
    style.save(figure, tmp_path, "again", ("svg",))
    ticks = [t.get_text() for t in figure.axes[0].get_xticklabels()]
    assert sorted(ticks) == ["$2$", "4", "\\u767d3", "_1"]
    assert len([r for r in caplog.records if "no font of this machine" in r.message]) <= 2


def test_letters_come_from_a_font_that_has_them(monkeypatch):
    monkeypatch.setattr(style, "_letters", {style.FONT: {97}, "Noto Sans": {0x767D}}.__getitem__)
    monkeypatch.setattr(style, "_OTHER_FONTS", ("Noto Sans",))
    assert style._drawable("a白") == ("a白", [style.FONT, "Noto Sans"])


def test_a_picture_without_names_is_not_changed():
    labels, p, subjects = predictions(9, 2)
    figure = roc_figure(labels, p, subjects, TWO)
    before = texts(figure)
    style.make_drawable(figure)
    assert texts(figure) == before
