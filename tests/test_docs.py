"""Links of the files at the root, and names of pages in code; `make docs` checks the site."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md"]
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
