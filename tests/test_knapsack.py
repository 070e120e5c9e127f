"""The knapsacks of SMCP and HALP, held against scipy's solver and against trying everything; what goes into them, by hand."""

from __future__ import annotations

import itertools
import math
import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from test_latency_cost import made_up
from torch import nn

import pas
from pas import models
from pas.allocate.knapsack import multiple_choice, prefix
from pas.allocate.landing import Widths
from pas.allocate.linear import linearised, options
from pas.allocate.ramp import RAMPS, moments
from pas.budget import Limit, Limits
from pas.cost.latency import build
from pas.cost.macs import build as count

Classes = tuple[list[np.ndarray], list[np.ndarray]]


def oracle(values: list[np.ndarray], costs: list[np.ndarray], capacity: float) -> float:
    """One binary an option, of which each class has exactly one."""
    owner = np.repeat(np.arange(len(values)), [len(v) for v in values])
    one_each = LinearConstraint((owner == np.arange(len(values))[:, None]).astype(float), 1, 1)
    fits = LinearConstraint(np.concatenate(costs)[None], -np.inf, capacity)
    gain = np.concatenate(values)
    found = milp(-gain, constraints=[one_each, fits], integrality=np.ones(len(gain)), bounds=Bounds(0, 1), options={"mip_rel_gap": 0})
    assert found.success
    return -float(found.fun)


def instance(rng: np.random.Generator, classes: int, options: int, kind: str) -> Classes:
    """`whole`: values and costs are whole numbers, unordered, also negative. `layers`: cumulative and concave, as widths are. `alike`:
    value and cost nearly proportional, where prices tell options badly apart."""
    sizes = rng.integers(1, options + 1, classes)
    if kind == "whole":
        return [rng.integers(-5, 30, n).astype(float) for n in sizes], [rng.integers(-3, 30, n).astype(float) for n in sizes]
    costs = [np.cumsum(rng.uniform(0.5, 1.5, n)) * rng.uniform(0.2, 2) for n in sizes]
    if kind == "alike":
        return [np.round(cost * 8) + rng.integers(0, 2, len(cost)) for cost in costs], [np.round(cost * 8) for cost in costs]
    return [np.cumsum(np.sort(rng.exponential(size=n))[::-1]) * rng.uniform(0.1, 3) for n in sizes], costs


@pytest.mark.parametrize("kind", ["whole", "layers", "alike"])
def test_the_multiple_choice_knapsack_is_what_the_oracle_finds(kind: str) -> None:
    """Equal in value: of whole numbers exactly. The choices hold the capacity."""
    rng = np.random.default_rng(1)
    for _ in range(150):
        values, costs = instance(rng, int(rng.integers(1, 8)), 7, kind)
        low, high = (sum(float(f(cost)) for cost in costs) for f in (np.min, np.max))
        capacity = low + rng.uniform(0, 1.05) * (high - low)
        capacity = capacity if kind == "layers" else math.floor(capacity)
        found, best = multiple_choice(values, costs, capacity), oracle(values, costs, capacity)
        assert found.value == pytest.approx(best, rel=1e-9, abs=0 if best else 1e-9)
        assert found.value == pytest.approx(sum(v[k] for v, k in zip(values, found.choices, strict=True)))
        assert sum(c[k] for c, k in zip(costs, found.choices, strict=True)) == pytest.approx(found.cost)
        assert found.cost <= capacity + 1e-12 * abs(capacity)
        assert found.bound >= best - 1e-9 * abs(best)


def test_thinned_sums_lose_no_more_than_they_say() -> None:
    """With one to three sums a merge; some of these are not the best, and none is further away than its bound."""
    rng = np.random.default_rng(2)
    missed = 0
    for _ in range(100):
        values, costs = instance(rng, int(rng.integers(3, 8)), 8, "alike")
        capacity = float(rng.uniform(1, 1.5)) * sum(float(cost.min()) for cost in costs) + 5
        found, best = multiple_choice(values, costs, capacity, most=int(rng.integers(1, 4))), oracle(values, costs, capacity)
        assert found.value <= best + 1e-9 <= found.bound + 2e-9
        missed += found.value < best - 1e-9
    assert missed > 0


def test_a_knapsack_by_hand() -> None:
    """Options worth 1, 5 and 6 at a cost of 1, 2 and 4, twice. Of 5 the best is 5 + 1 + ... : 2 + 2 for 10; of 6, 6 + 5 for 11."""
    values, costs = [np.array([1.0, 5.0, 6.0])] * 2, [np.array([1.0, 2.0, 4.0])] * 2
    assert (multiple_choice(values, costs, 5).value, multiple_choice(values, costs, 5).choices) == (10, (1, 1))
    assert sorted(multiple_choice(values, costs, 6).choices) == [1, 2]
    assert multiple_choice(values, costs, 3).value == 6
    with pytest.raises(pas.PasError, match="the cheapest widths cost 2"):
        multiple_choice(values, costs, 1.9)


def test_thirty_classes_of_64_options() -> None:
    rng = np.random.default_rng(0)
    values = [np.cumsum(np.sort(rng.exponential(size=64))[::-1]) for _ in range(30)]
    costs = [np.arange(1, 65) * rng.uniform(0.5, 2) * np.cumsum(rng.uniform(0.97, 1.03, 64)) for _ in range(30)]
    for share in (0.2, 0.5, 0.8):
        began = time.perf_counter()
        found = multiple_choice(values, costs, share * sum(cost[-1] for cost in costs))
        taken = time.perf_counter() - began
        assert found.bound - found.value <= 1e-9 * found.value
        assert taken < 5  # a tenth of a second on an idle core
        print(f"{taken:.3f} s")


# -- HALP's


def recursion(values: list[np.ndarray], weights: list[np.ndarray], capacity: int) -> tuple[int, ...]:
    """The definition in plain numbers, state by state: the best value and the groups that it took."""
    items = [(layer, i) for layer, value in enumerate(values) for i in range(len(value))]
    made = sum(int(-w[w < 0].sum()) for w in weights)

    def state(number: int, c: int) -> tuple[float, frozenset[tuple[int, int]]]:
        if number < 0:
            return 0.0 if c >= 0 else -math.inf, frozenset()
        if (number, c) not in known:
            layer, i = items[number]
            best = state(number - 1, c)
            at = min(c - int(weights[layer][i]), capacity + made)
            if at >= -made:
                value, taken = state(number - 1, at)
                if (i == 0 or (layer, i - 1) in taken) and value + values[layer][i] > best[0]:
                    best = value + float(values[layer][i]), taken | {(layer, i)}
            known[number, c] = best
        return known[number, c]

    known: dict[tuple[int, int], tuple[float, frozenset[tuple[int, int]]]] = {}
    taken = state(len(items) - 1, capacity)[1]
    return tuple(sum(1 for layer, _ in taken if layer == number) for number in range(len(values)))


def worth(values: list[np.ndarray], counts: tuple[int, ...]) -> float:
    return sum(float(value[:n].sum()) for value, n in zip(values, counts, strict=True))


@pytest.mark.parametrize("negative", [False, True])
def test_the_prefix_knapsack_is_its_definition(negative: bool) -> None:
    """On random groups; it takes the first ones of each layer and holds the capacity, and is never better than trying all counts."""
    rng = np.random.default_rng(3)
    reached = 0
    for _ in range(150):
        sizes = rng.integers(1, 6, int(rng.integers(1, 5)))
        values = [rng.exponential(size=n) for n in sizes]
        weights = [rng.integers(-4 if negative else 0, 10, n) for n in sizes]
        capacity = int(rng.integers(0, 30))
        found = prefix(values, weights, capacity)
        assert found == recursion(values, weights, capacity)
        assert sum(int(w[:n].sum()) for w, n in zip(weights, found, strict=True)) <= capacity
        every = itertools.product(*(range(n + 1) for n in sizes))
        fits = (c for c in every if sum(int(w[:n].sum()) for w, n in zip(weights, c, strict=True)) <= capacity)
        best = max(worth(values, c) for c in fits)
        assert worth(values, found) <= best + 1e-9
        reached += worth(values, found) > best - 1e-9
    assert 75 < reached < 150  # greedy: not always


def test_of_equal_steps_the_prefix_knapsack_is_the_best() -> None:
    """Where the groups of a layer cost the same and the more important ones come first, what would be best without the rule obeys it."""
    rng = np.random.default_rng(4)
    for _ in range(100):
        sizes = rng.integers(1, 6, int(rng.integers(1, 5)))
        values = [np.sort(rng.exponential(size=n))[::-1] for n in sizes]
        weights = [np.full(n, int(rng.integers(1, 8))) for n in sizes]
        capacity = int(rng.integers(0, 40))
        classes = [np.concatenate([[0.0], np.cumsum(v)]) for v in values], [np.concatenate([[0.0], np.cumsum(w)]) for w in weights]
        assert worth(values, prefix(values, weights, capacity)) == pytest.approx(oracle(*classes, capacity))


def test_a_group_that_saves_makes_room() -> None:
    """Groups of 1 and -3, then one of 4: all weigh 2, the first two -2."""
    values, weights = [np.array([1.0, 0.5]), np.array([2.0])], [np.array([1, -3]), np.array([4])]
    assert prefix(values, weights, 2) == (2, 1)
    assert prefix(values, weights, 1) == (2, 0)
    assert prefix(values, weights, -2) == (2, 0)
    assert prefix(values, weights, -3) == (0, 0)  # more than can be saved


# -- what goes into them


def chain(*widths: int) -> tuple[nn.Module, torch.Tensor]:
    """1x1 convolutions on one pixel: the multiply-adds are the products of neighbouring widths."""
    return nn.Sequential(*(nn.Conv2d(a, b, 1, bias=False) for a, b in pairwise(widths))), torch.zeros(1, widths[0], 1, 1)


def problem_of(model: nn.Module, example: torch.Tensor, target: float) -> tuple[Widths, Limits]:
    signature = pas.signature(model, example)
    axes = signature.prunable
    cost = count(signature, "macs")
    dense = cost.at(np.ones(signature.channels, dtype=bool))
    return Widths(axes, (1,) * len(axes), 1, signature.channels), Limits((Limit("macs", cost, dense, target, False),))


def test_linear_costs_by_hand() -> None:
    """3 -> a -> b -> 2 channels cost 3a + ab + 2b, at a = 3 (of 4) and b = 2. The stem and the last layer concern one axis only.

    SMCP's view: the layer between counts where it is read, so a costs 3a + 2a = 5a and b costs 2b. HALP's: a costs 3a, b costs 2b + 3b.
    A half of each: 4a and 3.5b. The exact difference: 5a and 5b.
    """
    model, example = chain(3, 4, 2, 2)
    widths, limits = problem_of(model, example, target=1.0)
    mask = np.ones(widths.channels, dtype=bool)
    mask[widths.axes[0].start] = False  # three of four
    a, b = np.arange(1, 5) - 3, np.arange(1, 3) - 2
    for reads, makes, of_a, of_b in ((1, 0, 5, 2), (0, 1, 3, 5), (0.5, 0.5, 4, 3.5), (1, 1, 5, 5)):
        first, second = linearised(limits, widths, options(widths), mask, reads=reads, makes=makes)
        assert first == pytest.approx(of_a * a)
        assert second == pytest.approx(of_b * b)


def test_of_long_ladders_64_widths_are_options() -> None:
    """Of 1 to 400 in steps of 1: first and last, at distances of 6 or 7 (399 / 63 = 6.3); a short ladder is taken whole."""
    model, example = chain(3, 400, 5, 2)
    widths, _ = problem_of(model, example, target=1.0)
    many, few = options(widths)
    assert (len(many), many[0], many[-1], set(np.diff(many))) == (64, 1, 400, {6, 7})
    assert few.tolist() == [1, 2, 3, 4, 5]


def test_what_reads_and_makes_one_axis_is_its_own() -> None:
    """A depth-wise layer of 3x3 on one pixel costs 9a, and is all the axis's own: 3a + 9a in both views."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False))
    model.append(nn.Conv2d(4, 5, 1, bias=False)).append(nn.Conv2d(5, 1, 1, bias=False))
    widths, limits = problem_of(model, torch.zeros(1, 3, 1, 1), target=2.0)
    mask = np.ones(widths.channels, dtype=bool)
    for reads, makes, slope in ((1, 0, 3 + 9 + 5), (0, 1, 3 + 9)):
        first, _ = linearised(limits, widths, options(widths), mask, reads=reads, makes=makes)
        assert first == pytest.approx(slope / 2 * (np.arange(1, 5) - 4))


@pytest.mark.parametrize("name", ["repvgg_nano", "cifar_resnet20"])
def test_the_exact_view_is_a_steps_difference(name: str) -> None:
    """Of multiply-adds and of a latency, whichever is tighter."""
    model = models.create(name, num_classes=10, in_chans=3).eval()
    signature = pas.signature(model, torch.zeros(1, 3, 32, 32))
    axes = signature.prunable
    widths = Widths(axes, (1,) * len(axes), 4, signature.channels)
    rng = np.random.default_rng(0)
    mask = np.ones(signature.channels, dtype=bool)
    for axis in axes:
        mask[axis.start : axis.start + axis.size] = rng.permutation(axis.size) < max(4, axis.size // 2)
    whole = np.ones(signature.channels, dtype=bool)
    made = (("macs", count(signature, "macs")), ("latency", build(signature, made_up(signature))))
    both = [Limit(kind, cost, cost.at(whole), 0.5 * cost.at(whole), True) for kind, cost in made]
    loads = [limit.cost.at(mask) / limit.target for limit in both]
    assert loads[0] < loads[1]
    for limits, cost in ((Limits((both[0],)), both[0]), (Limits(tuple(both)), both[1])):
        found = linearised(limits, widths, options(widths), mask, reads=1.0, makes=1.0)
        for a in rng.choice(len(axes), 4, replace=False):
            k = int(rng.integers(len(found[a])))
            other = mask.copy()
            part = other[axes[a].start : axes[a].start + axes[a].size]
            part[:] = np.arange(axes[a].size) < options(widths)[a][k]
            assert found[a][k] == pytest.approx((cost.cost.at(other) - cost.cost.at(mask)) / cost.target, abs=1e-9)
        views = [linearised(limits, widths, options(widths), mask, reads=r, makes=1.0 - r) for r in (0.0, 0.25, 1.0)]
        for makes, mixed, reads in zip(*views, strict=True):
            assert mixed == pytest.approx(0.75 * makes + 0.25 * reads)


# -- how the budget tightens


def test_ramps_by_hand() -> None:
    """From a load of 4 to 1. Half way: linear 2.5, geometric 2, exponential 4 - 3 (1 - e^-1.375) / (1 - e^-2.75)."""
    assert RAMPS["linear"](4.0, 0.5) == pytest.approx(2.5)
    assert RAMPS["exp2"](4.0, 0.5) == pytest.approx(2.0)
    assert RAMPS["exp"](4.0, 0.5) == pytest.approx(4 - 3 * (1 - math.exp(-1.375)) / (1 - math.exp(-2.75)))
    for ramp in RAMPS.values():
        assert (ramp(4.0, 0.0), ramp(4.0, 1.0)) == pytest.approx((4.0, 1.0))
        assert ramp(0.5, 1.0) == pytest.approx(1.0)
        falling = [ramp(4.0, t / 10) for t in range(11)]
        assert all(later < before for before, later in pairwise(falling))


def test_moments() -> None:
    assert moments(10, 20, 4) == {15: 0.25, 20: 0.5, 25: 0.75, 30: 1.0}
    crowded = moments(0, 2, 30)  # 22.5 of 30 intervals end before a step and a half: 22 fall on the first
    assert crowded == {1: 22 / 30, 2: 1.0}
