"""The optimality gap of a search: what its widths reach against what any widths within the budget can, for the same importances."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from pas.allocate.chain import Chain, exact
from pas.allocate.elimination import Problem, bound
from pas.allocate.landing import Widths, ranked
from pas.axes.signature import Axis, Signature
from pas.budget import Limit, Limits
from pas.cost.latency import Latency
from pas.cost.polynomial import polynomial
from pas.cost.tabulated import Tabulated, of_latency, of_polynomial
from pas.errors import PasError

CHOICES = 128
"""Widths of an axis that are considered: of longer ladders so many at equal distances, and those that the search came to."""


@dataclass(frozen=True)
class Gap:
    """`reached`: what the search's widths are worth, `known`: the best widths that were found, `bound`: what none are worth more than, all
    as shares of what the dense network is worth. `gap`: how much of the bound the search's widths miss. `exact`: whether the bound is
    reached for sure, as it is on chains under one limit; not where only some of the widths of long axes were considered.
    """

    reached: float
    known: float
    bound: float
    gap: float
    exact: bool

    def as_dict(self) -> dict[str, float | bool]:
        """As plain data."""
        return asdict(self)


def gap(signature: Signature, widths: Widths, worth: np.ndarray, mask: np.ndarray, limits: Limits) -> Gap | None:
    """The gap of the channels `mask` (C,), booleans, where channel i is worth ``worth[i]`` (C,), not negative, and an axis keeps its best.

    With several limits the tightest bound counts. None where too many axes meet in one product for a bound.
    """
    numbers = {axis.name: a for a, axis in enumerate(widths.axes)}
    orders = ranked(widths.axes, worth)
    choices, values = [], []
    for axis in signature.prunable:
        if axis.name not in numbers:
            choices.append(np.array([axis.size]))
            values.append(np.zeros(1))
            continue
        a = numbers[axis.name]
        rungs = _thinned(widths.ladder(a), _kept(axis, mask))
        sums = np.concatenate([[0.0], np.cumsum(worth[axis.start + orders[a]])])
        choices.append(rungs)
        values.append(sums[rungs])
    reached = [int(np.flatnonzero(rungs == _kept(axis, mask))[0]) for axis, rungs in zip(signature.prunable, choices, strict=True)]
    found = [_bound(signature, limit, choices, values, reached) for limit in limits.each]
    known = [one for one in found if one is not None]
    if not known:
        return None
    total = sum(float(value[-1]) for value in values)
    value = sum(float(v[k]) for v, k in zip(values, reached, strict=True))
    best, most, closed = min(known, key=lambda one: one[1])
    closed = closed and len(limits.each) == 1 and all(len(widths.ladder(a)) <= CHOICES for a in range(len(widths.axes)))
    best, most = max(best, value), max(most, value)
    return Gap(value / total, best / total, most / total, 1 - value / most, closed)


def _kept(axis: Axis, mask: np.ndarray) -> int:
    return int(mask[axis.start : axis.start + axis.size].sum())


def _thinned(ladder: list[int], kept: int) -> np.ndarray:
    """At most `CHOICES` rungs at equal distances, the first and the last among them, and the width that was kept."""
    places = np.unique(np.linspace(0, len(ladder) - 1, min(CHOICES, len(ladder))).round().astype(int))
    return np.unique([*np.array(ladder)[places], kept])


def _bound(
    signature: Signature, limit: Limit, choices: list[np.ndarray], values: list[np.ndarray], reached: list[int]
) -> tuple[float, float, bool] | None:
    """The best value that is known under one limit, what none is above, and whether both are equal for sure."""
    try:
        if isinstance(limit.cost, Latency):
            cost = of_latency(limit.cost, signature, choices)
        else:
            cost = of_polynomial(polynomial(limit.cost, signature), choices)
        budget = max(limit.target, cost.at(reached))  # what isn't landed may lie above the target
        chain = _chain(cost, values)
        if chain is not None:
            best = exact(chain, budget - cost.constant)
            return best.value, best.bound, True
        found = bound(Problem(tuple(choices), tuple(values), cost), budget)
        return found.value, found.bound, False
    except PasError:  # too many axes meet
        return None


def _chain(cost: Tabulated, values: list[np.ndarray]) -> Chain | None:
    """The same as a chain, where every axis meets only the one before and the one after it."""
    own = [np.zeros(len(value)) for value in values]
    pairs: list[np.ndarray | None] = [None] * (len(values) - 1)
    for scope, table in cost.tables:
        if len(scope) == 1:
            own[scope[0]] = own[scope[0]] + table
        elif len(scope) == 2 and scope[1] == scope[0] + 1:
            before = pairs[scope[0]]
            pairs[scope[0]] = table if before is None else before + table
        else:
            return None
    return Chain.of(values, own, pairs)
