"""`leukjax weights list` names all published weights and how to start from them."""

import subprocess
import sys

import pytest

from leukjax.errors import UserError
from leukjax.weights import cli
from leukjax.weights.published import PUBLISHED


@pytest.mark.smoke("weights")
def test_the_command_lists_all_weights():
    command = [sys.executable, "-m", "leukjax.weights", "list"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[0].split() == list(cli._COLUMNS)
    for row, entry in zip(lines[1:], PUBLISHED, strict=False):
        assert row.startswith(f"{entry.config}:{entry.recipe} ")
        assert row.endswith(entry.source)
    assert [line.strip() for line in lines[-len(PUBLISHED) :]] == [e.command for e in PUBLISHED]


@pytest.mark.parametrize(
    ("names", "arguments", "says"),
    [
        ([], [], "no argument: give list, or add FILE"),
        ([], ["list", "all"], "list all: give list, or add FILE"),
        (["cnn"], ["list"], "--config=cnn: not understood; this command reads no data"),
    ],
)
def test_other_arguments_are_refused(names, arguments, says):
    with pytest.raises(UserError, match=says):
        cli.main(names, [], arguments)
