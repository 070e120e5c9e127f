"""The one exception that is meant for a person: a line that says what is wrong and what to do."""


from __future__ import annotations

import sysconfig
import traceback
from importlib.util import find_spec
from pathlib import Path


class PasError(Exception):
    """A mistake in what was asked for, not in the program. The command line prints it and exits with 2."""


class AloneError(PasError):
    """What one of several processes found out alone, such as a damaged image in its share: the others can't be told, so it has to
    end them all.
    """


def told(error: BaseException) -> str | None:
    """The one line for a person; None for a mistake in the program, which needs its traceback."""
    if isinstance(error, PasError):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror or type(error).__name__}"
    return None


def summary(error: BaseException) -> str:
    """One line of any error, where `reported` has said the rest."""
    return told(error) or f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def reported(error: Exception) -> str:
    """All that is to be said of an error at once: its one line, or the traceback of a mistake in the program."""
    line = told(error)
    return "".join(traceback.format_exception(error)) if line is None else f"pas: {line}"


def first_line(error: BaseException) -> str:
    """What an exception says first, without a full stop."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message").rstrip(".")


def place(error: BaseException) -> str:
    """The last line of a person's own code that an error went through, " (nets.py, line 9: if x.sum() > 0:)"; "" if there is none."""
    packages = [Path(spec.origin).parent for name in ("torch", "pas") if (spec := find_spec(name)) and spec.origin]
    standard = Path(sysconfig.get_path("stdlib"))
    found = ""
    for frame in traceback.extract_tb(error.__traceback__):
        file = Path(frame.filename)
        theirs = any(package in file.parents for package in packages)
        theirs |= standard in file.parents and "site-packages" not in file.parts
        if file.is_file() and not theirs:
            found = f" ({file.name}, line {frame.lineno}: {frame.line})"
    return found
