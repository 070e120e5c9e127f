"""The processes that make the runs of a comparison, so many at a time, and what is told of their progress."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from pas.amount import counted
from pas.comparison.jobs import Job, result_of, unfinished
from pas.disk import write_bytes
from pas.order import needs
from pas.result import FILE, read_result
from pas.runs import run_folder
from pas.stop import asked

COPIED = ("architecture.json", FILE)
"""What is kept of a run beside its comparison's table; the last one says that it is finished."""
LOG = "comparison.log"
POLL = 0.5
Process = subprocess.Popen[bytes]


@dataclass(frozen=True)
class Running:
    """A run under way, and when it began (of `time.monotonic`)."""

    job: Job
    began: float

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began


def make(jobs: Sequence[Job], folder: Path, processes: int, say: Callable[[str], None]) -> list[str]:
    """Do every run that has no result yet, so many at a time; the names of those that failed.

    Results are copied to `folder`/results as they land, and what lies there counts as done, on another machine too. One run at a time shows
    its progress; several write to a log in `folder`. Ctrl-C and SIGTERM reach the runs, which save their state first; a second one ends
    them at once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for job in jobs:
        _restore(job, folder)
        _kept(job, folder)
    waiting = unfinished(jobs, folder)
    total = len(waiting)
    if total < len(jobs):
        say(f"{len(jobs) - total} of {len(jobs)} runs are there already")
    if waiting:
        say(f"{counted(total, 'run')}, {processes} at a time" + (f"; log: {folder / LOG}" if processes > 1 else ""))
    running: dict[Process, Running] = {}
    failed: list[str] = []
    lasted: list[float] = []
    try:
        while waiting or running:
            for process in [one for one in running if one.poll() is not None]:
                ended = running.pop(process)
                well = process.returncode == 0 and _kept(ended.job, folder)
                if well:
                    lasted.append(ended.seconds)
                else:
                    failed.append(ended.job.name)
                done = f"{total - len(waiting) - len(running)}/{total} {ended.job.name}: {'done' if well else 'failed'}"
                say(f"{done} after {_minutes(ended.seconds)}{_left(lasted, len(waiting), running.values(), processes)}")
            ready = _ready(waiting, running.values())
            if ready is None or len(running) >= processes:
                time.sleep(POLL)
                continue
            waiting.remove(ready)
            say(f"{ready.name}: starts")
            with asked():  # a signal that came between the start and the note of it would leave the run behind
                running[_started(ready, folder, quiet=processes > 1)] = Running(ready, time.monotonic())
    except BaseException:
        _stop(running)
        raise
    return failed


def remaining(lasted: Sequence[float], waiting: int, spent: Sequence[float], processes: int) -> float:
    """Seconds until all is done, if every run takes the mean of those that ended; `spent`: by each that is under way."""
    mean = statistics.fmean(lasted)
    return (waiting * mean + sum(max(0.0, mean - seconds) for seconds in spent)) / processes


def _ready(waiting: Sequence[Job], running: Collection[Running]) -> Job | None:
    """The first run that needs nothing of those under way."""
    made = [needs(one.job.config) for one in running]
    return next((job for job in waiting if not any(needs(job.config).wait_for(other) for other in made)), None)


def _left(lasted: Sequence[float], waiting: int, running: Collection[Running], processes: int) -> str:
    if not lasted or not (waiting or running):
        return ""
    return f", about {_minutes(remaining(lasted, waiting, [one.seconds for one in running], processes))} left"


def _started(job: Job, folder: Path, *, quiet: bool) -> Process:
    """A run in a process of its own; of several, each with one thread where its settings don't say how many.

    In a session of its own: a terminal sends Ctrl-C to all processes of its own, so that a run would get a second signal, which ends it
    before it has saved.
    """
    command = [sys.executable, "-m", "pas", "search", *job.overrides]
    if not quiet:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    with (folder / LOG).open("ab") as log:
        log.write(f"\n{job.name}: {' '.join(command[1:])}\n".encode())
        environment = {"OMP_NUM_THREADS": "1", **os.environ}
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)


def _stop(running: Collection[Process]) -> None:
    """Let the runs save their state; who doesn't want to wait for that asks again."""
    try:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
    except BaseException:
        for process in running:
            process.terminate()
        raise


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


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
