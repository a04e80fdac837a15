"""The exceptions that are meant for the person at the keyboard."""


class UserError(ValueError):
    """A mistake that the user can fix.

    The message is one line: which field or file, what is wrong with it, and the fix. Commands
    print it without a traceback and exit with status 1.
    """


class Diverged(UserError):
    """The training went astray: with these values it always will."""


class NotRegistered(UserError):
    """A run uses a model, data set or optimizer that this process has not registered."""


class Stopped(Exception):
    """The run was asked to stop, and everything is saved: the same command goes on (status 75)."""
