"""Pages and Markdown of a document."""

import pytest
from matplotlib.figure import Figure

from leukjax.report import page
from leukjax.report.page import Document, Picture, Section
from leukjax.report.tables import Table


@pytest.fixture
def document(tmp_path):
    (tmp_path / "bars.svg").write_text("<svg/>")
    table = Table("scores", "Scores & more", ["", "AUROC"], [["<a>", 0.5]], ["A note."])
    blocks = ["Text.", table, Picture("bars", "Bars of <a>", Figure())]
    return Document("A > B", "test", ["SYNTHETIC data"], ["Headline."], [Section("s", "S", blocks)])


def test_the_page_has_every_block_and_escapes_text(document, tmp_path):
    text = page.html(document, tmp_path)
    for part in (
        "<title>A &gt; B</title>",
        '<span class="mark">SYNTHETIC data</span>',
        "<p>Headline.</p>",
        '<a href="#s">S</a>',
        "<p>Text.</p>",
        "<h3>Scores &amp; more</h3>",
        "&lt;a&gt;</td>",
        "<li>A note.</li>",
        'src="data:image/svg+xml;base64,PHN2Zy8+" alt="Bars of &lt;a&gt;"',
    ):
        assert part in text, part
    assert "<a>" not in text


def test_markdown_refers_to_the_figures(document):
    text = page.markdown(document)
    assert text.startswith("# A > B\n\ntest\n\n**SYNTHETIC data**\n\n> Headline.\n\n## S\n\nText.")
    assert "| <a> | 0.500 |" in text
    assert text.endswith("![Bars of <a>](figures/bars.png)\n")


def test_a_template_of_another_package_extends_the_base(tmp_path):
    (tmp_path / "own.html.jinja").write_text(
        '{% extends "base.html.jinja" %}{% block body %}<p>{{ text }}</p>{% endblock %}'
    )
    text = page.template("own.html.jinja", tmp_path).render(text="1 < 2")
    assert text.startswith("<!DOCTYPE html>")
    assert "<p>1 &lt; 2</p>" in text
