"""A table to look at: one column over another, or a point a row."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes

from pas.report import labels
from pas.report.collect import Mean
from pas.report.figures import COLOURS, GRID, INK, figure_of, plain, save, tick, words
from pas.report.tables.cells import Cell
from pas.report.tables.spec import Figure, Row, Table

KINDS = {"this project": COLOURS[1], "another program, run here": COLOURS[2], "published": COLOURS[0]}
TITLE = 84
"""Letters of a title that fit in a line."""
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
    figure.suptitle(textwrap.fill(words(table.title), TITLE), x=0.01, ha="left", fontsize=10, color=INK)
    if named:
        labels.put_names(axes, list(named.values()), list(named))  # when all else has its place
    return save(figure, path)


def _point(cells: Cells, name: str, asked: Figure, label: str) -> tuple[float | None, float] | None:
    """Where a row lies, if it has numbers for that."""
    y = cells[name, label].mean
    x = cells[name, asked.x].mean if asked.x else None
    return None if y is None or (asked.x and x is None) else (x, y)


def _kind(row: Row) -> str:
    """Whose numbers they are."""
    return "published" if row.runs is None else "this project" if row.source is None else "another program, run here"


def _std(cell: Cell) -> float:
    return Mean.of(list(cell.values.values())).std if cell.values else 0.0


def _dots(axes: Axes, table: Table, cells: Cells, asked: Figure, rows: list[str]) -> None:
    """A line a row, from the top; means with their standard deviation, a colour a column."""
    for number, label in enumerate(asked.y):
        for place, name in enumerate(rows):
            point, cell = _point(cells, name, asked, label), cells[name, label]
            if point is None:
                continue
            kind = _kind(table.rows[name])
            colour, named = (COLOURS[number % len(COLOURS)], words(label)) if len(asked.y) > 1 else (KINDS[kind], kind)
            axes.errorbar(point[1], place, xerr=_std(cell), fmt="o", ms=5, capsize=3, color=colour, label=named)
    axes.set_yticks(range(len(rows)), [words(name) for name in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("\n".join([_shared(asked.y), *_undrawn(table, cells, asked, rows)]))


def _shared(labels: Sequence[str]) -> str:
    """What several columns show, as in "0.5: top-1, %" and "0.25: top-1, %"."""
    ends = {label.rpartition(": ")[2] for label in labels}
    return words(ends.pop() if len(ends) == 1 else "")


def _undrawn(table: Table, cells: Cells, asked: Figure, rows: Sequence[str]) -> list[str]:
    """Rows that say something else than a number, as "far above 1750"."""
    told = {name: cells[name, asked.y[0]].words for name in table.rows if name not in rows and table.rows[name].published}
    named = [f"{name} ({text})" for name, text in told.items() if text]
    return [words(f"not drawn: {', '.join(named)}")] if named else []


def _scatter(axes: Axes, table: Table, cells: Cells, asked: Figure, rows: list[str]) -> dict[str, tuple[float, float]]:
    """A point a row; where each is, by its name."""
    assert asked.x is not None
    label = asked.y[0]
    named = {}
    for name in rows:
        point = _point(cells, name, asked, label)
        if point is None or point[0] is None:
            continue
        kind = _kind(table.rows[name])
        axes.errorbar(point[0], point[1], _std(cells[name, label]), fmt="o" if kind == "published" else "s", ms=5, capsize=3,
                      color=KINDS[kind], label=kind)  # fmt: skip
        named[words(name)] = (point[0], point[1])
    axes.margins(x=0.12, y=0.12)
    if table.columns[asked.x].of in ("MACs", "parameters"):
        axes.xaxis.set_major_formatter(tick)
    axes.set_xlabel(words(asked.x))
    axes.set_ylabel(words(label))
    return named
