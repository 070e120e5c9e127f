"""`pas search`: every configuration is checked before the first job starts; then Hydra launches the jobs, or submitit."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from pas import submission
from pas.compose import CONF, VERSION_BASE, completed, compose, compose_all, explained, launcher, register, to_config
from pas.compose import jobs as jobs_of
from pas.config import Config
from pas.errors import AloneError, PasError, reported, summary
from pas.job import do, plan, several, shows
from pas.keys import run_key
from pas.result import FILE
from pas.runs import run_folder


def launch(arguments: Sequence[str]) -> int:
    """Run `pas search` with these arguments; the exit code. Raises PasError for whatever is refused at launch.

    Jobs of a sweep after a failing one still run; at the end it says which failed and why, and the code is 2. Ctrl-C and
    SIGTERM end the whole sweep. Under torchrun all processes do every job together, and one of them says what is refused.
    """
    if not several():
        return _launch(arguments, lambda line: print(line, file=sys.stderr))
    from pas.distributed import session

    with session() as say:
        try:
            return _launch(arguments, say)
        except PasError as error:
            say(f"pas: {error}")
            raise SystemExit(2) from None


def _launch(arguments: Sequence[str], say: Callable[[str], None]) -> int:
    parser = get_args_parser()
    options, unknown = parser.parse_known_args(list(arguments))
    if unknown:
        raise PasError(f"{unknown[0]}: there is no such option; settings are KEY=VALUE, and `pas search --help` lists the options")
    if options.multirun and options.cfg:
        raise PasError("--cfg shows one configuration: leave out -m")
    overrides = completed(options.overrides)
    if len(overrides) > len(options.overrides):
        arguments = completed(arguments)
    register(overrides)
    # a configuration of the user's own can't be composed before Hydra knows where it lies
    elsewhere = options.config_dir or options.config_path or options.config_name
    _check_launcher(overrides, multirun=options.multirun, elsewhere=elsewhere)
    jobs = None
    if not elsewhere:
        jobs = compose_all(overrides) if options.multirun else [compose(overrides)]
    if options.multirun and jobs and all(job.dry_run for job in jobs):  # Hydra would make the folder of the sweep
        return _plan_all(jobs)
    if options.multirun and jobs:
        chosen = launcher(overrides)
        if chosen.plain and chosen.target in submission.CLUSTERS:
            return _end(jobs, submission.sweep(list(zip(jobs_of(overrides), jobs, strict=True)), chosen), say)
    failures: list[tuple[str, Exception]] = []
    process = os.getpid()

    def job(node: DictConfig) -> None:
        try:
            if options.multirun and shows():
                print(f"\n{_title(jobs)}", file=sys.stderr)
            do(to_config(node))
        except Exception as error:
            if os.getpid() != process:  # a launcher's own process has to fail for itself
                raise
            if several() and (isinstance(error, AloneError) or not isinstance(error, PasError)):  # the others know nothing of it
                raise
            failures.append((" ".join(HydraConfig.get().overrides.task), error))
            if options.multirun and shows():  # said at once: it may be hours until the end
                print(reported(error), file=sys.stderr)

    with explained(overrides), _hydra_raises(), _arguments(arguments):
        hydra.main(version_base=VERSION_BASE, config_path=str(CONF), config_name="config")(job)()
    if failures and not options.multirun:
        raise failures[0][1]
    return _end(jobs, [(name, summary(error)) for name, error in failures], say) if options.multirun else 0


def _end(jobs: Sequence[Config] | None, failures: Sequence[tuple[str, str]], say: Callable[[str], None]) -> int:
    """Draw the front of a sweep that has ended and say which of its runs failed and why; the exit code."""
    if jobs and len(failures) < len(jobs) and shows():
        _fronts(jobs)
    if not failures:
        return 0
    total = f" of {len(jobs)}" if jobs else ""
    lines = [f"  {name}: {why}" for name, why in failures]
    say("\n".join([f"\npas: {len(failures)}{total} runs failed; the same command does them again:", *lines]))
    return 2


def _check_launcher(overrides: Sequence[str], *, multirun: bool, elsewhere: str | None) -> None:
    """Refuse a launcher that nobody would ask, one beside another, and one that would know too little of its jobs."""
    chosen = [one for one in overrides if one.startswith("hydra/launcher=") and one != "hydra/launcher=basic"]
    if not chosen:
        return
    if not multirun:
        raise PasError(f"{chosen[0]}: launchers start the runs of sweeps: add -m")
    if several():
        raise PasError(f"{chosen[0]}: torchrun has started the processes already: leave out one of the two")
    if elsewhere and chosen[0].startswith("hydra/launcher=submitit_"):
        raise PasError(f'{chosen[0]}: name the folder of your own configuration by "hydra.searchpath=[file://{elsewhere}]" instead')


def _fronts(jobs: Sequence[Config]) -> None:
    """Draw accuracy against cost over the finished runs of a sweep that has several budgets, but for those whose result can't be read."""
    if all(job.budget == jobs[0].budget for job in jobs):
        return
    from pas.report import page
    from pas.report.collect import read

    finished = []
    for folder in map(run_folder, jobs):
        with suppress(PasError):
            if (folder / FILE).exists():
                finished.append(read(folder))
    for path in page.fronts(Path(jobs[0].paths.runs), finished):
        print(f"front: {path}")


def _plan_all(jobs: Sequence[Config]) -> int:
    """The plan of every job, or why there is none; the exit code."""
    failed = 0
    for number, config in enumerate(jobs, start=1):
        try:
            if shows():
                print(f"\nrun {number} of {len(jobs)}: {run_key(config)}", flush=True)
            plan(config)
        except PasError as error:
            failed += 1
            if shows():
                print(f"pas: {error}", file=sys.stderr, flush=True)
    return 2 if failed else 0


def _title(jobs: Sequence[Config] | None) -> str:
    one = HydraConfig.get()
    return f"run {one.job.num + 1}{f' of {len(jobs)}' if jobs else ''}: {' '.join(one.overrides.task)}"


@contextmanager
def _hydra_raises() -> Iterator[None]:
    """Let Hydra pass exceptions on; by itself it prints several lines and exits with 1."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before


@contextmanager
def _arguments(arguments: Sequence[str]) -> Iterator[None]:
    """Hydra reads the command line by itself."""
    before = sys.argv
    sys.argv = ["pas search", *arguments]
    try:
        yield
    finally:
        sys.argv = before
