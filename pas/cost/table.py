"""Latency tables: a file a device, runtime, dtype and batch, with the time of each operator over a grid of widths.

The file is lines of JSON: first what it was measured with, then points, and whole networks that were measured to calibrate their sums.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pas.axes.signature import Signature
from pas.cost.conditions import Header
from pas.cost.grid import Grid, grid
from pas.cost.operators import Key, Operator
from pas.errors import PasError

SCHEMA = 1
STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Points of a grid in blocks of channels."""
HALVES = 6
BLOCK = 8
"""Channels of a block where a runtime shows none."""
Widths = tuple[int, ...]
Axes = Mapping[Key, Sequence[Sequence[int]]]
"""Of each operator the points along each of its widths, ascending."""


@dataclass(frozen=True)
class Network:
    """A sub-network that was measured beside the whole one, of which `network` is a digest: its channels per axis, and its share of the
    latency; and what the whole one took in ms.
    """

    network: str
    widths: dict[str, int]
    share: float
    dense_ms: float


@dataclass
class Table:
    """The milliseconds of operators: key in words -> widths -> ms. `block`: channels that the runtime computes at once; 0 when that isn't
    known yet. `reference_ms`: what one and the same operator took when the table was begun.
    """

    header: Header
    points: dict[str, dict[Widths, float]] = field(default_factory=dict)
    networks: list[Network] = field(default_factory=list)
    block: int = 0
    reference_ms: float = 0.0

    def add(self, key: Key, widths: Widths, ms: float) -> None:
        """Note one point."""
        self.points.setdefault(str(key), {})[widths] = ms

    def has(self, key: Key, widths: Widths) -> bool:
        """Whether this point was measured."""
        return widths in self.points.get(str(key), ())

    def grids(self, axes: Axes) -> dict[Key, Grid]:
        """The functions of operators' widths. Raises PasError where the table doesn't have one, or not all of it: a gap is never zero."""
        return {key: self._grid(key, places) for key, places in axes.items()}

    def _grid(self, key: Key, axes: Sequence[Sequence[int]]) -> Grid:
        found = self.points.get(str(key))
        if not found:
            raise PasError(f"the table has no {key}; measure it with pas profile")
        missing = [widths for widths in itertools.product(*axes) if widths not in found]
        if missing:
            raise PasError(f"the table lacks {key} at widths {missing[0]} and {len(missing) - 1} more; go on with pas profile")
        values = np.array([found[widths] for widths in itertools.product(*axes)]).reshape([len(axis) for axis in axes])
        return grid(axes, values)


def wanted(operators: Iterable[Operator], signature: Signature, block: int) -> Axes:
    """What a table must have for a network: of each operator a grid of whole blocks up to its widest use; a width that can't be sliced
    is measured only as it is.
    """
    lowest = np.ones(signature.channels, dtype=bool)
    for axis in signature.prunable:
        lowest[axis.start + 1 : axis.start + axis.size] = False
    uses: dict[Key, list[Operator]] = {}
    for one in operators:
        uses.setdefault(one.key, []).append(one)
    axes = {}
    for key, found in uses.items():
        dense = [{one.dense()[d] for one in found} for d in range(len(found[0].widths))]
        free = [any(one.kept(lowest)[d] != one.dense()[d] for one in found) for d in range(len(dense))]
        axes[key] = [sorted(sizes | _blocks(max(sizes), block) if moves else sizes) for sizes, moves in zip(dense, free, strict=True)]
    return axes


def _blocks(size: int, block: int) -> set[int]:
    """Points below a size: in blocks, or, of what are no channels but elements of a tensor, halves of halves."""
    if size > 2 * block * STEPS[-1]:
        return {size >> times for times in range(1, HALVES + 1)}
    return {block * step for step in STEPS if block * step < size} or {1}


def points(axes: Axes) -> Iterator[tuple[Key, Widths]]:
    """All points of grids, operator after operator."""
    for key, places in axes.items():
        yield from ((key, widths) for widths in itertools.product(*places))


def begun(path: Path) -> bool:
    """Whether a file holds at least the first line of a table: one that was cut short before it is begun again."""
    return path.exists() and b"\n" in path.read_bytes()


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
            _take(table, json.loads(line))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise PasError(f"{path}: line {number} is damaged; delete that line, and pas profile measures it again") from error
    return table


def _take(table: Table, line: dict[str, Any]) -> None:
    """Add what a line of the file says."""
    if "operator" in line:
        ms = float(line["ms"])
        if not 0 < ms < np.inf:
            raise ValueError(ms)
        table.points.setdefault(str(line["operator"]), {})[tuple(map(int, line["widths"]))] = ms
    elif "network" in line:
        table.networks.append(Network(str(line["network"]), dict(line["widths"]), float(line["share"]), float(line["dense_ms"])))
    else:
        table.block, table.reference_ms = int(line["block"]), float(line["reference_ms"])


def matching(path: Path, header: Header) -> Table:
    """The table in a file if it was measured like this. Raises PasError, naming both, if not."""
    table = read(path)
    if table.header != header:
        way = "name another file for these conditions, or ask for those of this one"
        raise PasError(f"{path} is of {table.header}; this is {header}: times of one say nothing about the other; {way}")
    return table


class Writer:
    """Appends to a file, each line at once, so that nothing that was measured is lost. A line that was cut short is removed first."""

    def __init__(self, path: Path, header: Header) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if begun(path):
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
        self._line({"operator": str(key), "widths": widths, "ms": ms, "iqr": iqr})

    def network(self, network: Network) -> None:
        """Write one network."""
        self._line(asdict(network))

    def runtime(self, block: int, reference_ms: float) -> None:
        """Write how many channels the runtime computes at once, and what the operator of reference took."""
        self._line({"block": block, "reference_ms": reference_ms})

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _line(self, data: dict[str, Any]) -> None:
        self._file.write(json.dumps(data) + "\n")
        self._file.flush()
