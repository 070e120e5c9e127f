"""One run of `pas search`: made, gone on with, or only shown; in this process, or in one that submitit starts for it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from pas.config import Config
from pas.errors import first_line, reported, summary
from pas.report import table
from pas.result import read_result
from pas.runs import run_folder
from pas.stop import Stopped, stoppable

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission


def do(config: Config, wait: Callable[[str], None] | None = None) -> dict[str, Any] | None:
    """Run, resume, or only show: a finished run is shown without loading what trains. Its result; None after a dry run.

    `wait`: takes a line that says whom it waits for while another process has the run; without it that is refused.
    """
    if config.dry_run:
        plan(config)
        return None
    folder = run_folder(config)
    result = _found(folder)
    if result is None:
        from pas import pipeline

        result = pipeline.run(config, wait=wait)
    if shows():
        table.show(result, folder, Console())
    return result


def plan(config: Config) -> None:
    """Show what a run would do."""
    from pas import pipeline
    from pas.report.plan import show

    found = pipeline.rehearse(config)
    if shows():
        show(found, Console())


def several() -> bool:
    """Whether torchrun started this process as one of several; asked without loading torch."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def shows() -> bool:
    """Whether this process is the one that says what there is to say."""
    return not several() or os.environ["RANK"] == "0"


def _found(folder: Path) -> dict[str, Any] | None:
    """The result of a finished run; of several processes all have to see the same."""
    if not several():
        return read_result(folder)
    from pas.distributed import from_leader

    return from_leader(lambda: read_result(folder))


@dataclass(frozen=True)
class Outcome:
    """What a job says to the process that started it: how its run ended (None after a dry run), or in one line why it didn't."""

    result: dict[str, Any] | None = None
    failure: str | None = None


@dataclass(frozen=True)
class Job:
    """A run for a process of its own, which submitit calls there. Plain data: that is how it travels.

    `threads`: how many it computes with, where neither its settings nor the environment say so; None leaves it to torch.
    """

    name: str
    config: Config
    threads: int | None

    def __call__(self) -> Outcome:
        """All that `pas search` does for a run, but that it waits for another process that has the run: that may be its own predecessor,
        which a cluster takes a while to bury. What it says goes to the job's log.

        Asked to stop, it saves first. After SIGTERM the process ends without an outcome, as if it had been killed; after SIGUSR2 submitit,
        whose signal that is, starts the job again.
        """
        if self.threads:
            os.environ.setdefault("OMP_NUM_THREADS", str(self.threads))
        try:
            with stoppable():
                _say(self.name)
                return Outcome(do(self.config, wait=_say))
        except Stopped as stopped:
            _say(f"pas: stopped{f' at {stopped.where}' if stopped.where else ''}")
            return _leave(stopped)
        except Exception as error:
            _say(reported(error))
            return Outcome(failure=summary(error))

    def checkpoint(self) -> DelayedSubmission:
        """What submitit starts when it starts the job again: the same."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _leave(stopped: Stopped) -> Outcome:
    """End the process as it was asked to. An outcome comes only of submitit's refusal to start the job once more."""
    if stopped.number == signal.SIGUSR2:
        try:
            signal.raise_signal(signal.SIGUSR2)  # now submitit's own handler has it, which ends the process or raises
        except RuntimeError as error:
            hint = "raise hydra.launcher.timeout_min, or on Slurm max_num_timeout, so often is it started again"
            return Outcome(failure=f"stopped at {stopped.where or 'its start'}: {first_line(error)}; {hint}")
    sys.exit(stopped.exit_code)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
