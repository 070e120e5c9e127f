"""Many runs of one comparison: every row (a method) in every cell (a budget) for every seed, and the processes that make them."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pas.compose import completed, compose, explained, parse
from pas.config import Config
from pas.disk import write_bytes
from pas.errors import PasError
from pas.keys import dense_key, source_of
from pas.result import FILE, read_result
from pas.runs import run_folder

COPIED = ("architecture.json", FILE)
"""What is kept of a run beside its comparison's table; the last one says that it is finished."""
LOG = "comparison.log"
POLL = 0.5


@dataclass(frozen=True)
class Job:
    """One run: its place in the table, and what `pas search` is told."""

    row: str
    cell: str
    seed: int
    overrides: tuple[str, ...]
    config: Config

    @property
    def name(self) -> str:
        """The run in words."""
        return ", ".join(word for word in (self.row, self.cell, f"seed {self.seed}") if word)


def jobs(overrides: Sequence[str]) -> list[Job]:
    """Every run of a comparison, seed after seed, so that one that is stopped early is complete for the first seeds.

    What is given as a choice of several (``method=pas,uniform``, ``budget.macs=0.3,0.5``, ``seed=0,1``) takes the place of the
    configuration's `compare.rows`, `compare.cells` and `compare.seeds`. Raises PasError for whatever a run would refuse at launch, and
    for rows that are the same run.
    """
    with explained(overrides):
        parsed = parse(completed(overrides))
    choices = {one.get_key_element(): list(one.sweep_string_iterator()) for one in parsed if one.is_sweep_override()}
    fixed = [one.input_line or "" for one in parsed if not one.is_sweep_override()]
    base = compose(fixed)
    seeds = list(map(int, choices.pop("seed", []))) or ([base.seed] if _names(fixed, "seed") else base.compare.seeds)
    rows = {name: [f"method={name}"] for name in choices.pop("method", [])}
    rows = rows or ({base.method.name: []} if _names(fixed, "method") else base.compare.rows)
    swept = [[f"{key}={value}" for value in values] for key, values in choices.items()]
    cells = {", ".join(map(_label, one)): list(one) for one in itertools.product(*swept)} if swept else base.compare.cells or {"": []}
    if not rows:
        raise PasError("compare: name methods, such as method=pas,uniform, or take an experiment that has compare.rows")
    found, composed = [], {}
    for seed, cell, row in itertools.product(seeds, cells, rows):
        words = (*fixed, *cells[cell], *rows[row], f"seed={seed}")
        if (row, cell) not in composed:  # a quarter of a second each; seeds differ in nothing else
            composed[row, cell] = compose(words)
        found.append(Job(row, cell, seed, words, replace(composed[row, cell], seed=seed)))
    _refuse_twice(found)
    return found


def make(jobs: Sequence[Job], folder: Path, processes: int, say: Callable[[str], None]) -> list[str]:
    """Do every run that has no result yet, so many at a time; the names of those that failed.

    Results are copied to `folder`/results as they land, and what lies there counts as done, on another machine too. One run at a time shows
    its progress; several write to a log in `folder`. Ctrl-C and SIGTERM reach the runs, which save their state first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for job in jobs:
        _restore(job, folder)
    waiting = [job for job in jobs if not _kept(job, folder)]
    total, began = len(waiting), time.monotonic()
    if total < len(jobs):
        say(f"{len(jobs) - total} of {len(jobs)} runs are there already")
    running: dict[subprocess.Popen[bytes], Job] = {}
    failed: list[str] = []
    try:
        while waiting or running:
            for process in [one for one in running if one.poll() is not None]:
                job = running.pop(process)
                if process.returncode or not _kept(job, folder):
                    failed.append(job.name)
                done, spent = total - len(waiting) - len(running), time.monotonic() - began
                left = f", about {_minutes(spent / done * (total - done))} left" if done < total else ""
                say(f"{done}/{total} {job.name}: {'failed' if job.name in failed else 'done'} after {_minutes(spent)}{left}")
            ready = next((job for job in waiting if not any(_waits(job, other) for other in running.values())), None)
            if ready is None or len(running) >= processes:
                time.sleep(POLL)
                continue
            waiting.remove(ready)
            running[_started(ready, folder, quiet=processes > 1)] = ready
    except BaseException:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
        raise
    return failed


def result_of(job: Job, folder: Path) -> Path:
    """Where the copy of a run's result is."""
    return folder / "results" / run_folder(job.config).name / FILE


def _refuse_twice(found: Sequence[Job]) -> None:
    seen: dict[str, Job] = {}
    for job in found:
        other = seen.setdefault(run_folder(job.config).name, job)
        if other is not job:
            raise PasError(f"compare: {other.name} and {job.name} are the same run: their settings don't differ")


def _started(job: Job, folder: Path, *, quiet: bool) -> subprocess.Popen[bytes]:
    """A run in a process of its own; of several, each with one thread where its settings don't say how many."""
    command = [sys.executable, "-m", "pas", "search", *job.overrides]
    if not quiet:
        print(f"\n{job.name}", file=sys.stderr, flush=True)
        return subprocess.Popen(command, stdout=subprocess.DEVNULL)
    with (folder / LOG).open("ab") as log:
        log.write(f"\n{job.name}: {' '.join(command[1:])}\n".encode())
        return subprocess.Popen(command, stdout=log, stderr=log, env={"OMP_NUM_THREADS": "1", **os.environ})


def _waits(job: Job, other: Job) -> bool:
    """Whether another run makes what this one needs: the dense parent of both, or the run whose widths it takes."""
    parent = Path(job.config.paths.runs) / dense_key(job.config) / "dense.json"
    if dense_key(job.config) == dense_key(other.config) and job.config.train.dense.epochs and not parent.exists():
        return True
    needed = _source(job)
    return needed is not None and needed in (_source(other), run_folder(other.config))


def _source(job: Job) -> Path | None:
    """The folder of an unfinished run whose widths a control takes."""
    source = source_of(job.config)
    folder = None if source is None else run_folder(source)
    return None if folder is None or (folder / FILE).exists() else folder


def _restore(job: Job, folder: Path) -> None:
    """Put a copied result where its run would be, so that it is found finished."""
    run, kept = run_folder(job.config), result_of(job, folder).parent
    if (kept / FILE).exists() and not run.exists():
        half = run.with_name(f"{run.name}.new")
        shutil.copytree(kept, half, dirs_exist_ok=True)
        half.rename(run)


def _kept(job: Job, folder: Path) -> bool:
    """Copy a finished run's result, if it has one; whether it has."""
    run, kept = run_folder(job.config), result_of(job, folder).parent
    if read_result(run) is None:
        return False
    kept.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        write_bytes(kept / name, (run / name).read_bytes())
    return True


def _names(overrides: Sequence[str], key: str) -> bool:
    return any(one.partition("=")[0] == key for one in overrides)


def _label(override: str) -> str:
    """An override as a name in the table, without the groups of its key."""
    key, _, value = override.partition("=")
    return f"{key.rpartition('.')[2]}={value}"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
