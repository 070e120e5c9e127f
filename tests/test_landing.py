"""Landing in the band: against every architecture of small networks."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

import pas
from pas.allocate.landing import FEW, SLACK, Widths, land, ranked
from pas.allocate.uniform import uniform
from pas.amount import parse, parse_time
from pas.budget import Budget, limits

pytestmark = pytest.mark.no_cover  # thousands of small steps: counting lines would take longer than running them


def chain(widths: list[int]) -> pas.search.Signature:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise([3, *widths]):
        layers += [nn.Conv2d(a, b, 3, padding=1), nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 4))
    return pas.signature(net, torch.zeros(1, 3, 4, 4))


def setup(widths: list[int], share: float, least: int = 1, step: int = 1) -> tuple:
    signature = chain(widths)
    axes = signature.prunable
    legal = Widths(axes, tuple(min(least, a.size) for a in axes), step, signature.channels)
    lowest = legal.mask([np.arange(a.size) for a in axes], [legal.ladder(a)[0] for a in range(len(axes))])
    return signature, legal, limits(Budget(macs=share), signature, lowest)


def in_band(signature: pas.search.Signature, legal: Widths, found, mask: np.ndarray) -> bool:
    """Never above; below by at most 1 % or the cheapest single step, up or down, at these widths."""
    limit = found.each[0]
    cost = limit.cost.at(mask)
    if cost > limit.target:
        return False
    architecture = signature.architecture(mask)
    steps = []
    for a, axis in enumerate(legal.axes):
        width, ladder = len(architecture.kept[axis.name]), legal.ladder(a)
        for other in (w for w in ladder if abs(ladder.index(w) - ladder.index(width)) == 1):
            steps.append(abs(limit.cost.at(signature.mask(architecture.keep(axis.name, range(other)))) - cost))
    return limit.target - cost <= max(SLACK * limit.target, min(steps))


def nearest(legal: Widths, found) -> float:
    """The oracle: the largest cost within the target among all architectures, over the target."""
    order = [np.arange(axis.size) for axis in legal.axes]
    loads = (found.load(legal.mask(order, list(widths))) for widths in itertools.product(*map(legal.ladder, range(len(legal.axes)))))
    return max(load for load in loads if load <= 1)


@example(widths=[5, 9, 33, 18, 13], share=0.5, seed=0, step=4)  # one axis alone never lands
@example(widths=[5, 9, 33, 17, 13], share=0.9375, seed=0, step=4)  # once missed
@settings(max_examples=60, deadline=None)
@given(
    widths=st.lists(st.integers(4, 40), min_size=2, max_size=5),
    share=st.floats(0.1, 1.0),
    seed=st.integers(0, 1000),
    step=st.sampled_from([1, 1, 4]),
)
def test_lands_in_the_band(widths: list[int], share: float, seed: int, step: int) -> None:
    try:
        signature, legal, found = setup(widths, share, 1, step)
    except pas.PasError:
        return  # smaller than the minimum widths: refused
    scores = np.random.default_rng(seed).random(signature.channels)
    for allocate in (land, uniform):
        mask = allocate(legal, scores, found.load)
        assert found.load(mask) <= 1
        few = np.prod([len(legal.ladder(a)) for a in range(len(legal.axes))]) <= FEW
        # with a handful of channels, or coarse steps, nothing may lie in the band: then nothing lies nearer either
        assert in_band(signature, legal, found, mask) or (few and found.load(mask) == nearest(legal, found))
        for a, width in enumerate(signature.architecture(mask).widths().values()):
            assert width in legal.ladder(a)


def test_keeps_the_highest_scores() -> None:
    signature, legal, found = setup([16, 16], 0.5)
    scores = np.random.default_rng(0).random(signature.channels)
    mask = land(legal, scores, found.load)
    for axis in legal.axes:
        inside = slice(axis.start, axis.start + axis.size)
        assert scores[inside][mask[inside]].min() > scores[inside][~mask[inside]].max()


@pytest.mark.parametrize("share", [0.4, 0.55, 0.7])
def test_exchanges_lose_the_least_worth_whatever_the_scores_are_measured_in(share: float) -> None:
    """Scores are an order: moved or stretched, they lead to the same widths. With so few widths every one is tried, and of those in the
    band none keeps more of the worth.
    """
    signature, legal, found = setup([16, 24, 20, 28, 12], share, step=4)
    worth = np.random.default_rng(0).gamma(0.5, size=signature.channels)
    scores = np.log(worth)
    first, by_rank = land(legal, scores, found.load, worth), land(legal, scores, found.load)
    for other in (scores - 100, scores + 100, 7 * scores, worth):
        assert (land(legal, other, found.load, worth) == first).all()
        assert (land(legal, other, found.load) == by_rank).all()
    order = ranked(legal.axes, scores)
    states = [legal.mask(order, list(widths)) for widths in itertools.product(*map(legal.ladder, range(len(legal.axes))))]
    inside = [mask for mask in states if 1 - SLACK <= found.load(mask) <= 1]
    assert any((mask == first).all() for mask in inside)
    assert worth[first].sum() == pytest.approx(max(worth[mask].sum() for mask in inside))


def test_a_full_budget_keeps_everything() -> None:
    signature, legal, found = setup([16, 16], 1.0)
    assert land(legal, np.random.default_rng(0).random(signature.channels), found.load).all()


def test_round_to_and_min_width() -> None:
    signature, legal, found = setup([37, 24], 0.3, least=8, step=8)
    mask = land(legal, np.random.default_rng(0).random(signature.channels), found.load)
    widths = signature.architecture(mask).widths()
    assert all(width % 8 == 0 or width == size for width, size in zip(widths.values(), [37, 24], strict=True))
    assert min(widths.values()) >= 8


def test_uniform_widths_by_hand() -> None:
    """Chain 3 -> 10 -> 10 of 3x3 convolutions on 4x4: half of each width costs (3*5 + 5*5) * 144 + 5 * 4 = 5780."""
    signature, legal, _ = setup([10, 10], 0.5)
    architecture = signature.dense().keep("0", range(5)).keep("2", range(5))
    assert pas.cost.macs(signature, architecture) == 5780
    mask = uniform(
        legal,
        np.zeros(signature.channels),
        limits(Budget(macs=5780), signature, ~np.ones(signature.channels, bool)).load,
    )
    assert list(signature.architecture(mask).widths().values()) == [5, 5]


def test_unreachable_budgets_name_the_smallest() -> None:
    """One channel everywhere: (3*1 + 1*1) * 144 + 1 * 4 = 580 multiply-adds, of which 3 * 144, 74 %, read the image."""
    with pytest.raises(pas.PasError, match="smallest possible is 580 ") as refusal:
        setup([10, 10], 0.01)
    assert "with 74% of it (it is an input of the network)" in str(refusal.value)
    share = float(re.search(r"\(([0-9.]+) of the dense", str(refusal.value))[1])
    assert share == pytest.approx(580 / (130 * 144 + 40), abs=1e-4)
    for enough in (580, share):  # what is named is accepted
        setup([10, 10], enough)


@pytest.mark.parametrize(
    ("amount", "value"),
    [(0.5, 0.5), ("300 M", 3e8), ("2.1G", 2.1e9), ("12e3 macs", 12e3), (7, 7.0), ("0.5", 0.5), ("50 %", 0.5), ("100%", 1.0)],
)
def test_amounts(amount: float | str, value: float) -> None:
    assert parse(amount) == value


@pytest.mark.parametrize(
    ("amount", "value"),
    [(0.5, 0.5), (1, 1.0), ("0.5", 0.5), ("50 %", 0.5), (8, 8e6), (8.5, 8.5e6), ("8 ms", 8e6), ("8ms", 8e6), ("0.5 ms", 5e5),
     ("500 us", 5e5), ("500 µs", 5e5), ("0.01 s", 1e7), ("5 ns", 5.0), ("1e3 us", 1e6)],
)  # fmt: skip
def test_times(amount: float | str, value: float) -> None:
    """Shares, or nanoseconds."""
    assert parse_time(amount) == pytest.approx(value)
    Budget(latency=amount)


@pytest.mark.parametrize("amount", [0, -1, "soon", "8 M", "8 min", float("nan"), float("inf"), True, "", "0", "0 %", "101 %", "0 ms"])
def test_bad_times_are_refused(amount: object) -> None:
    with pytest.raises(pas.PasError, match=r"must be a share in .* milliseconds above 1, or text with a unit like"):
        Budget(latency=amount)


@pytest.mark.parametrize("amount", [0, -1, "many", "5 parsecs", float("nan"), float("inf"), True, "", "0", 1.5, "0 %", "101 %", "5 k %"])
def test_bad_amounts_are_refused(amount: object) -> None:
    with pytest.raises(pas.PasError, match=r"budget\.macs"):
        Budget(macs=amount)
