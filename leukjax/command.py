"""Starts a command, and ends it with an exit status and one line per error.

`status` reads the command line: ``--config=…`` and ``--config.FIELD=…`` go to `leukjax.config`,
``--import=FILE|MODULE`` imports the user's own code before any config or run is read, and every
other flag is absl's. Exit status: 0 done, 1 an error that the user can fix, 2 an unknown flag, 75
stopped on request with everything saved. If the reader of standard output leaves early
(``| head``), the command continues and its status stays the same.
"""

import hashlib
import importlib
import importlib.util
import os
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags, logging
from ml_collections import ConfigDict

import leukjax
from leukjax import config, storage, terminal
from leukjax.errors import Stopped, UserError

_PACKAGE = str(Path(__file__).resolve().parent) + os.sep


def run(main: Callable[..., None], values: flags.FlagValues, *, doc: str | None) -> None:
    """Parses the command line, calls `main(config_names, overrides, arguments)` and exits.

    Args:
      main: receives the names given by --config, the overrides as pairs of field and text, and the
        arguments that are not flags.
      values: the command's own absl flags.
      doc: the module's docstring, printed by --help.
    """
    terminal.prepare()
    logging.get_absl_handler().python_handler.setStream(sys.stderr)  # the replaced stream
    code = status(main, values, sys.argv[1:], doc=doc)
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes the rest once more at exit
        if not code:
            print(f"error: {storage.describe_failure(error) or error}", file=sys.stderr)
            code = 1
    sys.exit(code)


def status(
    main: Callable[..., None], values: flags.FlagValues, argv: Sequence[str], *, doc: str | None
) -> int:
    """Does the work of `run`, and returns the exit status."""
    if "import" not in values:
        flags.DEFINE_multi_string(
            "import",
            [],
            "FILE.py or MODULE with your own models, data sets or optimizers; several: give the "
            "flag again, or separate them by commas",
            flag_values=values,
        )
    try:
        if any(token in ("--help", "-h", "-help", "--helpfull") for token in argv):
            _print_help(values, doc)
            return 0
        if "--version" in argv:
            print(f"leukjax {leukjax.__version__}")
            return 0
        names, overrides, rest = split_config_tokens(argv)
        arguments = values(["leukjax", *rest])[1:]
    except flags.Error as error:
        hint = _similar_field(error) if "--config" in (doc or "") else ""
        print(f"error: {_one_line(error)}{hint}; --help lists the flags", file=sys.stderr)
        return 2
    except UserError as error:
        return _fail(error)
    terminal.quiet_logging()
    # Pillow warns of odd metadata once per file, and of sizes that leukjax checks itself.
    warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
    # A save that failed leaves one behind; the failure itself is the error that is printed.
    warnings.filterwarnings("ignore", message=r"coroutine .* was never awaited")
    sys.unraisablehook = _unraisable
    # Worker processes of the input pipeline require that absl's global flags are parsed.
    flags.FLAGS(["leukjax"])
    try:
        _import_user_code(imports(values))
        _check_paths(values, overrides, arguments)
        main(names, overrides, arguments)
    except Stopped as stop:
        print(f"stopped: {_one_line(stop)}", file=sys.stderr)
        return 75
    except UserError as error:
        return _fail(error)
    except KeyboardInterrupt:
        print("interrupted before anything had to be saved", file=sys.stderr)
        return 130
    except Exception as error:
        line = storage.describe_failure(error) or _out_of_memory(error) or _no_device(error)
        if line is None:
            raise  # a bug keeps its traceback
        return _fail(line)
    return 0


def _fail(error: UserError | str) -> int:
    print(f"error: {_one_line(error)}", file=sys.stderr)
    return 1


def _out_of_memory(error: Exception) -> str | None:
    """Recognises NumPy's MemoryError, and XLA's errors by their text."""
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return "out of memory; lower train.batch_size, data.image_size or the size of the model"
    return None


def _no_device(error: Exception) -> str | None:
    if "jax" not in sys.modules:
        return None
    from leukjax import runtime

    return runtime.describe_no_device(error)


# Flags of all commands that name files or folders.
_PATH_FLAGS = (
    *("workdir", "output", "submission", "figure", "reference", "import", "class_map"),
    "subject_labels",
)


def _check_paths(
    values: flags.FlagValues, overrides: Sequence[tuple[str, str]], arguments: Sequence[str]
) -> None:
    """Refuses addresses (``gs://…``) where a file or folder of this machine is needed."""
    for name in _PATH_FLAGS:
        value = values[name].value if name in values else None
        for path in [value] if isinstance(value, str) else value or []:
            config.require_local_path(path, f"--{name}")
    for field, text in overrides:
        if field in config.path_fields():
            config.require_local_path(text, f"--config.{field}")
    for argument in arguments:
        for path in argument.split("=", 1)[-1].split(","):  # compare takes NAME=PATH,PATH
            config.require_local_path(path, "")
    if os.environ.get("LEUKJAX_CACHE"):
        config.require_local_path(os.environ["LEUKJAX_CACHE"], "LEUKJAX_CACHE")


# The user's own code.


def imports(values: flags.FlagValues) -> list[str]:
    """Returns the files and modules that --import names."""
    return [name for name in ",".join(getattr(values, "import")).split(",") if name]


def _import_user_code(names: Sequence[str]) -> None:
    """Imports what --import names, in this order.

    Raises:
      UserError: there is no such file or module, or importing it fails; with file and line.
    """
    for name in names:
        path = Path(name)
        is_file = path.suffix == ".py" or os.sep in name
        if is_file and not path.is_file():
            config.require_local_path(name, "--import")
            raise UserError(f"--import={name}: no such file; give a .py file, or a module")
        try:
            if is_file:
                _import_file(path.resolve())
            else:
                importlib.import_module(name)
        except (Exception, SystemExit) as error:
            raise UserError(f"--import={name}: {_describe_import_error(name, error)}") from error


def _import_file(path: Path) -> None:
    """Imports a file once; its folder is searched last for the modules that it imports."""
    # The same file has the same module name in every process; two files never share one.
    name = f"leukjax_import_{path.stem}_{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"
    if name in sys.modules:
        return
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look it up here
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _describe_import_error(name: str, error: BaseException) -> str:
    """Returns what failed and where, in one line."""
    if isinstance(error, ModuleNotFoundError) and error.name and name.startswith(error.name):
        return "no such module; install it, add its folder to PYTHONPATH, or give a file (.py)"
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({error.filename}:{error.lineno})"
    # The innermost line of the user's code, without the libraries that it calls.
    libraries = (_PACKAGE, "<frozen", sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"))
    lines = [
        f" ({frame.filename}:{frame.lineno})"
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(libraries)
    ]
    return f"{type(error).__name__}: {error}{lines[-1] if lines else ''}"


# Flags that several commands share.

_RUN_FLAGS: dict[str, tuple[Callable[..., Any], Any, str]] = {
    "workdir": (flags.DEFINE_list, [], "work directory of a run, or several: RUN,RUN"),
    "step": (flags.DEFINE_string, "best", "best, latest, or a number of steps"),
    "tta": (flags.DEFINE_bool, False, "mean over eight rotated and flipped views"),
    "calibrated": (
        flags.DEFINE_bool,
        False,
        "probabilities at the temperature fitted on validation",
    ),
    "max_error": (
        flags.DEFINE_float,
        None,
        "abstain below the confidence that keeps the share of wrong answers below this",
    ),
}


def define_run_flags(
    values: flags.FlagValues,
    *names: str,
    batch_size: int | None = None,
    threads: int | None = None,
) -> None:
    """Defines flags that mean the same in every command that applies trained runs.

    Args:
      values: the command's flags.
      names: of workdir, step, tta, calibrated and max_error.
      batch_size, threads: defaults of these two flags; None: the command has no such flag.
    """
    for name in names:
        define, default, text = _RUN_FLAGS[name]
        define(name, default, text, flag_values=values)
    if batch_size is not None:
        flags.DEFINE_integer(
            "batch_size", batch_size, "images per batch on the devices", 1, 2**16,
            flag_values=values,
        )  # fmt: skip
    if threads is not None:
        flags.DEFINE_integer(
            "threads", threads, "threads that read and prepare images", 1, 256, flag_values=values
        )


def run_options(values: flags.FlagValues) -> dict[str, Any]:
    """Returns the values of the flags of `define_run_flags`, without ``workdir``.

    Raises:
      UserError: --step or --max_error has a value that is not allowed.
    """
    names = ("step", "tta", "calibrated", "max_error", "batch_size", "threads")
    options: dict[str, Any] = {name: values[name].value for name in names if name in values}
    if "step" in options:
        options["step"] = _parse_step(options["step"])
    limit = options.get("max_error")
    if limit is not None and not 0 < limit < 1:
        raise UserError(f"--max_error={limit:g}: must be a share above 0 and below 1")
    return options


def run_folders(values: flags.FlagValues, *, repeats: bool = False) -> list[str]:
    """Returns the work directories that --workdir names, at least one.

    Args:
      values: the command's flags.
      repeats: whether one run may be named twice.

    Raises:
      UserError: none is named, or one of them twice.
    """
    folders = [name for name in values.workdir if name]
    if not folders:
        raise UserError("--workdir is missing; give the work directory of a trained run")
    if not repeats and len({Path(folder).resolve() for folder in folders}) < len(folders):
        raise UserError(f"--workdir={','.join(folders)}: a run is named twice; name each once")
    return folders


def _parse_step(text: str) -> int | str:
    if text.isdecimal():
        return int(text)
    if text not in ("best", "latest"):
        raise UserError(f"--step={text}: give best, latest, or a number of steps")
    return text


def refuse_config(
    names: Sequence[str], overrides: Sequence[tuple[str, str]] = (), *, reason: str = ""
) -> None:
    """Raises a UserError if --config, or --config.FIELD, is given to a command without config."""
    if names or overrides:
        token = f"--config={names[0]}" if names else f"--config.{overrides[0][0]}"
        raise UserError(f"{token}: not understood; {reason or 'a run has its own config'}")


def refuse_arguments(arguments: Sequence[str], hint: str = "this command takes flags only") -> None:
    """Raises a UserError if there is an argument that is not a flag."""
    if arguments:
        raise UserError(f"{arguments[0]}: not understood; {hint}")


# The config, --help and messages.


def split_config_tokens(
    argv: Sequence[str],
) -> tuple[list[str], list[tuple[str, str]], list[str]]:
    """Splits a command line into config names, overrides and the rest.

    Reads ``--config=NAME`` and ``--config NAME``, and the same for fields.

    Raises:
      UserError: --config or a field is given twice, or without a value.
    """
    names: list[str] = []
    overrides: list[tuple[str, str]] = []
    rest: list[str] = []
    tokens = iter(argv)
    for token in tokens:
        flag, equals, value = token.partition("=")
        flag = "--" + flag.lstrip("-") if flag.startswith("-") else flag
        if flag != "--config" and not flag.startswith("--config."):
            rest.append(token)
            continue
        if not equals:
            following = next(tokens, None)
            if following is None or following.startswith("--"):
                raise UserError(f"{flag}: needs a value, as in {flag}=VALUE")
            value = following
        if flag == "--config":
            names.append(value)
        else:
            overrides.append((flag.removeprefix("--config."), value))
    if len(names) > 1:
        raise UserError(f"--config is given {len(names)} times: {', '.join(names)}; give one")
    fields = [field for field, _ in overrides]
    for field in fields:
        if fields.count(field) > 1:
            raise UserError(f"--config.{field} is given {fields.count(field)} times; give one")
    return names, overrides, rest


def one_config(
    names: Sequence[str], overrides: Sequence[tuple[str, str]], arguments: Sequence[str]
) -> ConfigDict:
    """Returns the config of a command that takes exactly one, and only flags.

    Raises:
      UserError: no --config, or an argument that is not a flag.
    """
    refuse_arguments(arguments)
    if not names:
        raise UserError("--config is missing; for instance --config=configs/resnet50.py")
    return config.load(names[0], overrides)


def _print_help(values: flags.FlagValues, doc: str | None) -> None:
    print((doc or "").strip(), "\n\nFlags:", sep="")
    if "--config=" in (doc or ""):
        print("  --config=PATH.py[:DATASET[,RECIPE]]  --config.FIELD=VALUE\n")
    elif "--config." in (doc or ""):
        print("  --config.FIELD=VALUE\n")
    print(values.main_module_help() or values.get_help())


def _similar_field(error: flags.Error) -> str:
    """Returns a hint if an unknown flag has the name of a config field."""
    name = getattr(error, "flagname", "")
    similar = [field for field in config.fields() if name in (field, field.split(".")[-1])]
    return f"; a field of the config is set by --config.{similar[0]}=VALUE" if similar else ""


def _one_line(error: BaseException | str) -> str:
    # The name of a file may contain control characters that move a terminal's cursor.
    return terminal.escape(" ".join(str(error).split()))


def _unraisable(error: "sys.UnraisableHookArgs") -> None:
    """Python's own hook, without the errors that follow a failed save.

    Orbax has raised the error and closed its event loop, while TensorStore's threads still use it.
    """
    if str(error.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(error)
