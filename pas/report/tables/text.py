"""A table as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pas.amount import time_in_words
from pas.environment import commit_of
from pas.report.tables.cells import Cell
from pas.report.tables.quantities import Result
from pas.report.tables.spec import TAGS, Row, Table

OURS, NONE = "this project", "not run"
COLUMNS = ("row", "column", "words", "mean", "std", "n", "seeds", "source", "tag", "command", "commits", "devices")
Cells = Mapping[tuple[str, str], Cell]


def markdown(table: Table, cells: Cells, figure: str | None) -> str:
    """The whole page: the table with the source of every row, the figure, and which runs stand behind the rows of this project."""
    several = any(row.runs is None or row.source is not None for row in table.rows.values())
    header = ["", *table.columns, *(["from"] if several else [])]
    rows = []
    for name, row in table.rows.items():
        rows.append([name, *(cells[name, label].words for label in table.columns), *([_source(row)] if several else [])])
    text = [f"# {table.title}", "", *([table.about.strip(), ""] if table.about else []), *_piped(header, rows)]
    tags = [tag for tag in TAGS if any(row.tag == tag for row in table.rows.values())]
    if tags:
        text += ["", "Published numbers are " + ", ".join(f"*{tag}* {TAGS[tag]}" for tag in tags) + "."]
    if figure is not None:
        text += ["", f"![{table.title}]({figure})"]
    if any(row.runs is not None for row in table.rows.values()):
        text += ["", "## Runs", "", *_runs(table, cells)]
    return "\n".join(text) + "\n"


def as_csv(table: Table, cells: Cells) -> str:
    """A line a cell that holds something; its numbers behind the words."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for (name, label), cell in cells.items():
        if cell.words:
            line = {"row": name, "column": label, "words": cell.words, **_numbers(cell), **_origin(table, table.rows[name], cell)}
            writer.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in line.items()})
    return text.getvalue()


def results_behind(table: Table, cells: Cells, name: str) -> list[Result]:
    """Every result that a row shows, each once."""
    found = {result["run_key"]: result for label in table.columns for result in cells[name, label].results}
    return list(found.values())


def _source(row: Row) -> str:
    if row.runs is not None:
        return row.source or OURS
    told = [f"{row.source} ({row.tag})"] if row.published else []
    return ". ".join([*told, *([row.unknown] if row.unknown else [])])


def _runs(table: Table, cells: Cells) -> list[str]:
    """What made each row of this project: command, seeds, commits, devices and time."""
    rows = []
    for name, row in table.rows.items():
        if row.runs is not None:
            rows.append([name, f"`{table.command_of(row)}`", *_behind(results_behind(table, cells, name))])
    header = ["", "command", "seeds", "commit", "device", "time a run: dense, search, fine-tuning"]
    shared = {row[1] for row in rows}
    if len(shared) > 1:
        return _piped(header, rows)
    made = [[row[0], *row[2:]] for row in rows if row[2] != NONE]
    lines = [f"Command: {shared.pop()}."]
    return [*lines, "", *_piped([header[0], *header[2:]], made)] if made else lines


def _behind(results: Sequence[Result]) -> list[str]:
    if not results:
        return [NONE, "", "", ""]
    seeds = ", ".join(map(str, sorted({result["seed"] for result in results})))
    means = [statistics.fmean(result["seconds"].get(stage, 0.0) for result in results) for stage in ("prepare", "search", "finetune")]
    environments = [result["environment"] for result in results]
    return [seeds, _commits(environments), _devices(environments), ", ".join(map(time_in_words, means))]


def _numbers(cell: Cell) -> dict[str, Any]:
    values = list(cell.values.values())
    std = statistics.stdev(values) if len(values) > 1 else None
    seeds = " ".join(map(str, cell.values))
    return {"mean": cell.mean, "std": std, "n": len(values) or None, "seeds": seeds}


def _origin(table: Table, row: Row, cell: Cell) -> dict[str, Any]:
    if row.runs is None:
        return {"source": row.source, "tag": row.tag}
    environments = [result["environment"] for result in cell.results]
    told = {"commits": _commits(environments), "devices": _devices(environments)} if environments else {}
    return {"source": row.source or OURS, "command": table.command_of(row), **told}


def _commits(environments: Iterable[Mapping[str, Any]]) -> str:
    return "; ".join(dict.fromkeys(commit_of(one, 8) or "unknown" for one in environments))


def _devices(environments: Iterable[Mapping[str, Any]]) -> str:
    """Each with the processes and threads that a run had there."""
    told = []
    for one in environments:
        count = one.get("processes", 1)
        told.append(f"{f'{count} x ' if count > 1 else ''}{one['device']}, threads: {one['threads']}")
    return "; ".join(dict.fromkeys(told))


def _piped(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(" ".join(word.split()).replace("|", "\\|") for word in line) + " |" for line in lines]
