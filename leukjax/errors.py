"""The exceptions that are meant for users."""


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
