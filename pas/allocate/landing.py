"""Round scores to an architecture whose cost lies in the budget's band.

The band: never above the target; below it by at most 1 % of the target or the cheapest single step at the final widths,
whichever is larger. In every axis the channels with the highest scores stay, so an architecture is a width per axis.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pas.axes.signature import Axis

SLACK = 0.01
FEW = 4096
"""So many architectures are all tried."""
DEEP = 8
FINE, NEAR = 5, 2
AT_ONCE = 256
"""So many architectures are counted together."""

Load = Callable[[np.ndarray], np.ndarray]
Cost = Callable[[Sequence[int] | Sequence[Sequence[int]]], np.ndarray]


@dataclass(frozen=True)
class Widths:
    """The legal widths of every axis that may be sliced: `least` to its size in steps of `step`, and only those that are among the axis's
    `snapped` where there are some (the full size always).
    """

    axes: tuple[Axis, ...]
    least: tuple[int, ...]
    step: int
    channels: int
    snapped: tuple[tuple[int, ...], ...] | None = None

    def ladder(self, a: int) -> list[int]:
        """The legal widths of axis number `a`, ascending."""
        size, first = self.axes[a].size, self.least[a]
        inside = range(math.ceil(first / self.step) * self.step, size, self.step)
        return [*(width for width in inside if self.snapped is None or width in self.snapped[a]), size]

    def mask(self, order: list[np.ndarray], widths: Sequence[int] | Sequence[Sequence[int]]) -> np.ndarray:
        """Booleans over all channels (..., C): in each axis the first of its order, as many as `widths` (..., axes) say."""
        counts = np.asarray(widths)
        mask = np.ones((*counts.shape[:-1], self.channels), dtype=bool)
        for a, (axis, ranked) in enumerate(zip(self.axes, order, strict=True)):
            mask[..., axis.start + ranked] = np.arange(axis.size) < counts[..., a, None]
        return mask


def ranked(axes: tuple[Axis, ...], scores: np.ndarray) -> list[np.ndarray]:
    """Per axis its channels from the highest score to the lowest; equal scores keep their order."""
    return [np.argsort(-scores[axis.start : axis.start + axis.size], kind="stable") for axis in axes]


def shares(widths: Widths, scores: np.ndarray) -> np.ndarray:
    """Of each channel the share of its axis that stays when it is the last one to stay: rank over size, (channels,).

    In (0, 1]; 1 for channels of no axis.
    """
    share = np.ones(widths.channels)
    for axis, order in zip(widths.axes, ranked(widths.axes, scores), strict=True):
        share[axis.start + order] = (np.arange(axis.size) + 1) / axis.size
    return share


def land(widths: Widths, scores: np.ndarray, load: Load, worth: np.ndarray | None = None) -> np.ndarray:
    """The mask over all channels that keeps the highest scores and lies in the band.

    `scores` (channels,): a higher score stays longer, across axes too. `load`: cost over target (...) of masks (..., C),
    monotone in the mask. First one threshold for all axes, as low as the budget allows; then whatever still fits, highest score first;
    then, when the rest is more than the band allows, exchanges of a step in one axis for steps in others, which lose as little as they
    can of the sum of `worth` (channels,), not negative. Scores are an order, logarithms perhaps, and say nothing in a sum: without
    `worth` their ranks are summed.
    """
    order = ranked(widths.axes, scores)
    ladders = [widths.ladder(a) for a in range(len(widths.axes))]
    values = [scores[axis.start + rank] for axis, rank in zip(widths.axes, order, strict=True)]

    def at(threshold: float) -> list[int]:
        """The lowest rung that holds all channels above the threshold."""
        counts = [int((value > threshold).sum()) for value in values]
        return [next(rung for rung in ladder if rung >= count) for ladder, count in zip(ladders, counts, strict=True)]

    def cost(states: Sequence[int] | Sequence[Sequence[int]]) -> np.ndarray:
        return load(widths.mask(order, states))

    levels = np.unique(np.concatenate([[-np.inf, np.inf], *values]))
    low, high = 0, len(levels) - 1  # the lowest threshold whose widths are within the budget
    while low < high:
        middle = (low + high) // 2
        if cost(at(levels[middle])) <= 1:
            high = middle
        else:
            low = middle + 1
    state = _fill(at(levels[high]), ladders, values, cost)
    if 1 - cost(state) > SLACK:
        worths = _ranks(values) if worth is None else [worth[axis.start + rank] for axis, rank in zip(widths.axes, order, strict=True)]
        state = _exchange(state, ladders, values, worths, cost)
    return widths.mask(order, state)


def _fill(
    state: list[int], ladders: list[list[int]], values: list[np.ndarray], cost: Cost, skip: int = -1
) -> list[int]:
    """Climb single rungs, the highest score first, until none fits any more."""
    state = list(state)
    blocked: set[int] = {skip}
    while True:
        rungs = [(values[a][w], a) for a, w in enumerate(state) if a not in blocked and w < ladders[a][-1]]
        if not rungs:
            return state
        _, a = max(rungs)
        up = [*state[:a], _next(ladders[a], state[a]), *state[a + 1 :]]
        if cost(up) <= 1:
            state = up
        else:
            blocked.add(a)  # costs only grow, so what does not fit now never will


def _ranks(values: list[np.ndarray]) -> list[np.ndarray]:
    """How many of all values are lower, per axis."""
    everywhere = np.sort(np.concatenate(values))
    return [np.searchsorted(everywhere, value).astype(np.float64) for value in values]


def _exchange(
    state: list[int], ladders: list[list[int]], values: list[np.ndarray], worths: list[np.ndarray], cost: Cost
) -> list[int]:
    """Another state that lies in the band and loses the least worth; if there is none, the one nearest to the target.

    Small networks, whose single channels are dear, are searched completely. Else one axis steps down and the others fill up
    and, where that never lands in the band, the axes with the cheapest steps go two rungs up and down in all combinations.
    """
    sums = [np.concatenate([[0.0], np.cumsum(worth)]) for worth in worths]

    def best(states: Iterable[Sequence[int]]) -> tuple[bool, list[int]]:
        """The first of the best states, and whether it lies in the band."""
        listed = list(states)
        totals = np.concatenate([cost(listed[i : i + AT_ONCE]) for i in range(0, len(listed), AT_ONCE)])
        kept = [sum(scored[width] for scored, width in zip(sums, other, strict=True)) for other in listed]
        inside = (totals >= 1 - SLACK) & (totals <= 1)
        keys = [
            (True, k, total) if fits else (False, total if total <= 1 else -total, k)
            for fits, total, k in zip(inside, totals, kept, strict=True)
        ]
        winner = max(range(len(listed)), key=keys.__getitem__)
        return bool(inside[winner]), list(listed[winner])

    if math.prod(map(len, ladders)) <= FEW:
        return best(itertools.product(*ladders))[1]
    filled = (_fill(down, ladders, values, cost, skip=a) for a, down in _steps_down(state, ladders))
    fits, winner = best([state, *filled])
    return winner if fits else best([winner, *_around(winner, ladders, cost)])[1]


def _around(state: list[int], ladders: list[list[int]], cost: Cost) -> Iterator[Sequence[int]]:
    """Every state that differs by at most `NEAR` rungs in each of the `FINE` axes whose steps change the cost least."""
    now = float(cost(state))
    places = [ladder.index(width) for ladder, width in zip(ladders, state, strict=True)]

    def step(a: int) -> float:
        other = places[a] - 1 if places[a] else places[a] + 1
        return abs(float(cost([*state[:a], ladders[a][other], *state[a + 1 :]])) - now)

    movable = [a for a, ladder in enumerate(ladders) if len(ladder) > 1]
    fine = sorted(movable, key=step)[:FINE]
    near = [
        ladder[max(0, place - NEAR) : place + NEAR + 1] if a in fine else [ladder[place]]
        for a, (ladder, place) in enumerate(zip(ladders, places, strict=True))
    ]
    return itertools.product(*near)


def _steps_down(state: list[int], ladders: list[list[int]]) -> Iterator[tuple[int, list[int]]]:
    """Every state with one axis up to `DEEP` rungs lower, and the number of that axis."""
    for a, ladder in enumerate(ladders):
        place = ladder.index(state[a])
        for rung in range(max(0, place - DEEP), place):
            yield a, [*state[:a], ladder[rung], *state[a + 1 :]]


def _next(ladder: list[int], width: int) -> int:
    return next(rung for rung in ladder if rung > width)
