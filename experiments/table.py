"""Runs the rows of a comparison, several at a time, and writes its table. Started again, it does what is missing.

Every `result.json` and `architecture.json` is copied to the experiment's `results/` as it lands; what lies there counts as done, also on
another machine (a dense parent that is missing there is trained again, when a row needs it).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pas.compose import compose
from pas.config import Config
from pas.keys import dense_key, source_of
from pas.result import read_result
from pas.runs import run_folder


@dataclass(frozen=True)
class Experiment:
    """The rows and columns of a table. `rows` and `cells`: label -> overrides of `pas search`."""

    folder: Path
    common: tuple[str, ...]
    rows: dict[str, tuple[str, ...]]
    cells: dict[str, tuple[str, ...]]
    seeds: tuple[int, ...]

    def jobs(self) -> Iterator[tuple[str, str, int, list[str]]]:
        """(row, cell, seed, overrides), seed after seed, so that a table that is stopped early is complete for the first seeds."""
        for seed, cell, row in itertools.product(self.seeds, self.cells, self.rows):
            yield row, cell, seed, [*self.common, *self.cells[cell], *self.rows[row], f"seed={seed}"]


def run(experiment: Experiment, processes: int) -> int:
    """Every job that has no result yet, each in a process of its own with one thread; how many failed."""
    experiment.folder.mkdir(exist_ok=True)
    waiting = [(job, compose(job[3])) for job in experiment.jobs()]
    for _, config in waiting:
        _restore(experiment, config)
    running: dict[subprocess.Popen[bytes], tuple[str, Config]] = {}
    began, failed = time.monotonic(), []
    total, done = len(waiting), 0
    while waiting or running:
        for process in [p for p in running if p.poll() is not None]:
            name, config = running.pop(process)
            done += 1
            if process.returncode:
                failed.append(name)
            _collect(experiment, config)
            spent = time.monotonic() - began
            print(f"{done}/{total} {name}: {'failed' if process.returncode else 'done'} after {spent / 60:.0f} min, "
                  f"about {spent / done * (total - done) / 60:.0f} min left", flush=True)  # fmt: skip
        free = _startable(waiting, [config for _, config in running.values()]) if len(running) < processes else None
        if free is None:
            time.sleep(1)
            continue
        (row, cell, seed, overrides), config = waiting.pop(free)
        name = f"{row}, {cell}, seed {seed}"
        if read_result(run_folder(config)) is not None:
            total -= 1
            _collect(experiment, config)
            continue
        log = experiment.folder / "runs.log"
        with log.open("ab") as file:
            command = [sys.executable, "-m", "pas", "search", *overrides]
            process = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, "OMP_NUM_THREADS": "1"})
        running[process] = (name, config)
    if failed:
        print(f"failed: {'; '.join(failed)} (see {experiment.folder / 'runs.log'}); the same command does them again")
    return len(failed)


def _startable(waiting: Sequence[tuple[tuple[str, str, int, list[str]], Config]], running: Sequence[Config]) -> int | None:
    """The first job whose dense parent and whose source no other process is making."""
    for index, (_, config) in enumerate(waiting):
        if all(not _conflict(config, other) for other in running):
            return index
    return None


def _conflict(one: Config, other: Config) -> bool:
    shares_parent = dense_key(one) == dense_key(other) and not (Path(one.paths.runs) / dense_key(one) / "dense.json").exists()
    return shares_parent or (bool(_source_key(one)) and _source_key(one) in (_source_key(other), str(run_folder(other))))


def _source_key(config: Config) -> str:
    source = source_of(config)
    if source is None:
        return ""
    folder = run_folder(source)
    return "" if read_result(folder) is not None else str(folder)


def _restore(experiment: Experiment, config: Config) -> None:
    """Put a collected result where its run would be, so that it is found finished."""
    folder = run_folder(config)
    kept = experiment.folder / "results" / folder.name
    if (kept / "result.json").exists() and not folder.exists():
        half = folder.with_name(f"{folder.name}.new")
        shutil.copytree(kept, half, dirs_exist_ok=True)
        half.rename(folder)


def _collect(experiment: Experiment, config: Config) -> None:
    folder = run_folder(config)
    if read_result(folder) is None:
        return
    target = experiment.folder / "results" / folder.name
    target.mkdir(parents=True, exist_ok=True)
    for name in ("architecture.json", "result.json"):  # whole files only, and the one that says it is finished last
        half = target / f".{name}.new"
        shutil.copy(folder / name, half)
        half.replace(target / name)


def table(experiment: Experiment) -> str:
    """Markdown: top-1 of every row and cell, mean ± std over the seeds, the paired difference to the first row, and what the search
    came to by itself, as shares of the target: the export closes or reopens the rest.
    """
    found: dict[tuple[str, str], dict[int, dict]] = {}
    for row, cell, seed, overrides in experiment.jobs():
        file = experiment.folder / "results" / run_folder(compose(overrides)).name / "result.json"
        if file.exists():
            found.setdefault((row, cell), {})[seed] = json.loads(file.read_text())
    first = next(iter(experiment.rows))
    lines = ["| row | " + " | ".join(f"{cell}: top-1, % | {first} minus it | by itself" for cell in experiment.cells) + " |"]
    lines.append("|---" * (1 + 3 * len(experiment.cells)) + "|")
    for row in experiment.rows:
        words = [row]
        for cell in experiment.cells:
            mine, best = found.get((row, cell), {}), found.get((first, cell), {})
            top1 = {seed: result["searched"]["top1"] for seed, result in mine.items()}
            gaps = [best[seed]["searched"]["top1"] - value for seed, value in top1.items() if seed in best]
            words += [_mean(list(top1.values())), "" if row == first else _mean(gaps, sign="+"), _by_itself(mine.values())]
        lines.append("| " + " | ".join(words) + " |")
    return "\n".join(lines) + "\n"


def _by_itself(results: Iterable[dict]) -> str:
    shares = sorted(result["budget"]["open"] / result["budget"]["target"] for result in results if "open" in result["budget"])
    if not shares:
        return ""
    return f"{shares[0]:.2f}" if shares[-1] - shares[0] < 0.005 else f"{shares[0]:.2f} to {shares[-1]:.2f}"


def _mean(values: Sequence[float], sign: str = "") -> str:
    if not values:
        return "not run"
    spread = f" ± {statistics.stdev(values):.2f} (n={len(values)})" if len(values) > 1 else " (n=1)"
    return f"{statistics.fmean(values):{sign}.2f}{spread}"


def main(about: str, experiments: dict[str, Experiment]) -> None:
    """The command line of an experiment's `run.py`: which of its tables to make, or only to print."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    first = next(iter(experiments))
    parser.add_argument("which", nargs="?", default=first, choices=list(experiments), help=f"the table ({first})")
    parser.add_argument("--processes", type=int, default=2, help="runs at a time, of one thread each (2)")
    parser.add_argument("--table-only", action="store_true", help="print the table of what is there")
    options = parser.parse_args()
    experiment = experiments[options.which]
    failed = 0 if options.table_only else run(experiment, options.processes)
    print(table(experiment))
    sys.exit(1 if failed else 0)
