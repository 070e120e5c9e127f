"""Which runs a comparison is: every row (a method) in every cell (a budget) for every seed."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override

from pas.compose import completed, compose, explained, parse
from pas.config import Config
from pas.disk import json_digest
from pas.errors import PasError
from pas.keys import variant
from pas.result import FILE, read_result
from pas.runs import run_folder

FOLDER = Path("comparisons")
FORM = """a row is written '+compare.rows.NAME=["method=spa","method.options.criterion=group_l1"]', quotes included"""


@dataclass(frozen=True)
class Job:
    """One run: its place in the table, and what `pas search` is told."""

    row: str
    cell: str
    seed: int
    overrides: tuple[str, ...]
    config: Config

    @property
    def place(self) -> str:
        """Where in the table it is, in words."""
        return ", ".join(word for word in (self.row, self.cell) if word)

    @property
    def name(self) -> str:
        """The run in words."""
        return f"{self.place}, seed {self.seed}"


def jobs(overrides: Sequence[str]) -> list[Job]:
    """Every run of a comparison, seed after seed, so that one that is stopped early is complete for the first seeds.

    What is given as a choice of several (``method=pas,uniform``, ``budget.macs=0.3,0.5``, ``seed=0,1``) takes the place of the
    configuration's `compare.rows`, `compare.cells` and `compare.seeds`. Raises PasError for whatever can't be composed, for values that are
    given twice, and for rows that are the same run.
    """
    choices, fixed, base = _read(overrides)
    seeds = [_whole(word) for word in choices.pop("seed", [])] or ([base.seed] if _names(fixed, "seed") else base.compare.seeds)
    rows = {name: [f"method={name}"] for name in choices.pop("method", [])}
    rows = rows or ({base.method.name: []} if _names(fixed, "method") else base.compare.rows)
    cells = _cells(choices) if choices else base.compare.cells or {"": []}
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


def folder_of(found: Sequence[Job]) -> Path:
    """Where the table and the copies of results go: `compare.folder`, else a folder that is named by the rows and cells, so that further
    seeds go to the same one. It isn't among the runs, where `pas report` would find every result twice.
    """
    named = found[0].config.compare.folder
    places = dict.fromkeys((job.row, job.cell, variant(job.config)) for job in found)
    return FOLDER / json_digest(list(places))[:8] if named is None else Path(named)


def result_of(job: Job, folder: Path) -> Path:
    """Where the copy of a run's result is."""
    return folder / "results" / run_folder(job.config).name / FILE


def finished(job: Job, folder: Path) -> dict[str, Any] | None:
    """The result of a run, of the copy in the comparison's folder or else of its own; None while there is none."""
    return read_result(result_of(job, folder)) or read_result(run_folder(job.config))


def unfinished(found: Sequence[Job], folder: Path) -> list[Job]:
    """The runs that have no result yet."""
    return [job for job in found if finished(job, folder) is None]


def first_of_each(found: Sequence[Job], missing: Sequence[Job]) -> list[Job]:
    """The first run of every row in every cell in which all of them are missing."""
    had = {(job.row, job.cell) for job in found if job not in missing}
    first: dict[tuple[str, str], Job] = {}
    for job in missing:
        first.setdefault((job.row, job.cell), job)
    return [job for place, job in first.items() if place not in had]


def _read(overrides: Sequence[str]) -> tuple[dict[str, list[str]], list[str], Config]:
    """The choices of several by their keys, the other overrides, and the configuration of these. A row that can't be read is shown how."""
    try:
        with explained(overrides):
            parsed = parse(completed(overrides))
            choices = {one.get_key_element(): _values(one) for one in parsed if one.is_sweep_override()}
        fixed = [one.input_line or "" for one in parsed if not one.is_sweep_override()]
        return choices, fixed, compose(fixed)
    except PasError as error:
        others = [one for one in overrides if not one.lstrip("+").startswith(("compare.rows", "compare.cells"))]
        if len(others) == len(overrides):
            raise
        _read(others)  # what is wrong beside the rows
        raise PasError(f"{error}; {FORM}") from error


def _values(override: Override) -> list[str]:
    values = list(override.sweep_string_iterator())
    twice = next((value for value, count in Counter(values).items() if count > 1), None)
    if twice is not None:
        raise PasError(f"{override.get_key_element()}={twice}: given twice")
    return values


def _whole(word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise PasError(f"seed={word}: must be a whole number") from None


def _cells(choices: dict[str, list[str]]) -> dict[str, list[str]]:
    """All combinations of the values, by their labels; keys without the groups that nobody needs to tell them apart."""
    keys = _short(list(choices))
    found = {}
    for values in itertools.product(*choices.values()):
        label = ", ".join(f"{key}={value}" for key, value in zip(keys, values, strict=True))
        found[label] = [f"{key}={value}" for key, value in zip(choices, values, strict=True)]
    return found


def _short(keys: Sequence[str]) -> list[str]:
    """Of every key as many of its last parts as no other key ends with."""
    ends = [[".".join(key.split(".")[-count:]) for count in range(1, key.count(".") + 2)] for key in keys]
    often = Counter(end for one in ends for end in one)
    return [next((end for end in one if often[end] == 1), one[-1]) for one in ends]


def _refuse_twice(found: Sequence[Job]) -> None:
    seen: dict[str, Job] = {}
    for job in found:
        other = seen.setdefault(run_folder(job.config).name, job)
        if other is not job:
            raise PasError(f"compare: {other.name} and {job.name} are the same run: their settings don't differ")


def _names(overrides: Sequence[str], key: str) -> bool:
    return any(one.partition("=")[0] == key for one in overrides)
