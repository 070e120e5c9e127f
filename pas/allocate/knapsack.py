"""The knapsacks of SMCP and HALP: which width each axis gets, when what a width costs doesn't depend on the other widths.

`multiple_choice` is SMCP's (Humble et al. 2022, https://arxiv.org/abs/2211.02206, section 3.3): of every class exactly one option,

    maximise sum_g v[g, j_g]  subject to  sum_g c[g, j_g] <= capacity,

by meeting in the middle. Neighbouring classes are merged pair by pair; of all sums of a merge only those stay that no other one beats in
both value and cost. What no completion could bring above the best known choices is dropped, too: those come, with a price of cost and a
bound, from the relaxation of `pas.allocate.chain`.

`prefix` is HALP's (Shen et al. 2022, https://arxiv.org/abs/2210.06659): a 0-1 knapsack over groups of channels, layer after
layer, in which a group may only be taken where the more important one before it in its layer was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pas.allocate.chain import Allocation, Chain, relaxed

MOST = 512
"""Sums that are kept after a merge."""
ROUNDING = 1e-9
"""Of the best value: what sums in another order may differ by."""


def multiple_choice(values: Sequence[np.ndarray], costs: Sequence[np.ndarray], capacity: float, most: int = MOST) -> Allocation:
    """The options (one index a class) that are worth most within the capacity; `values` and `costs`: (K_g,) of each class g, any floats.

    Exact as long as no merge leaves more than `most` sums. Of those that are too many the ones stay that lose least against the bound of
    the relaxation: options made of another one are worth at most that bound less what it loses. `bound` in the result is what no options
    are worth more than; where it equals `value`, the result is exact all the same.

    Raises PasError when even the cheapest options cost more than the capacity.
    """
    chain = Chain.of(values, costs)
    start, price = relaxed(chain, capacity)
    margin = ROUNDING * max(abs(start.value), abs(start.bound))
    if start.bound <= start.value + margin:
        return start
    classes = [_Sums.of_class(value, cost, price) for value, cost in zip(chain.values, chain.costs, strict=True)]
    least = sum(float(cost.min()) for cost in chain.costs)
    gap = start.bound - start.value + margin  # what options may lose against the bound and still be better than what is known
    beyond = -np.inf  # what options made of sums that were thinned out are worth at most
    while len(classes) > 1:
        merged = []
        for left, right in zip(classes[::2], classes[1::2], strict=False):
            both, loss = left.merged(right, capacity - least + left.least + right.least, gap).thinned(most)
            beyond = max(beyond, start.bound - loss)
            if not len(both.cost):
                return _proven(start, beyond)
            merged.append(both)
        classes = [*merged, *classes[2 * len(merged) :]]
    (front,) = classes
    best = int(np.searchsorted(front.cost, capacity, side="right")) - 1  # cost and value both ascend
    if best < 0 or front.value[best] <= start.value:
        return _proven(start, beyond)
    choices = tuple(front.path(best))
    return _proven(Allocation(choices, chain.value(choices), chain.cost(choices), start.bound), beyond)


def _proven(found: Allocation, beyond: float) -> Allocation:
    """The best that was found, when what wasn't looked at is worth at most `beyond`."""
    return Allocation(found.choices, found.value, found.cost, max(found.value, beyond))


@dataclass(frozen=True)
class _Sums:
    """Sums of one option of each of some neighbouring classes: those that no other one beats, cost and value ascending.

    `loss`: how much less ``value - price * cost`` is than the largest one. `least`: what the cheapest options cost. `parts`: the sums
    that were merged, of which number i is the sum of `left[i]` and `right[i]`; of a class, `left[i]` is the option.
    """

    cost: np.ndarray
    value: np.ndarray
    loss: np.ndarray
    least: float
    left: np.ndarray
    right: np.ndarray
    parts: tuple[_Sums, _Sums] | None

    @staticmethod
    def of_class(value: np.ndarray, cost: np.ndarray, price: float) -> _Sums:
        gain = value - price * cost
        which = np.arange(len(value))
        return _Sums(cost, value, gain.max() - gain, float(cost.min()), which, which, None)._undominated()

    def merged(self, other: _Sums, capacity: float, gap: float) -> _Sums:
        """All sums with another's that cost no more than the capacity and lose no more than the gap."""
        order = np.argsort(other.loss, kind="stable")
        counts = np.searchsorted(other.loss[order], gap - self.loss, side="right")
        left = np.repeat(np.arange(len(counts)), counts)
        right = order[np.arange(len(left)) - np.repeat(np.cumsum(counts) - counts, counts)]
        cost = self.cost[left] + other.cost[right]
        fits = cost <= capacity + ROUNDING * abs(capacity)
        left, right = left[fits], right[fits]
        value, loss = self.value[left] + other.value[right], self.loss[left] + other.loss[right]
        sums = _Sums(cost[fits], value, loss, self.least + other.least, left, right, (self, other))
        return sums._undominated()

    def thinned(self, most: int) -> tuple[_Sums, float]:
        """At most so many of them, and the least that any of those that went loses."""
        if len(self.loss) <= most:
            return self, np.inf
        order = np.argsort(self.loss, kind="stable")
        return self._only(np.sort(order[:most])), float(self.loss[order[most]])

    def path(self, number: int) -> list[int]:
        """The options of a sum, class after class."""
        if self.parts is None:
            return [int(self.left[number])]
        return [*self.parts[0].path(int(self.left[number])), *self.parts[1].path(int(self.right[number]))]

    def _undominated(self) -> _Sums:
        order = np.lexsort((-self.value, self.cost))
        value = self.value[order]
        better = np.ones(len(order), dtype=bool)
        better[1:] = value[1:] > np.maximum.accumulate(value)[:-1]
        return self._only(order[better])

    def _only(self, which: np.ndarray) -> _Sums:
        return _Sums(
            self.cost[which], self.value[which], self.loss[which], self.least, self.left[which], self.right[which], self.parts
        )


def prefix(values: Sequence[np.ndarray], weights: Sequence[np.ndarray], capacity: int) -> tuple[int, ...]:
    """How many groups of each layer to take, the first ones of each. `values` (floats) and `weights` (whole numbers): (K_l,) of each layer
    l, its groups in the order in which they may be taken.

    With V the best value by the room that is left, over all groups so far,

        V_i[c] = max(V_{i-1}[c], V_{i-1}[c - w_i] + v_i),

    the second one only for the first group of a layer, or where the state it adds to took the group before. That makes it greedy: a state
    that was beaten, and took that group, is forgotten. Groups of negative weight make room for others: c then runs from as much below zero
    as they make together to as much above the capacity. Takes as many steps of numpy as there are groups, each over all c. Where nothing
    fits, nothing is taken.
    """
    made = sum(int(-weight[weight < 0].sum()) for weight in weights)
    if capacity < -made:
        return (0,) * len(values)
    room = np.arange(-made, capacity + made + 1)
    best = np.where(room >= 0, 0.0, -np.inf)
    taken: list[np.ndarray] = []
    for value, weight in zip(values, weights, strict=True):
        for i, (gain, w) in enumerate(zip(value.tolist(), weight.tolist(), strict=True)):
            before = np.clip(np.arange(len(room)) - w, -1, len(room) - 1)  # the state that this group is added to; -1: there is none
            allowed = before >= 0
            if i:
                allowed &= taken[-1][before]
            added = np.where(allowed, best[before] + gain, -np.inf)
            taken.append(added > best)
            best = np.maximum(best, added)
    counts = [0] * len(values)
    at, number = capacity + made, len(taken)
    for layer in reversed(range(len(values))):
        for w in reversed(weights[layer].tolist()):
            number -= 1
            if taken[number][at]:
                counts[layer] += 1
                at = min(at - w, len(room) - 1)
    return tuple(counts)
