"""Exceptions for what is not a fault of the program itself."""


class AmacrineError(Exception):
    """Bad input or a missing tool: one clear sentence naming the thing and the way out.

    The command line prints it without a traceback and exits with code 2.
    """

    exit_code = 2


class DiffersError(AmacrineError):
    """The hardware's output or counters are not the golden model's; exit code 1."""

    exit_code = 1
