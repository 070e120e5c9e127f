"""The results of a comparison by row and cell: what a line of its tables and a point of its figure is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pas.errors import PasError
from pas.report.collect import Mean
from pas.report.latency import noisy

STAGES = {"cut": "cut", "renorm": "norms", "epoch": "one epoch", "end": "end"}
"""Of `result.json`'s `recovery`: right after the cut, with batch norms re-estimated, after an epoch of fine-tuning, after all of it."""
NEAR = 0.01
"""Targets that differ by less than this share of them are equal: networks are counted a little differently by other programs."""
Result = Mapping[str, Any]


@dataclass(frozen=True)
class Line:
    """The results of a row in a cell of a comparison, by seed. Means are over the seeds that were measured; None without any."""

    row: str
    cell: str
    results: Mapping[int, Result]

    def top1(self, stage: str) -> Mean | None:
        """Top-1 in percent at a stage of the recovery."""
        return self._mean(lambda result: top1(result, stage))

    def share(self, kind: str) -> Mean | None:
        """MACs, parameters or latency over those of the dense network."""
        return self._mean(lambda result: share(result, kind))

    def seconds(self, stage: str) -> Mean | None:
        """Of "search" or "finetune"."""
        return self._mean(lambda result: float(result["seconds"][stage]))

    def _mean(self, number: Callable[[Result], float | None]) -> Mean | None:
        values = [value for value in map(number, self.results.values()) if value is not None]
        return Mean.of(values) if values else None


def lines(found: Iterable[tuple[str, str, int, Result]]) -> list[Line]:
    """Results (row, cell, seed, result) gathered over their seeds, cell after cell, in the order in which they come.

    Raises PasError where a row differs from its cell's others in its network, data, split or budget.
    """
    groups: dict[tuple[str, str], dict[int, Result]] = {}
    for row, cell, seed, result in found:
        groups.setdefault((cell, row), {})[seed] = result
    cells = list(dict.fromkeys(cell for cell, _ in groups))
    made = [Line(row, cell, results) for of in cells for (cell, row), results in groups.items() if cell == of]
    for group in cells_of(made).values():
        _refuse_unlike(group)
    return made


def cells_of(all_lines: Sequence[Line]) -> dict[str, list[Line]]:
    """The lines of each cell."""
    groups: dict[str, list[Line]] = {}
    for line in all_lines:
        groups.setdefault(line.cell, []).append(line)
    return groups


def results_of(group: Sequence[Line]) -> list[Result]:
    """All results of some lines."""
    return [result for line in group for result in line.results.values()]


def stages_of(group: Sequence[Line]) -> list[str]:
    """The stages of a recovery that these runs went through; without fine-tuning the cut is the end, which is told once."""
    known = [stage for stage in STAGES if any(line.top1(stage) is not None for line in group)]
    return known if any(map(_tuned, results_of(group))) else [stage for stage in known if stage != "end"]


def kinds_of(group: Sequence[Line]) -> list[str]:
    """What the budget of a cell limits."""
    return [str(limit["kind"]) for limit in results_of(group)[0]["limits"]]


def top1(result: Result, stage: str) -> float | None:
    """Top-1 of a run at a stage; None where it wasn't measured."""
    if stage == "end" or (stage == "cut" and not _tuned(result)):
        return float(result["searched"]["top1"])
    value = result.get("recovery", {}).get(stage)
    return None if value is None else float(value)


def share(result: Result, kind: str, *, sure: bool = True) -> float | None:
    """A cost ("macs", "params", "latency") over that of the dense network; None where it wasn't measured or, if `sure`, too noisily."""
    name = "latency_ms" if kind == "latency" else kind
    searched, dense = result["searched"][name], result["dense"][name]
    if not searched or not dense:
        return None
    if sure and kind == "latency" and noisy({**result.get("latency", {}), "share": searched / dense}):
        return None
    return float(searched / dense)


def _tuned(result: Result) -> bool:
    return float(result["seconds"]["finetune"]) > 0


def _refuse_unlike(group: Sequence[Line]) -> None:
    first = results_of(group)[0]
    for line in group:
        for result in line.results.values():
            for name in ("model", "data", "split"):
                if result[name] != first[name]:
                    raise PasError(f"{_place(line)} is of {name} {result[name]}, {_place(group[0])} of {first[name]}: no comparison")
            (mine, its) = (_budget(one) for one in (result, first))
            if mine.keys() != its.keys() or any(abs(mine[kind] - its[kind]) > NEAR * its[kind] for kind in mine):
                raise PasError(f"{_place(line)} has the budget {_told(mine)}, {_place(group[0])} {_told(its)}: no comparison")


def _budget(result: Result) -> dict[str, float]:
    """The limits as shares of the dense cost; a latency that was asked for in ms in these, as the dense one is another whenever it is
    measured.
    """
    fixed = {one["kind"] for one in result["limits"] if one["kind"] == "latency" and not one.get("relative", True)}
    return {one["kind"]: one["target"] / (1.0 if one["kind"] in fixed else one["dense"]) for one in result["limits"]}


def _told(budget: Mapping[str, float]) -> str:
    return ", ".join(f"{kind} {target:.4g}" for kind, target in budget.items())


def _place(line: Line) -> str:
    return ", ".join(word for word in (line.row, line.cell) if word)
