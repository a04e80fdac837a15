"""Command lines: what is the config's, what is a flag, and which exit status follows."""

import subprocess
import sys
import time

import pytest
from absl import flags

from leukjax import command
from leukjax.errors import Stopped, UserError


def test_config_tokens_are_parted_from_flags():
    names, overrides, rest = command.split_config_tokens(
        ["--config=a.py:x", "--workdir=w", "--config.data.root", "r", "-config.seed=3", "--v"]
    )
    assert names == ["a.py:x"]
    assert overrides == [("data.root", "r"), ("seed", "3")]
    assert rest == ["--workdir=w", "--v"]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--config=a", "--config=b"], "given 2 times: a, b"),
        (["--config.seed=1", "--config.seed=2"], "--config.seed is given 2 times"),
        (["--config"], "needs a value"),
    ],
)
def test_ambiguous_config_tokens(argv, says):
    with pytest.raises(UserError, match=says):
        command.split_config_tokens(argv)


def _status(main, argv):
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", "", "folder", flag_values=values)
    return command.status(main, values, argv, doc="What it does.")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, 0),
        (UserError("data.root=x: not there;\n mend it"), 1),
        (Stopped("at step 3"), 75),
        (OSError(28, "No space left", "out.csv"), 1),
        (OSError(30, "Read-only", "out.csv"), 1),
        (ValueError("Failed writing: No space left on device [os_error_code='28']"), 1),
        (MemoryError("Unable to allocate 9 TiB"), 1),
        (UserError("a\x1b[2Jb.png: is damaged; mend it"), 1),
    ],
)
def test_exit_status_and_one_line(error, expected, capsys):
    def main(names, overrides, arguments):
        if error:
            raise error

    assert _status(main, []) == expected
    said = capsys.readouterr().err
    assert len(said.splitlines()) == (1 if error else 0)
    assert "\x1b" not in said


def test_an_unknown_flag_is_2(capsys):
    assert _status(lambda *_: None, ["--workdirr=x"]) == 2
    assert "workdirr" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback():
    def main(names, overrides, arguments):
        raise KeyError("bug")

    with pytest.raises(KeyError):
        _status(main, [])


def _run(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=cwd, capture_output=True, text=True, timeout=120
    )


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("arguments", "expected", "says"),
    [
        (["leukjax.main"], 1, "--config is missing"),
        (["leukjax.main", "--config=nope"], 1, "no shipped config"),
        (["leukjax.main", "--config=cnn", "--config.train.epoch=3"], 1, "train.epochs"),
        (["leukjax.main", "--config=cnn", "--nosuch"], 2, "nosuch"),
        (["leukjax.main", "--config=cnn", "extra"], 1, "extra: not understood"),
        (["leukjax", "trian"], 2, "no such command"),
        (["leukjax", "train", "--config=cnn", "--config.seed=x"], 1, "a whole number"),
    ],
)
def test_mistakes_on_a_real_command_line(repository, arguments, expected, says):
    done = _run(*arguments, cwd=repository)
    assert done.returncode == expected
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_help_needs_neither_jax_nor_tensorflow_datasets(repository):
    code = (
        "import sys; sys.argv = ['x', '--help']\n"
        "from leukjax import main, command\n"
        "assert command.status(main.main, main.FLAGS, ['--help'], doc=main.__doc__) == 0\n"
        "assert not {'jax', 'tensorflow_datasets', 'grain', 'tensorflow'} & set(sys.modules)\n"
    )
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "--workdir" in done.stdout
    assert time.perf_counter() - began < 30  # hangs only; the modules above are the real check


@pytest.mark.parametrize("flag", ["--epochs=1", "--train.epochs=1"])
def test_a_field_that_is_given_as_a_flag_is_named(flag, capsys):
    values = flags.FlagValues()
    assert command.status(lambda *_: None, values, [flag], doc="Takes --config=FILE.") == 2
    assert "a field of the config is set by --config.train.epochs=VALUE" in capsys.readouterr().err
