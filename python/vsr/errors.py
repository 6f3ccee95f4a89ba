"""The one exception that users see as a sentence instead of a traceback."""

from __future__ import annotations


class UserError(Exception):
    """Input, a file or a setting that cannot be used; the message says what was expected and what was given.

    The command line prints it as one line and exits with code 2.
    """


class DamagedInputError(UserError):
    """Part of the input cannot be decoded; a reader with ``keep_going`` would leave it out."""
