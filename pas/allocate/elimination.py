"""What any widths within a budget can be worth at most, for networks whose layers share widths: the optimality gap of a search.

The relaxation of `pas.allocate.chain`, for costs in which an axis meets many others (the width of a ResNet's stage, say): for a price of
cost the best widths are found by eliminating one axis after the other (bucket elimination, Dechter 1999), which takes time exponential
only in how many axes are open at once: two or three for chains, residual networks and networks of depth-wise blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pas.cost.tabulated import Table, Tabulated, small_enough
from pas.errors import PasError

BISECTIONS = 40


@dataclass(frozen=True)
class Problem:
    """`choices`: the widths that each axis may have; `values`: what they are worth; `cost`: what all of them together cost, which never
    falls with a width.
    """

    choices: tuple[np.ndarray, ...]
    values: tuple[np.ndarray, ...]
    cost: Tabulated


@dataclass(frozen=True)
class Bound:
    """The best widths that some price leads to, what they are worth and cost, and what no widths within the budget are worth more than."""

    widths: tuple[int, ...]
    value: float
    cost: float
    bound: float


def best(problem: Problem, price: float) -> tuple[int, ...]:
    """The choice of each axis with the largest ``value - price * cost``. Raises PasError when that would take a table that is too large."""
    tables: list[Table] = [((a,), value) for a, value in enumerate(problem.values)]
    tables += [(scope, -price * table) for scope, table in problem.cost.tables]
    order, left = [], set(range(len(problem.values)))
    argmax: dict[int, Table] = {}
    while left:
        axis = min(left, key=lambda a: _size(problem, _scope(tables, a)))
        scope = _scope(tables, axis)
        small_enough(scope, problem.choices)
        joined = _joined(problem, [table for table in tables if axis in table[0]], scope)
        tables = [table for table in tables if axis not in table[0]]
        place = scope.index(axis)
        rest = scope[:place] + scope[place + 1 :]
        argmax[axis] = (rest, joined.argmax(place))
        tables.append((rest, joined.max(place)))
        order.append(axis)
        left.remove(axis)
    chosen: dict[int, int] = {}
    for axis in reversed(order):
        rest, choice = argmax[axis]
        chosen[axis] = int(choice[tuple(chosen[a] for a in rest)])
    return tuple(chosen[a] for a in range(len(problem.values)))


def bound(problem: Problem, budget: float) -> Bound:
    """The tightest bound over all prices. Raises PasError when the smallest widths cost more than the budget, and as `best` does."""
    found = Bound((), -math.inf, math.inf, math.inf)

    def tried(price: float) -> float:
        nonlocal found
        choices = best(problem, price)
        widths = tuple(int(w[k]) for w, k in zip(problem.choices, choices, strict=True))
        value, cost = sum(float(v[k]) for v, k in zip(problem.values, choices, strict=True)), problem.cost.at(choices)
        limit = min(found.bound, value + price * (budget - cost))
        better = cost <= budget and value > found.value
        found = Bound(widths, value, cost, limit) if better else Bound(found.widths, found.value, found.cost, limit)
        return cost

    smallest = [int(w.argmin()) for w in problem.choices]
    if problem.cost.at(smallest) > budget:
        raise PasError(f"the smallest widths cost {problem.cost.at(smallest):.6g}, more than the budget of {budget:.6g}")
    low, high = 0.0, 1e-12
    if tried(0.0) > budget:
        while tried(high) > budget:
            low, high = high, high * 4
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if tried(middle) > budget else (low, middle)
    return found


def _scope(tables: Sequence[Table], axis: int) -> tuple[int, ...]:
    return tuple(sorted({a for scope, _ in tables if axis in scope for a in scope}))


def _size(problem: Problem, scope: Sequence[int]) -> int:
    return math.prod(len(problem.values[a]) for a in scope)


def _joined(problem: Problem, tables: Sequence[Table], scope: tuple[int, ...]) -> np.ndarray:
    """The sum of tables over a scope that holds all of theirs."""
    total = np.zeros([len(problem.values[a]) for a in scope])
    for axes, table in tables:
        total += table.reshape([len(problem.values[a]) if a in axes else 1 for a in scope])
    return total
