"""`pas search`: every configuration is checked before the first job starts; then Hydra launches the jobs."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from pas.compose import CONF, VERSION_BASE, completed, compose, compose_all, explained, register, to_config
from pas.config import Config
from pas.errors import AloneError, PasError, told
from pas.keys import run_key
from pas.report import table
from pas.result import FILE, read_result
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
    jobs = None
    # A configuration of the user's own can't be composed before Hydra knows where it lies.
    if not (options.config_dir or options.config_path or options.config_name):
        jobs = compose_all(overrides) if options.multirun else [compose(overrides)]
    if options.multirun and jobs and all(job.dry_run for job in jobs):  # Hydra would make the folder of the sweep
        return _plan_all(jobs)
    failures: list[tuple[str, Exception]] = []
    process = os.getpid()

    def job(node: DictConfig) -> None:
        try:
            if options.multirun and _shows():
                print(f"\n{_title(jobs)}", file=sys.stderr)
            _run(to_config(node))
        except Exception as error:
            if os.getpid() != process:  # a launcher's own process has to fail for itself
                raise
            if several() and (isinstance(error, AloneError) or not isinstance(error, PasError)):  # the others know nothing of it
                raise
            failures.append((" ".join(HydraConfig.get().overrides.task), error))
            if options.multirun and _shows():  # said at once: it may be hours until the end
                print(_told(error), file=sys.stderr)

    with explained(overrides), _hydra_raises(), _arguments(arguments):
        hydra.main(version_base=VERSION_BASE, config_path=str(CONF), config_name="config")(job)()
    if options.multirun and jobs and len(failures) < len(jobs) and _shows():
        _fronts(jobs)
    if not failures:
        return 0
    if not options.multirun:
        raise failures[0][1]
    total = f" of {len(jobs)}" if jobs else ""
    lines = [f"  {name}: {_summary(error)}" for name, error in failures]
    say("\n".join([f"\npas: {len(failures)}{total} runs failed; the same command does them again:", *lines]))
    return 2


def _run(config: Config) -> None:
    """Run, resume, or only show: a finished run is shown without loading what trains."""
    if config.dry_run:
        _plan(config)
        return
    folder = run_folder(config)
    result = _found(folder)
    if result is None:
        from pas import pipeline

        result = pipeline.run(config)
    if _shows():
        table.show(result, folder, Console())


def _found(folder: Path) -> dict[str, Any] | None:
    """The result of a finished run; of several processes all have to see the same."""
    if not several():
        return read_result(folder)
    from pas.distributed import from_leader

    return from_leader(lambda: read_result(folder))


def several() -> bool:
    """Whether torchrun started this process as one of several; asked without loading torch."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _shows() -> bool:
    return not several() or os.environ["RANK"] == "0"


def _plan(config: Config) -> None:
    from pas import pipeline
    from pas.report.plan import show

    plan = pipeline.rehearse(config)
    if _shows():
        show(plan, Console())


def _fronts(jobs: Sequence[Config]) -> None:
    """Draw accuracy against cost over the finished runs of a sweep that has several budgets."""
    if all(job.budget == jobs[0].budget for job in jobs):
        return
    from pas.report import page
    from pas.report.collect import read

    finished = [folder for folder in map(run_folder, jobs) if (folder / FILE).exists()]
    for path in page.fronts(Path(jobs[0].paths.runs), [read(folder) for folder in finished]):
        print(f"front: {path}")


def _plan_all(jobs: Sequence[Config]) -> int:
    """The plan of every job, or why there is none; the exit code."""
    failed = 0
    for number, config in enumerate(jobs, start=1):
        try:
            if _shows():
                print(f"\nrun {number} of {len(jobs)}: {run_key(config)}", flush=True)
            _plan(config)
        except PasError as error:
            failed += 1
            if _shows():
                print(f"pas: {error}", file=sys.stderr, flush=True)
    return 2 if failed else 0


def _told(error: Exception) -> str:
    line = told(error)
    return "".join(traceback.format_exception(error)) if line is None else f"pas: {line}"


def _summary(error: Exception) -> str:
    """One line of any error; `_told` has shown the rest."""
    return told(error) or f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


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
