import csv
import io

import pytest

from leukjax.metrics.intervals import Interval
from leukjax.report.tables import P, Table, cell_text, latex, p_value

TABLE = Table(
    "t",
    "Scores of 100 % of x_1",
    ["", "AUROC", "p", "n"],
    [
        ["a|b", Interval(0.91234, 0.85, 0.95, "jackknife", 9), P(0.00004), 1234],
        ["c", Interval(-0.1, -0.3, 0.05, "jackknife", 9), None, -2],
        ["d", Interval(None, None, None, "jackknife", 9, "undefined"), P(0.0312), 0],
    ],
    ["A note & more."],
)


def test_csv_has_full_precision_and_the_bounds():
    rows = list(csv.DictReader(io.StringIO(TABLE.csv())))
    assert list(rows[0]) == ["", "AUROC", "AUROC low", "AUROC high", "p", "n"]
    assert float(rows[0]["AUROC"]) == 0.91234
    assert float(rows[0]["p"]) == 0.00004
    assert rows[1]["p"] == ""
    assert rows[2]["AUROC"] == ""


def test_text_has_three_digits_and_a_minus_sign():
    assert TABLE.text() == [
        ["a|b", "0.912 (0.850–0.950)", "< 0.0001", "1,234"],
        ["c", "−0.100 (−0.300 to 0.050)", "–", "-2"],
        ["d", "–", "0.031", "0"],
    ]
    assert "a\\|b" in TABLE.markdown()
    assert cell_text(0.5) == "0.500"


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (None, "–"),
        (1.0, "1.000"),
        (0.0421, "0.042"),
        (0.00214, "0.0021"),
        (0.0, "< 0.0001"),
    ],
)
def test_p_is_never_zero(p, text):
    assert p_value(p) == text


def test_latex_escapes_special_characters():
    assert latex("50 % of a_b & {c} < d–e") == r"50 \% of a\_b \& \{c\} \textless{} d--e"
    text = TABLE.latex()
    assert r"\caption{Scores of 100 \% of x\_1}" in text
    assert r"0.912 (0.850--0.950) & \textless{} 0.0001 & 1,234 \\" in text
    assert r"\item A note \& more." in text
