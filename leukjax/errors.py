"""The exceptions that are meant for users, and their messages in Python."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType

_IMPORT = "import the file that registers it, or give model="


class UserError(ValueError):
    """A mistake that the user can fix.

    The message is one line: which field or file, what is wrong with it, and the fix. Commands
    print it without a traceback and exit with status 1.
    """


class Diverged(UserError):
    """The training diverged, and would again with the same values."""


class NotRegistered(UserError):
    """A run uses a model, data set or optimizer that this process has not registered."""


class Stopped(Exception):
    """A stop was requested, and everything is saved: the same command resumes (status 75)."""


@contextlib.contextmanager
def names_arguments(arguments: Mapping[str, str] = MappingProxyType({})) -> Iterator[None]:
    """Errors from inside are in the words of Python; a context, or a decorator.

    Args:
      arguments: config field (or another text) -> argument.
    """
    try:
        yield
    except UserError as error:
        message = translate(str(error), arguments)
        if message == str(error):
            raise
        raise type(error)(message) from error


def translate(message: str, arguments: Mapping[str, str] = MappingProxyType({})) -> str:
    """An error on config fields and flags in the words of the arguments that set them.

    Args:
      message: of the error.
      arguments: config field (or another text) -> argument.
    """
    for field, argument in arguments.items():
        message = message.replace(f"--config.{field}", argument).replace(field, argument)
    if arguments:  # whose defaults are in the signature
        message = re.sub(r" \(default [^)]*\)", "", message)
    message = message.replace("add --import=FILE", _IMPORT).replace("--config.", "")
    if "python -m" in message:  # a command, whose flags stay
        return message
    return re.sub(r"(?<!\S)--(?=[a-z_]+\b)", "", message)
