"""A table to look at: one column over another, or a point a row."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes

from pas.report import labels
from pas.report.figures import COLOURS, GRID, INK, figure_of, plain, save, words
from pas.report.tables.cells import Cell
from pas.report.tables.spec import Figure, Table

OURS, OTHERS = COLOURS[1], COLOURS[0]
Cells = Mapping[tuple[str, str], Cell]


def draw(table: Table, cells: Cells, path: Path) -> Path | None:
    """Write the figure that the table asks for; None where fewer than two rows have numbers for it."""
    asked = table.figure
    if asked is None:
        return None
    rows = [name for name in table.rows if any(_point(cells, name, asked, label) is not None for label in asked.y)]
    if len(rows) < 2:
        return None
    figure = figure_of(6.4, 4.4 if asked.x else 1.1 + 0.24 * len(rows))
    axes = figure.subplots()
    named: dict[str, tuple[float, float]] = {}
    if asked.x is None:
        _dots(axes, table, cells, asked, rows)
    else:
        named = _scatter(axes, table, cells, asked, rows)
    plain(axes)
    if asked.x is None:
        axes.grid(axis="x", color=GRID, lw=0.8)
    handles, kinds = axes.get_legend_handles_labels()
    shown = dict(zip(kinds, handles, strict=True))
    if len(shown) > 1:
        figure.legend(shown.values(), shown.keys(), loc="outside lower left", ncols=2, frameon=False, fontsize=8, labelcolor=INK)
    figure.suptitle(words(table.title), x=0.01, ha="left", fontsize=10, color=INK)
    if named:
        labels.put_names(axes, list(named.values()), list(named))  # when all else has its place
    return save(figure, path)


def _point(cells: Cells, name: str, asked: Figure, label: str) -> tuple[float | None, float] | None:
    """Where a row lies, if it has numbers for that."""
    y = cells[name, label].mean
    x = cells[name, asked.x].mean if asked.x else None
    return None if y is None or (asked.x and x is None) else (x, y)


def _std(cell: Cell) -> float:
    return statistics.stdev(cell.values.values()) if len(cell.values) > 1 else 0.0


def _dots(axes: Axes, table: Table, cells: Cells, asked: Figure, rows: list[str]) -> None:
    """A line a row, from the top; means with their standard deviation, a colour a column."""
    for number, label in enumerate(asked.y):
        for place, name in enumerate(rows):
            point, cell = _point(cells, name, asked, label), cells[name, label]
            if point is None:
                continue
            colour = COLOURS[number % len(COLOURS)] if len(asked.y) > 1 else OTHERS if table.rows[name].runs is None else OURS
            named = words(label) if len(asked.y) > 1 else "published" if table.rows[name].runs is None else "this project"
            axes.errorbar(point[1], place, xerr=_std(cell), fmt="o", ms=5, capsize=3, color=colour, label=named)
    axes.set_yticks(range(len(rows)), [words(name) for name in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(words(asked.y[0]) if len(asked.y) == 1 else "")


def _scatter(axes: Axes, table: Table, cells: Cells, asked: Figure, rows: list[str]) -> dict[str, tuple[float, float]]:
    """A point a row; where each is, by its name."""
    assert asked.x is not None
    label = asked.y[0]
    named = {}
    for name in rows:
        point = _point(cells, name, asked, label)
        if point is None or point[0] is None:
            continue
        ours = table.rows[name].runs is not None
        colour, whose = (OURS, "this project") if ours else (OTHERS, "published")
        axes.errorbar(point[0], point[1], _std(cells[name, label]), fmt="s" if ours else "o", ms=5, capsize=3, color=colour, label=whose)
        named[words(name)] = (point[0], point[1])
    axes.margins(x=0.12, y=0.12)
    axes.set_xlabel(words(asked.x))
    axes.set_ylabel(words(label))
    return named
