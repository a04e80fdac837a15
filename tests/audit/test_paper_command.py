"""leukjax.audit on papers, as a command."""

import json
import os
import threading
from pathlib import Path

import pytest

from leukjax import command
from leukjax.audit import cli, paper_checks
from leukjax.audit import paper as papers

PAPERS = Path(__file__).resolve().parents[2] / "docs" / "papers"


def run(*arguments: str) -> int:
    cli.FLAGS.unparse_flags()
    for flag in cli.FLAGS:
        cli.FLAGS[flag].unparse()
    return command.status(cli.main, cli.FLAGS, list(arguments), doc=cli.__doc__)


def test_findings_are_printed_and_written(tmp_path, capsys):
    target = tmp_path / "found" / "hameed.json"
    assert run(str(PAPERS / "hameed_2025.toml"), f"--output={target}") == 0
    checks = json.loads(target.read_text())["checks"]
    assert all(set(c) == {"check", "where", "verdict", "arithmetic"} for c in checks)
    assert {c["check"] for c in checks} == set(paper_checks.CHECKS)
    printed = capsys.readouterr().out
    assert printed.count("\nFAIL ") == sum(c["verdict"] == "fail" for c in checks) > 20
    assert "and not why" in printed


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_figure_is_reproducible(tmp_path, kind):
    files = [tmp_path / f"{i}.{kind}" for i in range(2)]
    for file in files:
        assert run(str(PAPERS / "ozdemir_2026.toml"), f"--figure={file}") == 0
    first, second = (file.read_bytes() for file in files)
    assert first == second
    assert len(first) > 5000


def test_links_named_as_output_are_followed(tmp_path):
    for name in ("found.json", "figure.png"):
        (tmp_path / f"real-{name}").write_text("old")
        (tmp_path / name).symlink_to(f"real-{name}")
    flags = (f"--output={tmp_path / 'found.json'}", f"--figure={tmp_path / 'figure.png'}")
    assert run(str(PAPERS / "ozdemir_2026.toml"), *flags) == 0
    assert json.loads((tmp_path / "real-found.json").read_text())["checks"]
    assert (tmp_path / "real-figure.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "found.json").is_symlink()
    assert (tmp_path / "figure.png").is_symlink()


@pytest.mark.parametrize("flag", ["output", "figure"])
def test_a_pipe_is_written_to(tmp_path, flag):
    pipe = tmp_path / ("x.json" if flag == "output" else "x.png")
    os.mkfifo(pipe)
    contents = []
    reader = threading.Thread(target=lambda: contents.append(pipe.read_bytes()))
    reader.start()
    assert run(str(PAPERS / "ozdemir_2026.toml"), f"--{flag}={pipe}") == 0
    reader.join(10)
    assert contents[0][:1] in (b"{", b"\x89")


def test_a_paper_that_is_a_pipe_is_refused(tmp_path, capsys):
    os.mkfifo(tmp_path / "x.toml")
    assert run(str(tmp_path / "x.toml")) == 1
    assert "cannot be read (is not a regular file)" in capsys.readouterr().err


def test_the_blank_form_is_valid_and_lacks_all_items(tmp_path, capsys):
    assert run("--new") == 0
    form = tmp_path / "blank.toml"
    form.write_text(capsys.readouterr().out)
    assert run(str(form)) == 0
    verdicts = {f.check for f in paper_checks.audit(papers.read(form)) if f.verdict == "fail"}
    assert verdicts == {"missing_items"}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["none.toml"], "none.toml: cannot be read (No such file or directory)"),
        (["paper.toml"], "paper.toml: [data]: key 'imagez' is not known; did you mean images?"),
        (["typed.toml"], "[data]: images must be a whole number, which 'many' is not"),
        (["good.toml", "--output=found"], "--output=found: the findings of a paper go into"),
        (["good.toml", "--output=/proc/no/f.json"], "/proc/no: cannot be written"),
        (
            ["good.toml", "--config.data.positive=a"],
            "data.positive: a paper has no config",
        ),
        (["good.toml", "--figure=a.gif"], "--figure=a.gif: must end in .png or .svg"),
        (["good.toml", "--layout=cnmc"], "--layout is for a folder of images"),
        ([".", "--figure=a.png"], "--figure is for a paper"),
        (["good.toml", "--new"], "--new prints the form and takes no file"),
        ([], "nothing is given; give one"),
    ],
)
def test_mistakes_are_one_line(arguments, line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("paper.toml").write_text("[data]\nimagez = 3\n")
    Path("typed.toml").write_text('[data]\nimages = "many"\n')
    Path("good.toml").write_text('[paper]\ntitle = "t"\n')
    assert run(*arguments) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert line in error
