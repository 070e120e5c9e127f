"""`pas report`: a page for a browser, results.csv, results.md and all figures of a folder of runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from rich.console import Console

from pas.progress import Bar
from pas.report import curves, figures
from pas.report.collect import Finished, as_csv, cells, collect, unfinished
from pas.report.html.run import run_page
from pas.report.html.sweep import PAGE, sweep_page
from pas.report.table import markdown
from pas.runs import write_text


def write(folder: Path, console: Console | None = None) -> list[Path]:
    """Make everything again from the finished runs under `folder`, or of the run whose folder it is; returns the files that were written.

    Every run has a page of its own in its folder. `console`: where the progress is shown.

    Raises PasError when there is no finished run, or a file is damaged.
    """
    runs = collect(folder)
    made, drawn = fronts(folder, runs), []
    pages: list[Path] = []
    with Bar("runs", len(runs), 0, console) as bar:
        for number, run in enumerate(runs):
            if bar.due():
                bar.update(number, {})
            found = curves.read(run.metrics, {limit["kind"]: limit["target"] for limit in run.result["limits"]})
            drawn += _figures(run, found)
            pages.append(run.folder / PAGE)
            write_text(pages[-1], run_page(run, found))
    if folder / PAGE not in pages:
        pages.insert(0, folder / PAGE)
        write_text(pages[0], sweep_page(folder, runs, unfinished(folder)))
    table, text = folder / "results.csv", folder / "results.md"
    write_text(table, as_csv(runs))
    write_text(text, markdown(runs, [*made, *drawn], folder))
    return [*pages, table, text, *made, *drawn]


def _figures(run: Finished, found: Sequence[curves.Curve]) -> list[Path]:
    place, key = run.folder / "figures", run.result["run_key"]
    made = [figures.widths_of(run.architecture, place / "widths.png", title=key)]
    return [*made, curves.curves(found, place / "curves.png", title=key)] if found else made


def fronts(folder: Path, runs: Sequence[Finished]) -> list[Path]:
    """A figure for each model, data, split and kind of budget of which there is more than one point."""
    made = []
    for (model, data, split, kind), group in groupby(cells(runs), key=lambda cell: (cell.model, cell.data, cell.split, cell.kind)):
        points = list(group)
        if len(points) > 1:
            name = re.sub(r"[^\w.\-]+", "_", "-".join([model, data, *([split] if split != "test" else []), kind]))
            made.append(figures.front(points, folder / "figures" / f"{name}.png", title=f"{model} on {data}"))
    return made
