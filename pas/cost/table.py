"""Latency tables: a file a device, runtime, dtype and batch, with the time of each operator over a grid of widths."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pas.axes.signature import Signature
from pas.cost.grid import Grid, grid
from pas.cost.operators import Key, Operator
from pas.errors import PasError

SCHEMA = 1
STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Points of a grid in blocks of eight channels, in which runtimes count."""
BLOCK = 8
Widths = tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """What a table was measured with. Times of two headers are not mixed."""

    device: str
    runtime: str
    dtype: str
    batch: int
    threads: int
    versions: dict[str, str]

    def __str__(self) -> str:
        return f"{self.device}, {self.runtime}, {self.dtype}, batch {self.batch}, {self.threads} threads"


@dataclass
class Table:
    """The milliseconds of operators: key in words -> widths -> ms."""

    header: Header
    points: dict[str, dict[Widths, float]] = field(default_factory=dict)

    def add(self, key: Key, widths: Widths, ms: float) -> None:
        """Note one point."""
        self.points.setdefault(str(key), {})[widths] = ms

    def grid(self, key: Key) -> Grid:
        """The function of an operator's widths. Raises PasError where the table doesn't have it, or not all of it: a gap is never zero."""
        found = self.points.get(str(key))
        if not found:
            raise PasError(f"the table has no {key}; measure it with pas profile")
        axes = [sorted({widths[d] for widths in found}) for d in range(len(next(iter(found))))]
        missing = [widths for widths in itertools.product(*axes) if widths not in found]
        if missing:
            raise PasError(f"the table lacks {key} at widths {missing[0]} and {len(missing) - 1} more; go on with pas profile")
        values = np.array([found[widths] for widths in itertools.product(*axes)]).reshape([len(axis) for axis in axes])
        return grid(axes, values)


def needed(operators: Iterable[Operator], signature: Signature) -> Iterator[tuple[Key, Widths]]:
    """All points that a table must have for a network: for each key a grid up to the widest use of it; a width that can't be sliced is
    measured only as it is.
    """
    lowest = np.ones(signature.channels, dtype=bool)
    for axis in signature.prunable:
        lowest[axis.start + 1 : axis.start + axis.size] = False
    uses: dict[Key, list[Operator]] = {}
    for one in operators:
        uses.setdefault(one.key, []).append(one)
    for key, found in uses.items():
        axes = []
        for d in range(len(found[0].widths)):
            dense = {one.dense()[d] for one in found}
            fixed = all(one.kept(lowest)[d] == one.dense()[d] for one in found)
            blocks = {BLOCK * step for step in STEPS if BLOCK * step < max(dense)} or {1}
            axes.append(sorted(dense if fixed else dense | blocks))
        yield from ((key, widths) for widths in itertools.product(*axes))


def read(path: Path) -> Table:
    """The table in a file. A last line that was cut short is left out. Raises PasError for what is no table, or a newer one."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise PasError(f"{path} can't be read: {error}") from error
    try:
        first = json.loads(lines[0])
        schema = first.pop("schema")
        if schema > SCHEMA:
            raise PasError(f"{path} has schema {schema}, newer than {SCHEMA}: update pas to read it")
        table = Table(Header(**first))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise PasError(f"{path} is no latency table: its first line must say what it was measured with") from error
    for number, line in enumerate(lines[1:-1], start=2):  # the last is empty, or was cut short
        try:
            point: dict[str, Any] = json.loads(line)
            table.points.setdefault(str(point["operator"]), {})[tuple(map(int, point["widths"]))] = float(point["ms"])
        except (ValueError, TypeError, KeyError) as error:
            raise PasError(f"{path}, line {number} is damaged: delete it, and pas profile measures it again") from error
    return table


def matching(path: Path, header: Header) -> Table:
    """The table in a file if it was measured like this. Raises PasError, naming both, if not."""
    table = read(path)
    if table.header != header:
        raise PasError(f"{path} is of {table.header}; this is {header}: times of one say nothing about the other")
    return table


class Writer:
    """Appends points to a file, each at once, so that nothing that was measured is lost. A line that was cut short is removed first."""

    def __init__(self, path: Path, header: Header) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            text = path.read_text(encoding="utf-8")
            whole = text[: text.rfind("\n") + 1]
            if whole != text:
                path.write_text(whole, encoding="utf-8")
            self._file = path.open("a", encoding="utf-8")
        else:
            self._file = path.open("w", encoding="utf-8")
            self._line({"schema": SCHEMA, **asdict(header)})

    def add(self, key: Key, widths: Widths, ms: float, iqr: float) -> None:
        """Write one point, with the range of the middle half of its runs."""
        self._line({"operator": str(key), "widths": widths, "ms": round(ms, 6), "iqr": round(iqr, 6)})

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _line(self, data: dict[str, Any]) -> None:
        self._file.write(json.dumps(data) + "\n")
        self._file.flush()
