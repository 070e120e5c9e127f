"""Exact allocators, held against scipy's solver of mixed-integer programs."""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

import pas
from pas.allocate.chain import Chain, exact, relaxed, viterbi


def oracle(chain: Chain, budget: float) -> float:
    """What the best choices are worth: one binary a choice and one a pair of neighbouring choices, whose sums are the choices."""
    sizes = [len(value) for value in chain.values]
    starts = np.cumsum([0, *sizes])
    gain, spent = list(np.concatenate(chain.values)), list(np.concatenate(chain.costs))
    rows, columns, ones, equals = [], [], [], []
    for layer, size in enumerate(sizes):
        rows += [len(equals)] * size
        columns += list(range(starts[layer], starts[layer] + size))
        ones += [1.0] * size
        equals.append(1.0)
    for layer, pair in enumerate(chain.pairs):
        if pair is None:
            continue
        first = len(gain)
        gain += [0.0] * pair.size
        spent += list(pair.ravel())
        for axis, at in ((0, layer), (1, layer + 1)):
            for k in range(pair.shape[axis]):
                inside = [first + int(i) for i in (np.arange(pair.size).reshape(pair.shape).take(k, axis=axis))]
                rows += [len(equals)] * (len(inside) + 1)
                columns += [*inside, int(starts[at] + k)]
                ones += [*[1.0] * len(inside), -1.0]
                equals.append(0.0)
    matrix = coo_array((ones, (rows, columns)), shape=(len(equals), len(gain)))
    limits = [LinearConstraint(matrix, equals, equals), LinearConstraint(np.array(spent)[None], -np.inf, budget)]
    found = milp(-np.array(gain), constraints=limits, integrality=np.ones(len(gain)), bounds=Bounds(0, 1), options={"mip_rel_gap": 0})
    assert found.success
    return -float(found.fun)


def instance(rng: np.random.Generator, layers: int, widths: int, *, pairs: bool) -> Chain:
    """Concave values; a layer costs the product of its width and that of the one before, unevenly, as measured times are."""
    counts = [int(rng.integers(2, widths + 1)) for _ in range(layers)]
    values = [np.cumsum(np.sort(rng.random(n))[::-1]) * rng.uniform(0.5, 2) for n in counts]
    costs = [np.arange(1, n + 1) * rng.uniform(0.2, 2) for n in counts]
    links = [
        np.outer(np.arange(1, a + 1), np.arange(1, b + 1)) * rng.uniform(0.1, 1) * rng.uniform(0.8, 1.2, (a, b)) if pairs else None
        for a, b in pairwise(counts)
    ]
    return Chain.of(values, costs, links)


@pytest.mark.parametrize("pairs", [True, False], ids=["chain", "multiple-choice knapsack"])
def test_exact_is_what_the_oracle_finds(pairs: bool) -> None:
    rng = np.random.default_rng(0)
    for _ in range(150):
        chain = instance(rng, int(rng.integers(1, 6)), 5, pairs=pairs)
        cheapest = chain.cost(viterbi(Chain(tuple(np.zeros_like(v) for v in chain.values), chain.costs, chain.pairs), 1.0))
        dense = chain.cost([len(value) - 1 for value in chain.values])
        budget = cheapest + rng.uniform(0, 1) * max(0.0, dense - cheapest)
        found, (near, _) = exact(chain, budget), relaxed(chain, budget)
        best = oracle(chain, budget)
        assert found.value == pytest.approx(best, abs=1e-6)
        assert found.cost <= budget + 1e-9
        assert chain.value(found.choices) == found.value
        assert near.value <= best + 1e-6 <= near.bound + 2e-6


def test_of_equal_layers_each_gets_its_share() -> None:
    """Two layers of widths 1 and 2, worth 3 and 4, that cost 1 and 2: of a budget of 3 one of them gets 2, and all is worth 7."""
    chain = Chain.of([[3, 4], [3, 4]], [[1, 2], [1, 2]])
    found = exact(chain, 3)
    assert sorted(found.choices) == [0, 1]
    assert (found.value, found.cost) == (7, 3)
    assert exact(chain, 2).value == 6
    assert exact(chain, 9).choices == (1, 1)


def test_where_prices_mislead_the_rest_is_searched() -> None:
    """One layer whose middle width lies below the line between the others: no price chooses it, the budget does."""
    chain = Chain.of([[0, 1, 10]], [[0, 5, 10]])
    near, _ = relaxed(chain, 6)
    assert (near.value, exact(chain, 6).value) == (0, 1)
    assert near.bound == pytest.approx(6)  # 10 * 6 / 10


def test_less_than_the_cheapest_is_refused() -> None:
    with pytest.raises(pas.PasError, match="the cheapest widths cost 2, more than the budget of 1"):
        exact(Chain.of([[1, 2], [1, 2]], [[1, 2], [1, 2]]), 1)


def test_thirty_layers_of_64_widths() -> None:
    rng = np.random.default_rng(0)
    widths = np.arange(1, 65)
    values = [np.cumsum(np.sort(rng.random(64))[::-1]) for _ in range(30)]
    links = [np.outer(widths, widths) * rng.uniform(0.5, 2) * rng.uniform(0.97, 1.03, (64, 64)) for _ in range(29)]
    chain = Chain.of(values, [widths * 1.0] * 30, links)
    budget = 0.5 * chain.cost([63] * 30)
    began = time.perf_counter()
    found = exact(chain, budget)
    taken = time.perf_counter() - began
    near, _ = relaxed(chain, budget)
    assert near.value <= found.value <= near.bound
    assert found.cost <= budget
    print(f"{taken:.2f} s, gap of the relaxation {1 - near.value / found.value:.2e}")
