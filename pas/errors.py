"""The one exception that is meant for a person: a line that says what is wrong and what to do."""


from __future__ import annotations


class PasError(Exception):
    """A mistake in what was asked for, not in the program. The command line prints it and exits with 2."""


def told(error: BaseException) -> str | None:
    """The one line for a person; None for a mistake in the program, which needs its traceback."""
    if isinstance(error, PasError):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror or type(error).__name__}"
    return None
