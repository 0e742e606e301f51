"""The one exception a user is meant to read."""


class UserError(Exception):
    """The input or the usage is wrong: one sentence saying what, where, and what to do.

    Command lines print it on stderr and exit with code 2; no traceback is shown.
    """


class CannotCompareError(UserError):
    """A graph that nothing here can run, so that it can be converted but not compared."""
