"""What two searches decided differently: `pas diff A B`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pas.amount import human
from pas.architecture import Architecture
from pas.errors import PasError
from pas.publish.names import located
from pas.publish.sealed import architecture_of, read_config
from pas.report import figures
from pas.result import FILE, read_result

COSTS = ("macs", "params", "top1")


@dataclass(frozen=True)
class Side:
    """One of the two: its architecture and, for a run or a bundle, {macs, params, top1} of the searched network."""

    path: Path
    architecture: Architecture
    costs: dict[str, float] | None


@dataclass(frozen=True)
class AxisDifference:
    """One axis: its dense size, the two widths, and how many channels both keep.

    `by_chance`: how many channels two random choices of these widths would share on average.
    """

    name: str
    size: int
    a: int
    b: int
    common: int

    @property
    def by_chance(self) -> float:
        return self.a * self.b / self.size

    @property
    def same(self) -> bool:
        return self.a == self.b == self.common


@dataclass(frozen=True)
class Difference:
    """All axes in the order of the network, and the two sides."""

    a: Side
    b: Side
    axes: tuple[AxisDifference, ...]

    @property
    def equal(self) -> bool:
        return all(axis.same for axis in self.axes)

    @property
    def jaccard(self) -> float:
        """Channels that both keep over channels that either keeps."""
        common = sum(axis.common for axis in self.axes)
        return common / sum(axis.a + axis.b - axis.common for axis in self.axes)

    @property
    def jaccard_by_chance(self) -> float:
        """The same for random choices of these widths (of the means, which for many channels is the mean)."""
        common = sum(axis.by_chance for axis in self.axes)
        return common / sum(axis.a + axis.b - axis.by_chance for axis in self.axes)


def difference(a: Path, b: Path) -> Difference:
    """Compare two `architecture.json` files, run folders, bundles or published networks by their names.

    Raises PasError when one of them can't be read, or they belong to different networks.
    """
    one, other = read(a), read(b)
    _refuse_different_networks(one, other)
    axes = []
    for name, size in one.architecture.sizes.items():
        kept, theirs = one.architecture.kept[name], other.architecture.kept[name]
        axes.append(AxisDifference(name, size, len(kept), len(theirs), len(set(kept) & set(theirs))))
    return Difference(one, other, tuple(axes))


def read(path: Path) -> Side:
    """A side of the comparison from an `architecture.json`, a run's folder, a bundle or a published name."""
    path = located(path)
    return Side(path, architecture_of(path), _costs(path) if path.is_dir() else None)


def _costs(folder: Path) -> dict[str, float] | None:
    """What a run's `result.json` or a bundle's `config.json` says of the searched network."""
    result: Mapping[str, Any] | None = None
    if (folder / FILE).exists():
        result = read_result(folder)
    elif (folder / "config.json").exists():
        result = read_config(folder)["pas"]
    searched = result.get("searched") if result is not None else None
    if not isinstance(searched, Mapping) or not all(isinstance(searched.get(name), int | float) for name in COSTS):
        return None
    return {name: searched[name] for name in COSTS}


def _refuse_different_networks(one: Side, other: Side) -> None:
    sizes, theirs = one.architecture.sizes, other.architecture.sizes
    for name in {**sizes, **theirs}:
        if name not in sizes or name not in theirs:
            where = one.path if name in sizes else other.path
            raise PasError(f"these are different networks: only {where} has an axis {name!r}")
        if sizes[name] != theirs[name]:
            found = f"{sizes[name]} channels in {one.path}, {theirs[name]} in {other.path}"
            raise PasError(f"these are different networks: axis {name!r} has {found}")
    if list(sizes) != list(theirs):
        raise PasError("these are different networks: they have the same axes in another order")


def as_json(found: Difference) -> dict[str, Any]:
    """All of it as plain data."""
    return {
        "a": {"path": str(found.a.path), "costs": found.a.costs},
        "b": {"path": str(found.b.path), "costs": found.b.costs},
        "equal": found.equal,
        "differing": sum(not axis.same for axis in found.axes),
        "channels": {name: sum(getattr(axis, name) for axis in found.axes) for name in ("size", "a", "b", "common")},
        "jaccard": found.jaccard,
        "jaccard_by_chance": found.jaccard_by_chance,
        "axes": [{**vars(axis), "by_chance": axis.by_chance} for axis in found.axes],
    }


def show(found: Difference, console: Console) -> None:
    """A table of the axes, and what it comes to in a few lines."""
    for letter, side in (("A", found.a), ("B", found.b)):
        console.print(f"{letter}: {side.path}", highlight=False, markup=False, soft_wrap=True)
    table = Table()
    table.add_column("axis", overflow="fold")
    for name in ("dense", "A", "B", "common", "by chance"):
        table.add_column(name, justify="right", no_wrap=True)
    for axis in found.axes:
        row = [str(axis.size), str(axis.a), str(axis.b), str(axis.common), f"{axis.by_chance:.1f}"]
        table.add_row(axis.name, *row, style="dim" if axis.same else None)
    console.print(table)
    total = as_json(found)
    size, a, b, common = total["channels"].values()
    lines = [f"{total['differing']} of {len(found.axes)} axes differ; channels: {a} and {b} of {size}, {common} in common"]
    lines.append(f"Jaccard overlap {found.jaccard:.3f} ({found.jaccard_by_chance:.3f} by chance at these widths)")
    if found.a.costs is not None and found.b.costs is not None:
        for name, label in (("macs", "MACs"), ("params", "parameters")):
            lines.append(f"{label}: {human(found.a.costs[name])} and {human(found.b.costs[name])}")
        lines.append(f"top-1: {found.a.costs['top1']:.2f} % and {found.b.costs['top1']:.2f} %")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def draw(found: Difference, path: Path) -> Path:
    """Both widths of every axis as bars, to a .png, .svg or .pdf file. Raises PasError for another ending."""
    widths = {f"A: {found.a.path}": [axis.a for axis in found.axes], f"B: {found.b.path}": [axis.b for axis in found.axes]}
    common = [axis.common for axis in found.axes]
    title = f"{sum(not axis.same for axis in found.axes)} of {len(found.axes)} axes differ, Jaccard overlap {found.jaccard:.3f}"
    names, sizes = [axis.name for axis in found.axes], [axis.size for axis in found.axes]
    return figures.pair(names, sizes, widths, common, figures.checked(path), title)
