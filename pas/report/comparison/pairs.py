"""Rows held against a baseline, seed by seed: the difference, its confidence interval, and a paired t-test."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import t as student

from pas.report.comparison.lines import Line

LEVEL = 0.95
EQUAL = 1e-9
"""Differences in percent that lie closer together are equal: what is left of them is rounding."""


@dataclass(frozen=True)
class TTest:
    """A paired t-test: the two-sided p-value of the mean difference, and the bounds of its confidence interval."""

    p: float
    low: float
    high: float


@dataclass(frozen=True)
class Pairing:
    """Top-1 of a row minus that of another over the seeds that both have: the mean, and its test, which one pair or pairs of one difference
    don't allow.
    """

    gaps: tuple[float, ...]

    @property
    def difference(self) -> float:
        return statistics.fmean(self.gaps)

    @property
    def test(self) -> TTest | None:
        """Student's: the mean over its standard error has n - 1 degrees of freedom."""
        if len(self.gaps) < 2 or max(self.gaps) - min(self.gaps) < EQUAL:
            return None
        error, degrees = statistics.stdev(self.gaps) / math.sqrt(len(self.gaps)), len(self.gaps) - 1
        reach = error * float(student.ppf((1 + LEVEL) / 2, degrees))
        p = 2 * float(student.sf(abs(self.difference) / error, degrees))
        return TTest(p, self.difference - reach, self.difference + reach)


def best(group: Sequence[Line], baselines: Sequence[str]) -> Line | None:
    """Of the rows of one cell the baseline with the highest mean at the end, over the seeds that all baselines have in common.

    Where they have none in common, of those with most seeds.
    """
    known = [line for line in group if line.row in baselines]
    common = set.intersection(*(set(line.results) for line in known)) if known else set()
    if not common:
        most = max((len(line.results) for line in known), default=0)
        known = [line for line in known if len(line.results) == most]
    return max(known, key=lambda line: statistics.fmean(_end(line, seed) for seed in common or line.results), default=None)


def paired(line: Line, other: Line) -> Pairing | None:
    """The differences at the end over the seeds that both have; None without any, and for a row beside itself."""
    seeds = [seed for seed in line.results if seed in other.results]
    if line is other or not seeds:
        return None
    return Pairing(tuple(_end(line, seed) - _end(other, seed) for seed in seeds))


def _end(line: Line, seed: int) -> float:
    return float(line.results[seed]["searched"]["top1"])
