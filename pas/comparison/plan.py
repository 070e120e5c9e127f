"""What a comparison would take, before it starts: `pas compare ... dry_run=true`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from pas import pipeline
from pas.amount import time_in_words
from pas.comparison.jobs import Job, unfinished
from pas.errors import PasError
from pas.keys import dense_key, run_key, source_of
from pas.report.plan import Plan, show


def rehearse(found: Sequence[Job], folder: Path, processes: int) -> int:
    """Show what one run of each row would do, and how long all that are missing would train; the exit code.

    A row is rehearsed in its first cell, which stands for its others. Nothing is written.
    """
    missing = unfinished(found, folder)
    if len(missing) < len(found):
        print(f"{len(found) - len(missing)} of {len(found)} runs are there already")
    plans: dict[str, Plan] = {}
    rows: dict[str, Job] = {}
    for job in missing:
        rows.setdefault(job.row, job)
    for row, job in rows.items():
        print(f"\n{row}: {sum(other.row == row for other in missing)} runs, of which this is the first", flush=True)
        try:
            plans[row] = pipeline.rehearse(job.config)
        except PasError as error:
            print(f"pas: {error}", file=sys.stderr, flush=True)
            continue
        show(plans[row], Console())
    seconds = sum(pieces([(job, plans[job.row]) for job in missing if job.row in plans]).values())
    words = f"about {time_in_words(seconds / processes)} of training" + (f", {processes} runs at a time" if processes > 1 else "")
    if len({job.cell for job in missing}) > 1:
        words += "; the first cell of each row stands for the others"
    print(f"\nall {len(missing)} runs: {words}\n(starting, reading the data and measuring come on top)")
    return 0 if len(plans) == len(rows) else 2


def pieces(planned: Sequence[tuple[Job, Plan]]) -> dict[str, float]:
    """Seconds of each training by its name, so that what several runs share counts once: the dense parent of a seed, and a run whose widths
    others take.
    """
    found: dict[str, float] = {}
    for job, plan in planned:
        found[run_key(job.config)] = sum(stage.seconds for stage in plan.stages[1:])
        before, source = plan.first, source_of(job.config)
        if before is not None and source is not None:
            found.setdefault(run_key(source), sum(stage.seconds for stage in before.stages[1:]))
        parent = dense_key(job.config)
        found[parent] = max(found.get(parent, 0.0), plan.stages[0].seconds, 0.0 if before is None else before.stages[0].seconds)
    return found
