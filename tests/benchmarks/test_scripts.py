"""Every benchmark parses its flags, and imports only names that exist."""

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FILES = sorted(BENCHMARKS.glob("*.py"))
SCRIPTS = [
    file
    for file in FILES
    if "__main__" in file.read_text()
    and any(call in file.read_text() for call in ("app.run(", "harness.start(", "argparse."))
]


def imports(file):
    """Yields (module, name) of every import, those inside functions included."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_names_that_are_imported_exist(file):
    for module, name in imports(file):
        if module.split(".")[0] == "leukjax":
            imported = importlib.import_module(module)
            if name and not hasattr(imported, name):
                importlib.import_module(f"{module}.{name}")
        elif (BENCHMARKS / f"{module}.py").exists() and name:
            tree = ast.parse((BENCHMARKS / f"{module}.py").read_text())
            defined = {getattr(node, "name", "") for node in tree.body}
            for node in ast.walk(tree):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    defined.add(node.id)
            assert name in defined, f"{module}.{name}"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda file: file.stem)
def test_help_names_the_flags(script):
    done = subprocess.run(
        [sys.executable, str(script), "--help"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(BENCHMARKS.parent)},
    )
    assert done.stderr == ""
    assert "usage" in done.stdout.lower() or "flags:" in done.stdout
    assert f"benchmarks/{script.name}" in done.stdout  # the first lines say how to run it
