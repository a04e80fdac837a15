"""Command lines: config tokens, flags, user code, and exit status."""

import json
import os
import subprocess
import sys
import time

import pytest
from absl import flags

import leukjax
from leukjax import command, config
from leukjax.errors import Stopped, UserError
from leukjax.rundir import RunDir


def test_config_tokens_are_split_from_flags():
    names, overrides, rest = command.split_config_tokens(
        ["--config=a.py:x", "--workdir=w", "--config.data.root", "r", "-config.seed=3", "--v"]
    )
    assert names == ["a.py:x"]
    assert overrides == [("data.root", "r"), ("seed", "3")]
    assert rest == ["--workdir=w", "--v"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--config=a", "--config=b"], "given 2 times: a, b"),
        (["--config.seed=1", "--config.seed=2"], "--config.seed is given 2 times"),
        (["--config"], "needs a value"),
    ],
)
def test_ambiguous_config_tokens(argv, message):
    with pytest.raises(UserError, match=message):
        command.split_config_tokens(argv)


def _status(main, argv):
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", "", "folder", flag_values=values)
    return command.status(main, values, argv, doc="What it does.")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, 0),
        (UserError("data.root=x: missing;\n fix it"), 1),
        (Stopped("at step 3"), 75),
        (OSError(28, "No space left", "out.csv"), 1),
        (OSError(30, "Read-only", "out.csv"), 1),
        (ValueError("Failed writing: No space left on device [os_error_code='28']"), 1),
        (MemoryError("Unable to allocate 9 TiB"), 1),
        (UserError("a\x1b[2Jb.png: is damaged; fix it"), 1),
    ],
)
def test_exit_status_and_one_line(error, expected, capsys):
    def main(names, overrides, arguments):
        if error:
            raise error

    assert _status(main, []) == expected
    stderr = capsys.readouterr().err
    assert len(stderr.splitlines()) == (1 if error else 0)
    assert "\x1b" not in stderr


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
    ("arguments", "expected", "message"),
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
def test_mistakes_on_a_real_command_line(repository, arguments, expected, message):
    done = _run(*arguments, cwd=repository)
    assert done.returncode == expected
    assert message in done.stderr
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
    assert time.perf_counter() - began < 30  # detects hangs; the modules above are the real check


@pytest.mark.parametrize("flag", ["--epochs=1", "--train.epochs=1"])
def test_a_field_that_is_given_as_a_flag_is_named(flag, capsys):
    values = flags.FlagValues()
    assert command.status(lambda *_: None, values, [flag], doc="Takes --config=FILE.") == 2
    assert "a field of the config is set by --config.train.epochs=VALUE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--workdir=gs://bucket/run"], "--workdir=gs://bucket/run: an address, not a path; mount"),
        (["--config.data.root=s3://b/x"], "--config.data.root=s3://b/x: an address"),
        (["--config.data.cache_dir", "hdfs://b/x"], "--config.data.cache_dir=hdfs://b/x"),
        (["--config.init.weights=https://h/x.safetensors"], "download it and give the path"),
        (["a.png", "https://host/b.png"], "https://host/b.png: an address, not a path; download"),
        (["file:///a.png"], "give the path without file://"),
        (["CNN=runs/a,gs://b/c"], "gs://b/c: an address, not a path; mount the bucket (gcsfuse"),
        (["--output=abfs://x"], "--output=abfs://x"),
    ],
)
def test_an_address_is_refused_as_a_path(argv, message, capsys):
    """It would create a folder named ``gs:``."""
    values = flags.FlagValues()
    flags.DEFINE_list("workdir", [], "folder", flag_values=values)
    flags.DEFINE_string("output", "", "folder", flag_values=values)
    values.set_gnu_getopt(True)
    assert command.status(lambda *_: pytest.fail("it began"), values, argv, doc=None) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_an_address_in_a_config_file_or_the_environment_is_refused(tmp_path, capsys, monkeypatch):
    file = tmp_path / "mine.py"
    file.write_text(
        "from leukjax import config\n"
        "def get_config(argument):\n"
        "    chosen = config.load('cnn')\n"
        "    chosen.data.root = 'gs://bucket'\n"
        "    return chosen\n"
    )
    with pytest.raises(UserError, match=r"--config.data.root=gs://bucket: an address"):
        config.load(str(file))
    assert config.load("cnn", {"init.weights": "hf://timm/x"}).init.weights == "hf://timm/x"
    monkeypatch.setenv("LEUKJAX_CACHE", "s3://bucket")
    assert _status(lambda *_: None, []) == 1
    assert "error: LEUKJAX_CACHE=s3://bucket: an address" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("platforms", "reason"),
    [("cuda", "no such device"), ("nonsense", "'nonsense' is not in the list")],
)
def test_missing_platforms_are_one_line(platforms, reason):
    code = (
        "from absl import flags\n"
        "from leukjax import command\n"
        "def main(*_):\n"
        "    import jax.numpy as jnp\n"
        "    jnp.ones(3)\n"
        "command.run(main, flags.FlagValues(), doc=None)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"JAX_PLATFORMS": platforms},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stderr.startswith(f"error: environment: JAX_PLATFORMS={platforms}: cannot be used")
    assert reason in done.stderr


@pytest.fixture
def user_code(tmp_path, monkeypatch):
    """A function that writes a module; what importing it adds to `sys` is removed afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))

    def write(content: str, name: str = "my_net.py"):
        (tmp_path / name).write_text(content)
        return tmp_path / name

    return write


def test_import_runs_files_and_modules_once_and_before_the_command(user_code, capsys):
    user_code("NAME = 'neighbour'\n", "my_layers.py")
    file = user_code("import my_layers; print('imported', my_layers.NAME)\n")
    other = user_code("print('other')\n", "other.py")
    argv = [f"--import={file},{other}", "--import", str(file), "--import=json.tool"]
    assert _status(lambda *_: print("began"), argv) == 0
    assert capsys.readouterr().out.splitlines() == ["imported neighbour", "other", "began"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("x = 1\nif x\n", "SyntaxError: expected ':' ({file}:2)"),
        ("import json\n\njson.loads('{')\n", "JSONDecodeError: Expecting property name"),
        ("def f():\n    raise ValueError('the name resnet is taken')\nf()\n",
         "ValueError: the name resnet is taken ({file}:2)"),
        ("import no_such\n", "ModuleNotFoundError: No module named 'no_such' ({file}:1)"),
        ("raise SystemExit(3)\n", "SystemExit: 3 ({file}:1)"),
    ],
)  # fmt: skip
def test_an_import_that_fails_is_one_line(content, message, user_code, capsys):
    file = user_code(content or "")
    if content is None:
        file.unlink()
    assert _status(lambda *_: pytest.fail("it began"), [f"--import={file}"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --import={file}: {message.format(file=file)}")


def test_a_module_that_cannot_be_imported_is_one_line(capsys):
    assert _status(lambda *_: None, ["--import=no_such_module.inner"]) == 1
    assert "--import=no_such_module.inner: no such module" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("section", "name", "what"),
    [("model", "my_net", "model"), ("data", "my-set", "data set"), ("optimizer", "x", "optimizer")],
)  # fmt: skip
def test_a_run_names_what_is_not_registered_and_imports_nothing(section, name, what, tmp_path):
    recorded = config.load("cnn").to_dict()
    recorded[section] |= {"name": name, "own_field": 3}
    (tmp_path / "config.json").write_text(json.dumps(recorded))
    with pytest.raises(UserError) as error:
        RunDir(tmp_path).config()
    expected = f"uses the {what} {name!r}, which is not registered: add --import=FILE"
    assert str(error.value) == f"--workdir={tmp_path}: {expected}"


@pytest.mark.parametrize("arguments", [["leukjax"], ["leukjax.predict"]])
def test_version(arguments, repository):
    done = _run(*arguments, "--version", cwd=repository)
    assert (done.returncode, done.stdout) == (0, f"leukjax {leukjax.__version__}\n")


def _run_flags(*argv):
    values = flags.FlagValues()
    command.define_run_flags(values, "workdir", "step", "max_error", batch_size=4)
    values(["x", *argv])
    return values


def test_shared_flags_of_commands_that_apply_runs():
    values = _run_flags("--workdir=a,,b", "--step=12", "--max_error=0.1")
    assert command.run_folders(values) == ["a", "b"]
    assert command.run_options(values) == {"step": 12, "max_error": 0.1, "batch_size": 4}
    assert command.run_folders(_run_flags("--workdir=a,a"), repeats=True) == ["a", "a"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "--workdir is missing"),
        (["--workdir=a,./a"], "--workdir=a,./a: a run is named twice"),
        (["--workdir=a", "--step=last"], "--step=last: give best, latest"),
        (["--workdir=a", "--max_error=1"], "--max_error=1: must be a share above 0 and below 1"),
    ],
)
def test_wrong_values_of_shared_flags(argv, message):
    values = _run_flags(*argv)
    with pytest.raises(UserError, match=message):
        command.run_folders(values), command.run_options(values)
