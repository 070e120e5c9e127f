"""`pas report`: results.csv, results.md and all figures of a folder of runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from pas.report import figures
from pas.report.collect import Finished, as_csv, cells, collect
from pas.report.table import markdown
from pas.runs import write_text


def write(folder: Path) -> list[Path]:
    """Make everything again from the finished runs under `folder`; returns the files that were written.

    Raises PasError when there is no finished run, or a file is damaged.
    """
    runs = collect(folder)
    made, drawn = fronts(folder, runs), [path for run in runs for path in _of_run(run)]
    table, page = folder / "results.csv", folder / "results.md"
    write_text(table, as_csv(runs))
    write_text(page, markdown(runs, [*made, *drawn], folder))
    return [table, page, *made, *drawn]


def _of_run(run: Finished) -> list[Path]:
    kept = run.architecture.widths()
    dense = [run.architecture.sizes[name] for name in kept]
    place, key, budget = run.folder / "figures", run.result["run_key"], run.result["budget"]
    made = [figures.widths(list(kept), dense, list(kept.values()), place / "widths.png", title=key)]
    if run.metrics:
        made.append(
            figures.curves(run.metrics, place / "curves.png", title=key, target={budget["kind"]: budget["target"]})
        )
    return made


def fronts(folder: Path, runs: Sequence[Finished]) -> list[Path]:
    """A figure for each model, data, split and kind of budget of which there is more than one point."""
    made = []
    for (model, data, split, kind), group in groupby(cells(runs), key=lambda cell: (cell.model, cell.data, cell.split, cell.kind)):
        points = list(group)
        if len(points) > 1:
            name = re.sub(r"[^\w.\-]+", "_", "-".join([model, data, *([split] if split != "test" else []), kind]))
            made.append(figures.front(points, folder / "figures" / f"{name}.png", title=f"{model} on {data}"))
    return made
