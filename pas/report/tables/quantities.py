"""What a column can show of results: a number of each run, and the words for all seeds together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pas.amount import human
from pas.report.collect import Mean, speedup
from pas.report.comparison.lines import share, top1
from pas.report.comparison.pairs import Pairing

Result = Mapping[str, Any]
HOUR = 3600.0


@dataclass(frozen=True)
class Quantity:
    """`of`: the number of a run, None where it wasn't measured. `words`: what stands in the cell for those of all seeds."""

    of: Callable[[Result], float | None]
    words: Callable[[Sequence[float]], str]


def points(values: Sequence[float]) -> str:
    """Mean, standard deviation (of a sample) and number: 91.16 ± 0.19 (n=3)."""
    return f"{Mean.of(values)} (n={len(values)})"


def signed(values: Sequence[float]) -> str:
    """The same of a difference."""
    return points(values) if Mean.of(values).mean < 0 else f"+{points(values)}"


def interval(values: Sequence[float]) -> str:
    """The 95 % interval of a mean difference by a paired t-test: -0.31 to +2.04 (n=3). Two seeds are the fewest that have one."""
    test = Pairing(tuple(values)).test
    return f"no interval (n={len(values)})" if test is None else f"{test.low:+.2f} to {test.high:+.2f} (n={len(values)})"


def span(values: Sequence[float]) -> str:
    """From the least to the largest."""
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


def _mean(form: Callable[[float], str]) -> Callable[[Sequence[float]], str]:
    return lambda values: form(Mean.of(values).mean)


def _number(part: str, name: str) -> Callable[[Result], float | None]:
    return lambda result: result[part][name]


def _hours(*stages: str) -> Callable[[Result], float | None]:
    """Of all devices together."""
    return lambda result: sum(result["seconds"].get(stage, 0.0) for stage in stages) * result["environment"].get("processes", 1) / HOUR


def _less(result: Result) -> float | None:
    return result["dense"]["macs"] / result["searched"]["macs"] if result["searched"]["macs"] else None


def _open(result: Result) -> float | None:
    itself = result["budget"].get("open")
    return None if itself is None else itself / result["budget"]["target"]


amount, percent, times, hours = _mean(human), _mean("{:.1%}".format), _mean("{:.2f}x".format), _mean("{:.2f}".format)
QUANTITIES = {
    "dense top1": Quantity(_number("dense", "top1"), points),
    "top1": Quantity(_number("searched", "top1"), points),
    "change": Quantity(lambda result: result["searched"]["top1"] - result["dense"]["top1"], signed),
    "gap": Quantity(_number("searched", "top1"), signed),
    "gap, 95 %": Quantity(_number("searched", "top1"), interval),
    "cut": Quantity(lambda result: top1(result, "cut"), points),
    "norms": Quantity(lambda result: top1(result, "renorm"), points),
    "one epoch": Quantity(lambda result: top1(result, "epoch"), points),
    "MACs": Quantity(_number("searched", "macs"), amount),
    "parameters": Quantity(_number("searched", "params"), amount),
    "MACs, share": Quantity(lambda result: share(result, "macs"), percent),
    "parameters, share": Quantity(lambda result: share(result, "params"), percent),
    "latency, share": Quantity(lambda result: share(result, "latency", sure=False), percent),
    "fewer MACs": Quantity(_less, times),
    "faster": Quantity(speedup, times),
    "by itself": Quantity(_open, span),
    "hours, dense": Quantity(_hours("prepare"), hours),
    "hours, search": Quantity(_hours("search"), hours),
    "hours": Quantity(_hours("search", "finetune"), hours),
}
"""Names of `of` in a `table.yaml`. Top-1 in percent; "gap": top-1 of the row that the table is against, less this row's, seed by seed;
"by itself": what a search came to before its export, as a share of the target; "hours": of all devices together, those of search and
fine-tuning unless a stage is named.
"""
GAPS = ("gap", "gap, 95 %")
