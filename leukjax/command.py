"""How a command starts, and how it ends when something is wrong.

``--config=…`` and ``--config.FIELD=…`` are read here and handed to `leukjax.config`; every other
flag is absl's. Exit status: 0 done, 1 an error that the user can fix, 2 an unknown flag, 75 stopped
on request with everything saved. A reader that closes standard output early (``| head``) does not
end the work and does not change the status.
"""

import ctypes
import logging as std_logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags, logging
from ml_collections import ConfigDict

from leukjax import config, storage, terminal
from leukjax.errors import Stopped, UserError

ConfigTokens = tuple[list[str], list[tuple[str, str]]]


def run(main: Callable[..., None], values: flags.FlagValues, *, doc: str | None) -> None:
    """Parse the command line, call `main(config_name, overrides, arguments)`, exit with a status.

    Args:
      main: gets the names given by --config, the overrides as pairs of field and text, and the
        arguments that are no flags.
      values: the command's own absl flags.
      doc: the module's docstring, printed by --help.
    """
    terminal.prepare()
    logging.get_absl_handler().python_handler.setStream(sys.stderr)  # it has the one before
    code = status(main, values, sys.argv[1:], doc=doc)
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left is flushed once more at the end
        if not code:
            print(f"error: {storage.describe_failure(error) or error}", file=sys.stderr)
            code = 1
    sys.exit(code)


def status(
    main: Callable[..., None], values: flags.FlagValues, argv: Sequence[str], *, doc: str | None
) -> int:
    """What `run` does, with the exit status returned."""
    try:
        if any(token in ("--help", "-h", "-help", "--helpfull") for token in argv):
            _print_help(values, doc)
            return 0
        names, overrides, rest = split_config_tokens(argv)
        arguments = values(["leukjax", *rest])[1:]
        _check_paths(values, overrides, arguments)
    except flags.Error as error:
        hint = _field_like(error) if "--config" in (doc or "") else ""
        print(f"error: {_one_line(error)}{hint}; --help lists the flags", file=sys.stderr)
        return 2
    except UserError as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return 1
    _quiet_logging()
    # Pillow warns of odd metadata once per file, and of sizes that leukjax checks itself.
    warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
    sys.unraisablehook = _unraisable
    # Worker processes of the input pipeline want absl's global flags parsed.
    flags.FLAGS(["leukjax"])
    try:
        main(names, overrides, arguments)
    except Stopped as stop:
        print(f"stopped: {_one_line(stop)}", file=sys.stderr)
        return 75
    except UserError as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted before anything had to be saved", file=sys.stderr)
        return 130
    except Exception as error:
        line = storage.describe_failure(error) or _out_of_memory(error) or _no_device(error)
        if line is None:
            raise  # a bug keeps its traceback
        print(f"error: {_one_line(line)}", file=sys.stderr)
        return 1
    return 0


def _out_of_memory(error: Exception) -> str | None:
    """NumPy raises MemoryError, XLA an error of its own; both say it in words."""
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return "out of memory; lower train.batch_size, data.image_size or the size of the model"
    return None


def _no_device(error: Exception) -> str | None:
    if "jax" not in sys.modules:
        return None
    from leukjax import runtime

    return runtime.describe_no_device(error)


# Flags of all commands that name files or folders.
_PATH_FLAGS = ("workdir", "output", "submission", "figure", "reference")


def _check_paths(
    values: flags.FlagValues, overrides: Sequence[tuple[str, str]], arguments: Sequence[str]
) -> None:
    """Refuse addresses (``gs://…``) where a file or folder of this machine is needed."""
    for name in _PATH_FLAGS:
        given = values[name].value if name in values else None
        for path in [given] if isinstance(given, str) else given or []:
            config.require_local_path(path, f"--{name}")
    for field, text in overrides:
        if field in config.path_fields():
            config.require_local_path(text, f"--config.{field}")
    for argument in arguments:
        for path in argument.split("=", 1)[-1].split(","):  # compare takes NAME=PATH,PATH
            config.require_local_path(path, "")
    if os.environ.get("LEUKJAX_CACHE"):
        config.require_local_path(os.environ["LEUKJAX_CACHE"], "LEUKJAX_CACHE")


def split_config_tokens(
    argv: Sequence[str],
) -> tuple[list[str], list[tuple[str, str]], list[str]]:
    """Part a command line into config names, overrides and the rest.

    Both ``--config=NAME`` and ``--config NAME`` are read, likewise for fields.

    Raises:
      UserError: --config given twice (the last would win in silence), or without a value.
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
    """The config of a command that takes exactly one, and nothing but flags.

    Raises:
      UserError: no --config, or an argument that is no flag.
    """
    if arguments:
        raise UserError(f"{arguments[0]}: not understood; this command takes flags only")
    if not names:
        raise UserError("--config is missing; for instance --config=configs/resnet50.py")
    return config.load(names[0], overrides)


def step_of(text: str) -> int | str:
    """What --step names: a number of steps, ``best`` or ``latest``.

    Raises:
      UserError: something else.
    """
    if text.isdecimal():
        return int(text)
    if text not in ("best", "latest"):
        raise UserError(f"--step={text}: give best, latest, or a number of steps")
    return text


def _print_help(values: flags.FlagValues, doc: str | None) -> None:
    print((doc or "").strip(), "\n\nFlags:", sep="")
    if "--config=" in (doc or ""):  # not every command takes one
        print("  --config=PATH.py[:DATASET[,RECIPE]]  --config.FIELD=VALUE\n")
    elif "--config." in (doc or ""):
        print("  --config.FIELD=VALUE\n")
    print(values.main_module_help() or values.get_help())


def _field_like(error: flags.Error) -> str:
    """The field of the config that an unknown flag is called after, if there is one."""
    name = getattr(error, "flagname", "")
    fields = config.flatten(config.load("default"))
    like = [field for field in fields if name in (field, field.split(".")[-1])]
    return f"; a field of the config is set by --config.{like[0]}=VALUE" if like else ""


def _one_line(error: BaseException | str) -> str:
    # A file's name may hold anything, what moves the cursor of a terminal included.
    return terminal.escape(" ".join(str(error).split()))


def _unraisable(error: "sys.UnraisableHookArgs") -> None:
    """Python's own hook, deaf to what follows a save that the disk refused.

    Orbax has raised the first error and closed its event loop by then, and TensorStore's threads
    still call into it.
    """
    if str(error.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(error)


def _has_nvidia_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def _quiet_logging() -> None:
    """Plain lines on stderr: ours from INFO up, other libraries' only when they are errors.

    Orbax' are left out, and those of asyncio, which only Orbax uses: each error is logged by both,
    up to four times, before it is raised.
    """
    package = str(Path(__file__).resolve().parent) + os.sep

    class Plain(std_logging.Formatter):
        def format(self, record: std_logging.LogRecord) -> str:
            # Names in a message may hold anything; what is several lines stays so.
            message = terminal.escape(record.getMessage())
            if record.levelno <= std_logging.INFO:
                return message
            line = f"{record.levelname.lower()}: {message}"
            # A bug that a server survives leaves its traceback here.
            is_ours = record.pathname.startswith(package)
            if record.exc_info and is_ours:
                line += "\n" + terminal.escape(self.formatException(record.exc_info))
            return line

    def ours(record: std_logging.LogRecord) -> bool:
        if str(record.msg).startswith("Jax plugin configuration error"):
            # The compilers of --preflight are JAX's plugin for NVIDIA GPUs; where there is no
            # driver it is not asked for more.
            return _has_nvidia_driver()
        if record.pathname.startswith(package):
            return True
        from_orbax = record.name == "asyncio" or "orbax" in record.pathname
        return record.levelno >= std_logging.ERROR and not from_orbax

    logging.use_absl_handler()
    handler = logging.get_absl_handler()
    handler.setFormatter(Plain())
    handler.addFilter(ours)
    logging.set_verbosity(logging.INFO)
