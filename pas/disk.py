"""Files on disk: whole or absent, checked by digest, and an error of the system as one line that names the path."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pas.errors import PasError

ASIDE = ".tmp"  # what a crash left half written ends with this


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say in one line what the system refused: a full disk, a folder that is read-only, a limit.

    Raises PasError for an OSError inside; it names `path` where the error itself names no file.
    """
    try:
        yield
    except OSError as error:
        raise PasError(f"can't write {error.filename or path}: {error.strerror or error}") from error


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file at once: written aside, on the disk, then renamed. What was there stays when that fails (PasError)."""
    aside = path.with_name(f".{path.name}.{os.getpid()}{ASIDE}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with aside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except OSError:
            aside.unlink(missing_ok=True)
            raise
        sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of text."""
    write_bytes(path, text.encode())


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def digest(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def json_digest(data: Any) -> str:
    """The same of what JSON says, whatever its spelling: blanks and the order of keys don't count."""
    return digest(json.dumps(data, sort_keys=True).encode())


def parse_json(data: bytes) -> Any:
    """JSON from a file that anybody may have changed. Raises ValueError for whatever isn't JSON."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None
