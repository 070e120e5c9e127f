"""The runs of a sweep as jobs of submitit, in processes of their own: on this machine, or in the queue of a cluster.

`hydra/launcher=submitit_local` and `submitit_slurm` say where, with the settings of Hydra's plugin. What the plugin does with them isn't
enough here: it would queue runs that are finished, start all at once, and give up the others when one dies.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from pas.amount import counted
from pas.compose import Launcher
from pas.config import Config
from pas.errors import PasError, first_line
from pas.job import Job, Outcome
from pas.order import Needs, needs
from pas.report import table
from pas.result import read_result
from pas.runs import run_folder
from pas.stop import asked

if TYPE_CHECKING:
    import submitit

PLUGIN = "hydra_plugins.hydra_submitit_launcher.submitit_launcher"
CLUSTERS = {f"{PLUGIN}.LocalLauncher": "local", f"{PLUGIN}.SlurmLauncher": "slurm"}
"""The launchers of Hydra's plugin, by submitit's names for where they start jobs."""
POLL = {"local": 0.5, "slurm": 5.0}
"""Seconds from one look at the jobs to the next, which on a cluster is one at a file server."""
SAY = 60.0
"""Seconds from one line about them to the next."""
YEAR_MIN = 365 * 24 * 60


@dataclass(frozen=True, eq=False)
class Planned:
    """A run that is to be started, or was. `name`: its overrides; `short`: those in which it differs from others of the sweep."""

    name: str
    short: str
    config: Config
    needs: Needs


def sweep(runs: Sequence[tuple[Sequence[str], Config]], launcher: Launcher) -> list[tuple[str, str]]:
    """Make all runs (overrides, configuration) that aren't finished and show every result; which of them failed, each with the reason.

    A run that would only wait for another one is started when that has made what it needs: of those that share a dense parent, the first
    trains it. Ctrl-C and SIGTERM end all jobs, which save first; a second one ends them at once. Where this process is killed, they go on.

    Raises PasError for what submitit refuses before there is a job, such as a machine without Slurm.
    """
    waiting = [one for one in _planned(runs) if not _shown(one.config)]
    if len(waiting) < len(runs):
        _say(f"{len(runs) - len(waiting)} of {len(runs)} runs are there already")
    if not waiting:
        return []
    total = len(waiting)
    running: dict[submitit.Job[Outcome], Planned] = {}
    failures: list[tuple[str, str]] = []
    queue, at_once, cluster = executor(launcher), min(places(launcher), total), CLUSTERS[launcher.target]
    _say(f"{counted(total, 'run')} to do, {at_once} at a time")
    began = said = time.monotonic()
    try:
        while waiting or running:
            for job in [one for one in running if one.done()]:
                planned, outcome = running.pop(job), _outcome(job)
                failures += _told(planned, outcome, job, f"{total - len(waiting) - len(running)}/{total}")
            room = at_once - len(running)
            ready = _ready(waiting, running.values(), min(room, 1) if cluster == "local" else room)  # on a cluster as one array
            if ready:
                waiting = [one for one in waiting if one not in ready]
                failures += _start(ready, queue, launcher, running)
            elif time.monotonic() - said >= SAY:
                said = time.monotonic()
                ended = total - len(waiting) - len(running)
                _say(f"{ended} of {total} ended after {(said - began) / 60:.0f} min; {_states(running)}, not started {len(waiting)}")
            else:
                time.sleep(POLL[cluster])
    except BaseException:
        _stop(list(running), cluster)
        raise
    return failures


def _planned(runs: Sequence[tuple[Sequence[str], Config]]) -> list[Planned]:
    often = Counter(word for words, _ in runs for word in words)
    found = []
    for words, config in runs:
        own = [word for word in words if not word.startswith("hydra.")]
        short = [word for word in own if often[word] < len(runs)]
        found.append(Planned(" ".join(own), " ".join(short or own), config, needs(config)))
    return found


def executor(launcher: Launcher) -> submitit.AutoExecutor:
    """What starts jobs, with the launcher's settings. Raises PasError where submitit refuses them."""
    import submitit
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

    cluster, shared = CLUSTERS[launcher.target], {one.name for one in fields(BaseQueueConf)}
    settings = dict(launcher.settings)
    if (settings["nodes"], settings["tasks_per_node"]) != (1, 1):
        raise PasError("hydra.launcher.nodes, tasks_per_node: must be 1, as every run is one process")
    if cluster == "local" and "timeout_min" not in launcher.named:  # an hour, by the plugin, after which nobody waits here
        settings["timeout_min"] = YEAR_MIN
    folder = settings.pop("submitit_folder")
    first = {f"{cluster}_{name}": settings.pop(name) for name in ("max_num_timeout",) if name in settings}
    try:
        found = submitit.AutoExecutor(folder, cluster, **first)
        found.update_parameters(**{name if name in shared else f"{cluster}_{name}": value for name, value in settings.items()})
    except (RuntimeError, ValueError, NameError, AssertionError) as error:
        raise PasError(f"hydra/launcher=submitit_{cluster}: {first_line(error)}") from error
    return found


def places(launcher: Launcher) -> int:
    """So many jobs at a time: what `hydra.sweeper.max_batch_size` says, or here as many as the processors are enough for (each job takes
    `hydra.launcher.cpus_per_task`, by default one); a cluster's queue sees to that itself.
    """
    if launcher.at_once is not None:
        return launcher.at_once
    if not _local(launcher):
        return sys.maxsize
    processors = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, processors // (launcher.settings["cpus_per_task"] or 1))


def _local(launcher: Launcher) -> bool:
    return CLUSTERS[launcher.target] == "local"


def _ready(waiting: Sequence[Planned], running: Collection[Planned], room: int) -> list[Planned]:
    """The first runs that need nothing of those under way, nor of each other."""
    found: list[Planned] = []
    for one in waiting:
        if len(found) < room and not any(one.needs.wait_for(other.needs) for other in (*running, *found)):
            found.append(one)
    return found


def _start(
    ready: Sequence[Planned], queue: submitit.AutoExecutor, launcher: Launcher, running: dict[submitit.Job[Outcome], Planned]
) -> list[tuple[str, str]]:
    """Start these runs and note them as running; what couldn't be started, with the reason."""
    threads = launcher.settings["cpus_per_task"] or (1 if _local(launcher) else None)
    try:
        with asked(), _deaf():  # a signal that came between the start and the note of it would leave jobs behind
            started = dict(zip(queue.submit_array([Job(one.short, one.config, threads) for one in ready]), ready, strict=True))
            running.update(started)
    except RuntimeError as error:  # sbatch's own words
        return [(one.name, first_line(error)) for one in ready]
    for job, one in started.items():
        _say(f"{one.short}: starts as job {job.job_id}, log: {_log(job)}")
    return []


def _told(planned: Planned, outcome: Outcome, job: submitit.Job[Outcome], counted: str) -> list[tuple[str, str]]:
    """Say how a run has ended, and show its result; if it failed, its name and the reason."""
    if outcome.failure is None:
        _say(f"{counted} {planned.short}: done")
        if outcome.result is not None:
            table.show(outcome.result, run_folder(planned.config), Console())
        return []
    _say(f"{counted} {planned.short}: failed\npas: {outcome.failure} (log: {_log(job)})")
    return [(planned.name, outcome.failure)]


def _outcome(job: submitit.Job[Outcome]) -> Outcome:
    """What a job that has ended left; of one that left nothing, the last line of its log."""
    from submitit.core.utils import UncompletedJobError

    try:
        return job.result()
    except UncompletedJobError:
        log = _log(job)
        lines = log.read_text(errors="replace").split("\n") if log.exists() else []
        last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
        return Outcome(failure=f"its process ended without a result ({job.state.lower()}); the last that it said: {last}")


def _log(job: submitit.Job[Any]) -> Path:
    """Where a job says what goes on."""
    paths = job.paths
    return Path(os.path.relpath(paths.stderr if paths.stderr.exists() or not paths.stdout.exists() else paths.stdout))


def _states(running: Collection[submitit.Job[Any]]) -> str:
    return ", ".join(f"{state.lower()} {count}" for state, count in Counter(job.state for job in running).items())


def _shown(config: Config) -> bool:
    """Whether a run is finished; then it is shown. What is wrong with a result that can't be read, its job says."""
    try:
        result = read_result(run_folder(config))
    except PasError:
        return False
    if result is None or config.dry_run:
        return False
    table.show(result, run_folder(config), Console())
    return True


def _stop(jobs: Sequence[submitit.Job[Any]], cluster: str) -> None:
    """End jobs, which save first. Here that is waited for; who doesn't want to asks again. A cluster ends its own in its time."""
    if cluster != "local":
        _say(f"taking {len(jobs)} jobs out of the queue; those that run save first")
        for job in jobs:
            job.cancel(check=False)
        return
    _say(f"ending {len(jobs)} jobs, which save first")
    heard: list[submitit.Job[Any]] = []
    try:
        while any(not job.done() for job in jobs):
            begun = [job for job in jobs if _log(job).exists() and _log(job).stat().st_size]
            _terminate([job for job in jobs if job not in heard])
            heard = begun  # what hasn't begun to speak may not be able to hear yet
            time.sleep(POLL["local"])
    except BaseException:
        _terminate(jobs)
        raise


def _terminate(jobs: Sequence[submitit.Job[Any]]) -> None:
    """SIGTERM, which submitit's processes pass on; its own `cancel` would kill a job a second later."""
    for job in jobs:
        if not job.done():
            os.kill(int(job.job_id), signal.SIGTERM)  # the number of the process


@contextmanager
def _deaf() -> Iterator[None]:
    """What is started inside never hears of Ctrl-C, which a terminal sends to all its processes: this one tells the jobs to save and end,
    for which submitit's processes would leave them no time.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
