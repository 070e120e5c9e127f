"""`pas compare`: many methods under one budget and one recipe, and the table that holds them side by side."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from pas.comparison.beside import Placed, beside
from pas.comparison.jobs import Job, finished, first_of_each, folder_of, jobs, unfinished
from pas.comparison.runs import LOG, make
from pas.disk import write_text
from pas.errors import PasError
from pas.launch import several
from pas.report.comparison.caption import absent
from pas.report.comparison.lines import Line, lines
from pas.report.comparison.numbers import as_csv
from pas.report.comparison.table import markdown, show

TABLE_ONLY = "--table-only"
WIDE = 160
"""Columns where the output is no terminal."""
BASELINES = ("uniform", "magnitude")


def compare(arguments: Sequence[str]) -> int:
    """Do what is missing of a comparison and show all of it; the exit code. Raises PasError for whatever is refused at launch.

    Runs after a failing one are still made; at the end it says which failed, and the code is 2.
    """
    if several():
        raise PasError("pas compare starts its runs itself: without torchrun; compare.processes says how many at a time")
    if any(one.startswith("hydra/launcher=") for one in arguments):
        raise PasError("pas compare starts its runs itself: leave out hydra/launcher; compare.processes says how many at a time")
    options = [one for one in arguments if one.startswith("-")]
    if options and options != [TABLE_ONLY]:
        raise PasError(f"{options[0]}: there is no such option; `pas compare --help` lists what there is")
    found = jobs([one for one in arguments if not one.startswith("-")])
    folder, processes = folder_of(found), found[0].config.compare.processes
    baselines = _baselines(found, _beside(found, folder))
    if found[0].config.dry_run:
        from pas.comparison.plan import rehearse

        return rehearse(found, folder, processes)
    failed: list[str] = []
    if not options:
        _refuse(first_of_each(found, unfinished(found, folder)))
        failed = make(found, folder, processes, _say)
    done = [(job.row, job.cell, job.seed, result) for job in found if (result := finished(job, folder)) is not None]
    missing = absent([(job.place, job.seed) for job in unfinished(found, folder)], len(found))
    done += _beside(found, folder)
    if done:
        _write(lines(done), baselines, missing, folder)
    if failed:
        where = f" ({folder / LOG} says why)" if processes > 1 else ""
        _say(f"\npas: {len(failed)} of {len(found)} runs failed{where}; the same command does them again:")
        _say("\n".join(f"  {name}" for name in failed))
        return 2
    if not done:
        raise PasError(f"no run of this comparison is in {folder} yet: leave out {TABLE_ONLY} to make them")
    return 0


def _beside(found: Sequence[Job], folder: Path) -> list[Placed]:
    return beside(folder, {job.cell for job in found}, {(job.row, job.cell, job.seed) for job in found})


def _baselines(found: Sequence[Job], others: Sequence[Placed]) -> Sequence[str]:
    """The rows that the others are held against. Raises PasError for one that is named and is no row."""
    named = found[0].config.compare.baselines
    if named is None:
        return BASELINES
    rows = list(dict.fromkeys([*(job.row for job in found), *(place[0] for place in others)]))
    for one in named:
        if one not in rows:
            raise PasError(f"compare.baselines: {one!r} is no row of this comparison; there are {', '.join(map(repr, rows))}")
    return named


def _refuse(places: Sequence[Job]) -> None:
    """What a run would refuse before its first step is refused before the first run."""
    if not places:
        return
    from pas import pipeline

    _say(f"checking whether every row can run: {len(places)} in all")
    for job in places:
        try:
            pipeline.refuse(job.config)
        except PasError as error:
            raise PasError(f"{job.place}: {error}") from error


def _write(found: Sequence[Line], baselines: Sequence[str], missing: str, folder: Path) -> None:
    """The table on the screen and as Markdown, all numbers as CSV, and the figure."""
    from pas.report.comparison.figure import draw

    screen = Console()
    show(found, baselines, missing, screen if screen.is_terminal else Console(width=WIDE))
    write_text(folder / "comparison.md", markdown(found, baselines, missing))
    write_text(folder / "comparison.csv", as_csv(found))
    figure = draw(found, folder / "comparison.png")
    for name, path in (("table", folder / "comparison.md"), ("numbers", folder / "comparison.csv"), ("figure", figure)):
        print(f"{name}: {path}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
