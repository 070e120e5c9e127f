"""`pas compare`: many methods under one budget and one recipe, and the table that holds them side by side."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from pas.comparison import Job, jobs, make, result_of
from pas.disk import parse_json, write_text
from pas.errors import PasError
from pas.launch import several
from pas.report import comparison
from pas.result import read_result

TABLE_ONLY = "--table-only"
WIDE = 160
"""Columns where the output is no terminal."""


def compare(arguments: Sequence[str]) -> int:
    """Do what is missing of a comparison and show all of it; the exit code. Raises PasError for whatever is refused at launch.

    Runs after a failing one are still made; at the end it says which failed, and the code is 2.
    """
    if several():
        raise PasError("pas compare starts its runs itself: without torchrun; compare.processes says how many at a time")
    options = [one for one in arguments if one.startswith("-")]
    if options and options != [TABLE_ONLY]:
        raise PasError(f"{options[0]}: there is no such option; `pas compare --help` lists what there is")
    found = jobs([one for one in arguments if not one.startswith("-")])
    settings = found[0].config.compare
    folder = Path(settings.folder or found[0].config.paths.runs)
    if found[0].config.dry_run:
        return _plan(found)
    failed: list[str] = []
    if not options:
        failed = make(found, folder, settings.processes, lambda line: print(line, file=sys.stderr, flush=True))
    done = [(job.row, job.cell, job.seed, result) for job in found if (result := read_result(result_of(job, folder))) is not None]
    done += beside(folder, {job.cell for job in found})
    if done:
        _write(comparison.lines(done), folder, settings.baselines)
    if failed:
        where = f" ({folder / 'comparison.log'} says why)" if settings.processes > 1 else ""
        print(f"\npas: {len(failed)} of {len(found)} runs failed{where}; the same command does them again:", file=sys.stderr)
        print("\n".join(f"  {name}" for name in failed), file=sys.stderr)
        return 2
    if not done:
        raise PasError(f"no run of this comparison is in {folder} yet: leave out {TABLE_ONLY} to make them")
    return 0


def beside(folder: Path, cells: Collection[str]) -> list[tuple[str, str, int, dict[str, Any]]]:
    """Results of other programs, for the same table: `folder`/beside/*.json, each like a `result.json` with "row", "cell" and "seed".

    Raises PasError for a file that is damaged or lacks one of these.
    """
    found = []
    for path in sorted(folder.glob("beside/*.json")):
        try:
            result = parse_json(path.read_bytes())
            row, cell, seed = str(result["row"]), str(result["cell"]), int(result["seed"])
        except (ValueError, KeyError, TypeError) as error:
            raise PasError(f"{path} is no result of a comparison ({error}): delete it, or make it again") from error
        if cell in cells:
            found.append((row, cell, seed, result))
    return found


def _write(lines: list[comparison.Line], folder: Path, baselines: Sequence[str]) -> None:
    """The table on the screen and as Markdown, all numbers as CSV, and the figure."""
    from pas.report.comparison_figure import draw

    screen = Console()
    comparison.show(lines, baselines, screen if screen.is_terminal else Console(width=WIDE))
    write_text(folder / "comparison.md", comparison.markdown(lines, baselines))
    write_text(folder / "comparison.csv", comparison.as_csv(lines))
    result = next(iter(lines[0].results.values()))
    figure = draw(lines, folder / "comparison.png", f"{result['model']} on {result['data']} ({result['split']})")
    for name, path in (("table", folder / "comparison.md"), ("numbers", folder / "comparison.csv"), ("figure", figure)):
        print(f"{name}: {path}")


def _plan(found: Sequence[Job]) -> int:
    """What one run of each row would do, and how long all of them would train, one after the other; the exit code."""
    from pas import pipeline
    from pas.report.plan import show, time_in_words

    total, failed = 0.0, 0
    for row in dict.fromkeys(job.row for job in found):
        those = [job for job in found if job.row == row]
        print(f"\n{row}: {len(those)} runs, of which this is the first", flush=True)
        try:
            plan = pipeline.rehearse(those[0].config)
        except PasError as error:
            failed += 1
            print(f"pas: {error}", file=sys.stderr, flush=True)
            continue
        show(plan, Console())
        total += len(those) * plan.seconds
    print(f"\nall {len(found)} runs: about {time_in_words(total)} of training, one after the other")
    return 2 if failed else 0
