"""Where a published network goes: one publisher of a name at a time, nothing lost unasked, the whole folder or none of it."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from pas.disk import ASIDE, writing
from pas.errors import PasError
from pas.publish import sealed

WIDTHS, PT2, INT8 = "widths.png", "model.pt2", "model.int8.onnx"
OPTIONAL = {PT2: "pt2", INT8: "int8"}
"""Files that are written on request, and their words in `--formats`."""


def check(place: Path, name: str, source: Path, formats: Set[str], *, force: bool) -> None:
    """Raise PasError where something lies that would be lost: files that no bundle has or, without `force`, another bundle than `source`
    or formats that aren't among `formats`.
    """
    if not occupied(place) or force:
        return
    there = sealed.read_config(place)["pas"]
    same = all(sealed.read_file(place, file) == sealed.read_file(source, file) for file in ("model.safetensors", "architecture.json"))
    if there.get("name") != name or not same:
        raise PasError(f"{place} holds another network ({there.get('run_key', 'of an unknown run')}): choose another --out, or --force")
    lost = {file: word for file, word in OPTIONAL.items() if (place / file).exists() and word not in formats}
    if lost:
        keep = " ".join(word for word in OPTIONAL.values() if word in {*formats, *lost.values()})
        raise PasError(f"{place} has {' and '.join(lost)} too: keep that with --formats {keep}, or let it go with --force")


def occupied(place: Path) -> bool:
    """Whether a bundle lies there. Raises PasError for files that no bundle has, which nothing may replace."""
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return False
    found = {file.name for file in place.iterdir()} if place.is_dir() else set()
    if not {*sealed.FILES[:3]} <= found <= {*sealed.FILES, sealed.GRAPH, WIDTHS, *OPTIONAL}:
        raise PasError(f"{place} holds something that is no published network: choose another --out")
    return True


@contextmanager
def aside(place: Path) -> Iterator[Path]:
    """An empty folder beside `place`, gone at the end unless it was `put` there. What publishers of this name left that were killed goes.

    Raises PasError while another process publishes this name.
    """
    with writing(place.parent):
        place.parent.mkdir(parents=True, exist_ok=True)
    with _alone(place):
        with writing(place.parent):
            for left in place.parent.glob(f".{place.name}.{8 * '?'}{ASIDE}*"):  # eight letters of mkdtemp's
                if left.name.endswith(".old") and not place.exists():
                    left.rename(place)  # it was to be replaced
                else:
                    shutil.rmtree(left, ignore_errors=True)
            made = Path(mkdtemp(ASIDE, f".{place.name}.", place.parent))
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)


def put(made: Path, place: Path) -> None:
    """Move a folder to its place; what was there goes when the new one is there."""
    old = made.with_name(f"{made.name}.old")
    with writing(place):
        if place.exists():
            place.rename(old)
        made.chmod(0o755)  # a temporary folder is its owner's alone
        try:
            made.rename(place)
        except OSError:
            if old.exists():
                old.rename(place)
            raise
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """The system's own lock, which it frees when a process dies; the file goes with its holder."""
    path = place.with_name(f".{place.name}.lock")
    while True:
        with writing(path):
            lock = path.open("ab")
        with lock:
            with writing(path):
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise PasError(f"another process publishes {place}: wait for it") from None
            if not _is(lock.fileno(), path):  # its holder took the file away in between
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
