"""The page of a folder of runs: fronts, means over seeds, the widths of all side by side, and the way to each run's own page."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from urllib.parse import quote
from xml.etree.ElementTree import Element

from pas.amount import UNITS, counted, human
from pas.report.collect import Cell, Finished, cells
from pas.report.figures import front_of, without_common_start
from pas.report.html.document import document, node, section, table
from pas.report.html.svg import inline
from pas.report.table import MEANS, NOTE, RUNS, Entry, means, numbers

PAGE = "report.html"
WIDTHS = "Widths of every run, axis by axis in the order of the network; deeper blue where more of an axis stays"
TASK = 3
"""So many columns of MEANS name the task, which is what a section is of."""


def sweep_page(folder: Path, runs: Sequence[Finished], unfinished: Sequence[str]) -> str:
    """The whole page. `unfinished`: runs that are on their way, in words."""
    body = [node("header", node("h1", counted(len(runs), "run")), node("p", NOTE, class_="lead"))]
    for number, ((model, data, split), group) in enumerate(groupby(cells(runs), key=lambda cell: (cell.model, cell.data, cell.split))):
        body.append(section(f"{model} on {data} ({split})", *_task(folder, list(group), number)))
    rows = [[_headed(run_link(folder, run, run.result["run_key"])), *map(_cell, numbers(run)[1:])] for run in runs]
    body.append(section("All runs", table("Every run by itself", RUNS, rows, class_="numbers sorted")))
    if unfinished:
        body.append(section("Not finished", node("ul", *(node("li", words) for words in unfinished))))
    return document(f"pas: {counted(len(runs), 'run')}", body, script=True)


def run_link(folder: Path, run: Finished, words: str) -> Element:
    """A link to a run's own page, relative to `folder`."""
    return node("a", words, href=quote(f"{run.folder.relative_to(folder).as_posix()}/{PAGE}"), title=run.result["run_key"])


def _task(folder: Path, found: Sequence[Cell], number: int) -> list[Element]:
    fronts = []
    for kind, group in groupby(found, key=lambda cell: cell.kind):
        points = list(group)
        if len(points) > 1:
            name = f"front-{number}-{kind}"
            caption = f"Accuracy over {UNITS[kind]}" if kind != "latency" else "Accuracy over latency"
            fronts.append(node("figure", node("figcaption", caption), inline(front_of(points, width=3.8), name, _alt(points))))
    rows = []
    for cell in found:
        words = means(cell)[TASK:]
        seeds = node("td", *_seeds(folder, cell), data_sort=str(len(cell.runs)))
        rows.append([_headed(words[0].words), _cell(words[1]), seeds, *map(_cell, words[3:])])
    shown = table("Mean ± standard deviation over seeds", MEANS[TASK:], rows, class_="numbers sorted")
    return [*([node("div", *fronts, class_="panels fronts")] if fronts else []), shown, *_widths(folder, found)]


def _seeds(folder: Path, cell: Cell) -> list[str | Element]:
    """How many, and a link to each."""
    parts: list[str | Element] = [f"{len(cell.runs)}: "]
    for run in cell.runs:
        parts += [run_link(folder, run, str(run.result["seed"])), " "]
    return parts[:-1]


def _widths(folder: Path, found: Sequence[Cell]) -> list[Element]:
    """A table for each set of axes: a row a run, a column an axis, darker where more stays."""
    groups: dict[tuple[tuple[str, int], ...], list[tuple[Cell, Finished]]] = {}
    for cell in found:
        for run in cell.runs:
            groups.setdefault(tuple(run.architecture.sizes.items()), []).append((cell, run))
    tables = []
    for axes, members in groups.items():
        sizes = [size for _, size in axes]
        rows = [[_headed("dense"), node("td", str(sum(sizes))), *(node("td", str(size)) for size in sizes)]]
        for cell, run in members:
            kept = list(run.architecture.widths().values())
            label = f"{cell.label}, {human(cell.target)} {UNITS[cell.kind]}, seed {run.result['seed']}"
            shaded = [node("td", str(a), style=f"--kept:{a / b:.2f}") for a, b in zip(kept, sizes, strict=True)]
            rows.append([_headed(run_link(folder, run, label)), node("td", str(sum(kept))), *shaded])
        header = ["run", "all", *without_common_start([name for name, _ in axes])]
        tables.append(table(WIDTHS, header, rows, class_="numbers widths"))
    return tables


def _headed(content: str | Element) -> Element:
    return node("th", content, scope="row")


def _cell(entry: Entry) -> Element:
    return node("td", entry.words, **({} if entry.number is None else {"data_sort": repr(entry.number)}))


def _alt(points: Sequence[Cell]) -> str:
    """The points of a front in words."""
    told = [f"{cell.label} at {human(cell.target)} {UNITS[cell.kind]}: {cell.mean('searched', 'top1')}" for cell in points]
    return f"{points[0].split} top-1 in percent against cost; {'; '.join(told)}; dense: {points[0].mean('dense', 'top1')}"
