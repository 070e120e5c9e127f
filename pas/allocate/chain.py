"""The best widths of a chain of layers under a budget, exactly.

Each layer chooses one of its widths. A choice is worth what its channels are worth, and costs what the layer costs, which depends on its
own width and on that of the layer before: ``sum_l C_l[k_l] + P_l[k_l, k_{l+1}] <= budget``. Without the pairs it is the multiple-choice
knapsack of SMCP (Humble et al. 2022, https://arxiv.org/abs/2211.02206, section 3.3).

For a price of cost the best choices are found by Viterbi's recursion, and the price at which they just fit bounds what any choices can
be worth (Lagrange). What is left between the bound and the best choices found is searched completely: label by label along the chain,
without those that another label dominates and those whose bound is no better than what is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pas.errors import PasError

BISECTIONS = 60


@dataclass(frozen=True)
class Chain:
    """`values` and `costs`: (K_l,) for each layer l; `pairs`: (K_l, K_{l+1}) for each two neighbours, not negative, or None for none."""

    values: tuple[np.ndarray, ...]
    costs: tuple[np.ndarray, ...]
    pairs: tuple[np.ndarray | None, ...]

    @staticmethod
    def of(values: Sequence[np.ndarray], costs: Sequence[np.ndarray], pairs: Sequence[np.ndarray | None] | None = None) -> Chain:
        """The same from lists of anything that numpy takes."""
        worth, own = (tuple(np.asarray(one, dtype=np.float64) for one in many) for many in (values, costs))
        linked = [None if one is None else np.asarray(one, dtype=np.float64) for one in pairs or [None] * (len(worth) - 1)]
        return Chain(worth, own, tuple(linked))

    def value(self, choices: Sequence[int]) -> float:
        """What these choices are worth."""
        return float(sum(value[k] for value, k in zip(self.values, choices, strict=True)))

    def cost(self, choices: Sequence[int]) -> float:
        """What these choices cost."""
        own = sum(cost[k] for cost, k in zip(self.costs, choices, strict=True))
        return float(own + sum(pair[k, n] for pair, k, n in zip(self.pairs, choices, choices[1:], strict=False) if pair is not None))


@dataclass(frozen=True)
class Allocation:
    """Choices, what they are worth and cost, and what no choices within the budget can be worth more than."""

    choices: tuple[int, ...]
    value: float
    cost: float
    bound: float


def viterbi(chain: Chain, price: float) -> tuple[int, ...]:
    """The choices with the largest ``value - price * cost``; of equal ones those with the smaller indices."""
    ahead = _ahead(chain, chain.values, price)
    choices: list[int] = []
    for layer, rest in enumerate(ahead):
        score = chain.values[layer] - price * chain.costs[layer] + rest
        pair = chain.pairs[layer - 1] if layer else None
        choices.append(int(np.argmax(score if pair is None else score - price * pair[choices[-1]])))
    return tuple(choices)


def relaxed(chain: Chain, budget: float) -> tuple[Allocation, float]:
    """The best choices that some price leads to, and the price of the tightest bound.

    Raises PasError when even the cheapest choices cost more than the budget.
    """
    cheapest = viterbi(Chain(tuple(np.zeros_like(v) for v in chain.values), chain.costs, chain.pairs), 1.0)
    if chain.cost(cheapest) > budget:
        raise PasError(f"the cheapest widths cost {chain.cost(cheapest):.6g}, more than the budget of {budget:.6g}")
    best, bound, at = cheapest, np.inf, 0.0
    low, high = 0.0, 1.0

    def tried(price: float) -> float:
        nonlocal best, bound, at
        choices = viterbi(chain, price)
        cost, value = chain.cost(choices), chain.value(choices)
        if value + price * (budget - cost) < bound:
            bound, at = value + price * (budget - cost), price
        if cost <= budget and value > chain.value(best):
            best = choices
        return cost

    if tried(0.0) > budget:
        high = _scale(chain)
        while tried(high) > budget:
            high *= 2
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if tried(middle) > budget else (low, middle)
    return Allocation(best, chain.value(best), chain.cost(best), max(bound, chain.value(best))), at


def exact(chain: Chain, budget: float) -> Allocation:
    """The choices that are worth most within the budget. Raises PasError when even the cheapest choices cost more."""
    start, price = relaxed(chain, budget)
    slack = 1e-9 * max(1.0, abs(start.value))
    if start.bound <= start.value + slack:
        return start
    ahead = _ahead(chain, chain.values, price)  # value - price * cost of what comes
    least = [-rest for rest in _ahead(chain, tuple(np.zeros_like(v) for v in chain.values), 1.0)]  # cost of what comes, at least
    labels = _Labels.first(chain)
    for layer in range(len(chain.values)):
        if layer:
            labels = labels.extended(chain, layer)
        reach = labels.value + price * (budget - labels.cost) + ahead[layer][labels.choice]
        labels = labels.only((reach > start.value + slack) & (labels.cost + least[layer][labels.choice] <= budget))
        labels = labels.undominated(apart=layer < len(chain.pairs) and chain.pairs[layer] is not None)
        if not len(labels.value):
            return Allocation(start.choices, start.value, start.cost, start.value)
    choices = labels.path(int(np.argmax(labels.value)))
    return Allocation(choices, chain.value(choices), chain.cost(choices), chain.value(choices))


def _ahead(chain: Chain, values: tuple[np.ndarray, ...], price: float) -> list[np.ndarray]:
    """For each choice of each layer the largest ``value - price * cost`` of the layers after it, the pair with it included."""
    found = [np.zeros(len(chain.values[-1]))]
    for layer in range(len(values) - 1, 0, -1):
        score = values[layer] - price * chain.costs[layer] + found[0]
        pair = chain.pairs[layer - 1]
        before = len(chain.values[layer - 1])
        found.insert(0, np.full(before, score.max()) if pair is None else (score[None, :] - price * pair).max(1))
    return found


def _scale(chain: Chain) -> float:
    """A price of about what the whole is worth over what it costs."""
    worth = sum(float(np.ptp(value)) for value in chain.values)
    spent = sum(float(np.ptp(cost)) for cost in chain.costs) + sum(float(np.ptp(pair)) for pair in chain.pairs if pair is not None)
    return worth / spent if worth and spent else 1.0


@dataclass(frozen=True)
class _Labels:
    """Beginnings of choices: what they cost and are worth, their last choice, and the label that each goes on from."""

    cost: np.ndarray
    value: np.ndarray
    choice: np.ndarray
    before: _Labels | None
    origin: np.ndarray

    @staticmethod
    def first(chain: Chain) -> _Labels:
        count = len(chain.values[0])
        return _Labels(chain.costs[0], chain.values[0], np.arange(count), None, np.zeros(count, dtype=np.int64))

    def extended(self, chain: Chain, layer: int) -> _Labels:
        """Every label with every choice of the next layer."""
        count, pair = len(chain.values[layer]), chain.pairs[layer - 1]
        cost = self.cost[:, None] + chain.costs[layer] + (0 if pair is None else pair[self.choice])
        value = self.value[:, None] + chain.values[layer]
        choice = np.tile(np.arange(count), len(self.cost))
        return _Labels(cost.ravel(), value.ravel(), choice, self, np.repeat(np.arange(len(self.cost)), count))

    def only(self, which: np.ndarray) -> _Labels:
        return _Labels(self.cost[which], self.value[which], self.choice[which], self.before, self.origin[which])

    def undominated(self, *, apart: bool) -> _Labels:
        """Labels that no other one beats in both cost and value; `apart`: only those of the same choice compete."""
        state = self.choice if apart else np.zeros_like(self.choice)
        order = np.lexsort((-self.value, self.cost, state))
        value, state = self.value[order], state[order]
        starts = np.flatnonzero(np.diff(state, prepend=-1))
        lift = np.repeat(np.arange(len(starts)), np.diff([*starts, len(state)])) * (2 * np.abs(value).max(initial=0) + 1)
        so_far = np.maximum.accumulate(value + lift)  # each state's values lie above those of the states before it
        better = np.ones(len(order), dtype=bool)
        better[1:] = (value + lift)[1:] > so_far[:-1]
        return self.only(order[better])

    def path(self, label: int) -> tuple[int, ...]:
        """The choices of a label."""
        found: list[int] = []
        labels: _Labels | None = self
        while labels is not None:
            found.append(int(labels.choice[label]))
            label, labels = int(labels.origin[label]), labels.before
        return tuple(reversed(found))
