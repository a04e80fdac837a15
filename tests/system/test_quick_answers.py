"""`import leukjax` and every --help answer before JAX and TFDS could even be loaded."""

import subprocess
import sys
import time

import pytest

from leukjax.__main__ import COMMANDS, module_of

HEAVY = {"jax", "flax", "orbax", "grain", "tensorflow_datasets", "sklearn", "matplotlib", "cv2"}
SHOW = "; import sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"


def seconds(code: str) -> tuple[float, str]:
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return time.perf_counter() - began, done.stdout


@pytest.mark.parametrize("module", ["", *map(module_of, COMMANDS)])
def test_no_heavy_library_is_loaded_for_help(module):
    code = "import leukjax"
    if module:
        code = (
            f"import {module} as own; from leukjax import command; "
            "command.status(own.main, own.FLAGS, ['--help'], doc=own.__doc__)"
        )
    _, said = seconds(code + SHOW)
    assert not HEAVY & set(said.splitlines()[-1].split())


def test_help_takes_a_part_of_what_loading_jax_takes():
    ask = "from leukjax import command, main; "
    ask += "command.status(main.main, main.FLAGS, ['--help'], doc='')"
    # The best of a few, turn by turn: the machine may have other work.
    quick, slow = [], []
    for _ in range(3):
        quick.append(seconds(ask)[0])
        slow.append(seconds("import jax")[0])
    assert min(quick) < min(slow) / 2


def test_help_says_what_each_command_is_for():
    said = subprocess.run(
        [sys.executable, "-m", "leukjax", "--help"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for name in COMMANDS:
        [line] = [line for line in said if line.split()[:1] == [name]]
        assert len(line.split()) > 5
