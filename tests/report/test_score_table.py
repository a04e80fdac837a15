import numpy as np
import pytest

from leukjax.metrics.intervals import Interval, intervals
from leukjax.metrics.scores import subject_table
from leukjax.report.provenance import About
from leukjax.report.tables import COLUMNS, Row, number, render, score_table, span

CLASSES = ("hem", "all")


def predictions(subjects=12, cells=15):
    rng = np.random.default_rng(0)
    member = np.repeat(np.arange(subjects), cells)
    labels = member % 2
    p = 1 / (1 + np.exp(-(2 * labels - 1 + rng.normal(size=len(member)))))
    return labels, np.stack([1 - p, p], 1), member.astype(str)


def row(name, labels, p, subjects):
    table = subject_table(labels, p, subjects, subjects)
    return Row(
        name,
        intervals(labels, p, subjects, CLASSES, "all"),
        intervals(table.labels, table.probabilities, table.groups, CLASSES, "all"),
    )


def scored(about, **changes):
    labels, p, subjects = predictions()
    rows = [
        row("resnet50", labels, p, subjects),
        row("larger class", labels, np.tile([0.7, 0.3], (len(labels), 1)), subjects),
    ]
    arguments = {"images": 180, "subjects": 12, "groups": 12, "groups_with": {"hem": 6, "all": 6}}
    return rows, score_table(rows, about, **(arguments | changes))


ABOUT = About("smears", "test", CLASSES, "all")


def test_every_score_and_interval_is_printed_by_image_and_by_subject():
    rows, text = scored(ABOUT)
    by_image, by_subject = text.split("By subject (12 subjects")
    assert "By image (180 images; 12 groups: 6 with hem, 6 with all)" in by_image
    for intervals_by_score, part in (
        (rows[0].by_image, by_image),
        (rows[0].by_subject, by_subject),
    ):
        lines = part.splitlines()
        start = next(i for i, line in enumerate(lines) if line.startswith("resnet50"))
        values = lines[start].split()[1:]
        assert values == [number(intervals_by_score[name].value) for name in COLUMNS]
        below = [cell.rstrip("*") for cell in lines[start + 1].split()]
        assert below == [
            span(intervals_by_score[name], 2)
            for name in COLUMNS
            if intervals_by_score[name].low is not None
        ]
    assert "Positive class: all" in text
    assert "delete-one-group jackknife (CR3)" in text
    assert max(map(len, text.splitlines())) <= 110


def test_undefined_scores_are_explained():
    _, text = scored(ABOUT)
    assert "Undefined: no image was predicted as all (precision by image of larger class" in text
    line = next(line for line in text.splitlines() if line.startswith("larger class"))
    assert "–" in line
    assert "nan" not in text.lower()
    assert "None" not in text


@pytest.mark.parametrize("markdown", [False, True])
def test_marks(markdown):
    _, plain = scored(ABOUT, markdown=markdown)
    for word in ("SYNTHETIC", "LEAKY", "No subjects known"):
        assert word not in plain
    _, marked = scored(
        About("smears", "test", CLASSES, "all", synthetic=True, leaky=True, subjects_known=False),
        markdown=markdown,
    )
    for word in ("SYNTHETIC", "LEAKY", "No subjects known"):
        assert word in marked


def test_a_perfect_score_is_starred_and_the_star_explained():
    labels, _, subjects = predictions()
    p = np.stack([0.9 - 0.8 * labels, 0.1 + 0.8 * labels], 1)
    text = score_table(
        [row("cnn", labels, p, subjects)],
        ABOUT,
        images=180,
        subjects=12,
        groups=12,
        groups_with={"hem": 6, "all": 6},
    )
    assert "0.54–1.00*" in text
    assert "* the same result in every group: binomial (Clopper-Pearson)" in text


def test_no_scores_by_subject_are_explained():
    labels, p, subjects = predictions()
    only = Row("cnn", intervals(labels, p, subjects, CLASSES, "all"))
    text = score_table(
        [only],
        ABOUT,
        images=180,
        subjects=12,
        groups=12,
        groups_with={"hem": 6, "all": 6},
        no_subjects="12 of 12 subjects have cells of several classes",
    )
    assert "By subject: none, because 12 of 12 subjects have cells of several classes." in text


def test_means_over_three_classes_are_stated():
    about = About("bccd_cells", "test", ("RBC", "WBC", "Platelets"), "WBC")
    interval = Interval(0.5, 0.4, 0.6, "jackknife", 9)
    text = score_table(
        [Row("cnn", dict.fromkeys(COLUMNS, interval))],
        about,
        images=9,
        subjects=9,
        groups=9,
        groups_with={"RBC": 9, "WBC": 9, "Platelets": 9},
    )
    assert "3 classes (RBC, WBC, Platelets)" in text
    assert "Positive class" not in text


def test_columns_align_and_markdown_is_a_table():
    header, rows = ["name", "a\nb"], [["long name", "1"], ["x|y", "22\n3"]]
    plain = render(header, rows).splitlines()
    assert plain == [
        "            a",
        "name        b",
        "─────────────",
        "long name   1",
        "",
        "x|y        22",
        "            3",
    ]
    assert render(header, rows, markdown=True).splitlines() == [
        "| name | a b |",
        "| :--- | ---: |",
        "| long name | 1 |",
        "| x\\|y | 22<br>3 |",
    ]
