"""Links of the files at the root, and names of pages in code; `make docs` checks the site."""

import re
from pathlib import Path

import pytest
import yaml

import leukjax

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"]
CODE = [
    str(path.relative_to(ROOT))
    for folder in ("leukjax", "configs", "benchmarks", "launch", "examples", "tests")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".sh", ".jinja", ".sbatch", ".yaml")
]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page: str):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", (ROOT / page).read_text("utf-8"))
    missing = [link for link in links if "://" not in link and not (ROOT / link).exists()]
    assert missing == []


def test_code_names_pages_that_exist():
    named = {
        f"{file}: {page}"
        for file in CODE
        for page in re.findall(r"docs/[\w/]+\.md", (ROOT / file).read_text("utf-8"))
        if not (ROOT / page).is_file()
    }
    assert named == set()


def test_every_config_section_has_a_title():
    """On the page of the config fields."""
    from leukjax import config

    titles = (ROOT / "docs" / "hooks" / "reference.py").read_text("utf-8")
    sections = {name.rpartition(".")[0] for name in config._shipped_fields()}
    assert {name for name in sections if f'"{name}":' not in titles} == set()


def test_files_of_the_repository_are_valid():
    """Workflow, issue forms and hooks; the workflow itself is not run here."""
    forms = [*sorted((ROOT / ".github").rglob("*.yml")), ROOT / ".pre-commit-config.yaml"]
    assert len(forms) == 5
    contents = {path.name: yaml.safe_load(path.read_text("utf-8")) for path in forms}
    for name in ("bug.yml", "feature.yml"):
        assert {"name", "description", "body"} <= set(contents[name])
    jobs = contents["ci.yml"]["jobs"]
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    runs = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert {run.split()[-1] for run in runs} <= set(targets)
    oldest = re.search(r'requires-python = ">=(3\.\d+)"', (ROOT / "pyproject.toml").read_text())
    assert jobs["test"]["strategy"]["matrix"]["python"][0] == oldest[1]


def test_one_version():
    """In the package, its metadata, the citation and the changelog."""
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    assert f'\nversion = "{leukjax.__version__}"\n' in project
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == leukjax.__version__
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert newest[1] == leukjax.__version__
