"""A latency budget holds as measured: the prediction is corrected by what networks really take."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_latency_cost import made_up, network

from pas.allocate.landing import Widths, land
from pas.allocate.snapping import steps
from pas.amount import BAND
from pas.axes.signature import Signature
from pas.budget import Limit, Limits
from pas.cost.latency import NANOSECONDS, Calibration, Latency, build
from pas.cost.measure import Ratio
from pas.errors import PasError
from pas.timing import MARGIN
from pas.verify import Verified, latency_of, latency_state, slower, verify, with_latency_state


def case(share: float, *, relative: bool = True) -> tuple[Signature, Latency, Limits, Widths, np.ndarray]:
    """A MobileNetV2 whose predicted latency is limited to a share of the dense one, and random scores."""
    _, signature = network("mobilenetv2_mini")
    cost = build(signature, made_up(signature))
    dense = cost.at(np.ones(signature.channels, dtype=bool))
    widths = Widths(signature.prunable, (1,) * len(signature.prunable), 4, signature.channels)
    scores = np.random.default_rng(0).random(signature.channels)
    return signature, cost, slower(Limits((Limit("latency", cost, dense, share * dense, relative),)), MARGIN), widths, scores


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
@pytest.mark.parametrize(("scale", "offset_ms"), [(1.0, 0.0), (1.4, 0.0), (0.7, 0.02), (1.0, 0.06)])
def test_a_wrong_prediction_is_corrected(share: float, scale: float, offset_ms: float) -> None:
    """A device that is slower or faster than the table says, and one on which every network takes a fixed time more."""
    signature, cost, limits, widths, scores = case(share)
    true = cost.calibrated(Calibration(scale, offset_ms))
    everything = np.ones(signature.channels, dtype=bool)

    def measure(mask: np.ndarray) -> tuple[Ratio, float]:
        found = true.at(mask) / true.at(everything)
        return Ratio(found, found * 0.99, found * 1.01), true.at(everything) / NANOSECONDS

    corrected, found = verify(limits, lambda now: land(widths, scores, now.load), measure)
    assert (1 - BAND) * share <= true.at(found.mask) / true.at(everything) <= share
    assert np.array_equal(land(widths, scores, corrected.load), found.mask)  # what an export lands on from now on


def test_milliseconds_are_a_share_of_what_the_dense_network_takes_now() -> None:
    """Calibrated when the machine was twice as fast: the target of half the dense latency then is a quarter of it now."""
    signature, cost, limits, widths, scores = case(0.5, relative=False)
    everything = np.ones(signature.channels, dtype=bool)
    dense_ms = cost.at(everything) / NANOSECONDS

    def measure(mask: np.ndarray) -> tuple[Ratio, float]:
        share = cost.at(mask) / cost.at(everything)
        return Ratio(share, share, share), 2 * dense_ms

    _, found = verify(limits, lambda now: land(widths, scores, now.load), measure)
    assert found.target == pytest.approx(0.25, rel=1e-6)
    assert 0.97 * 0.25 <= found.share.median <= 0.25


def test_coarse_steps_give_the_best_below() -> None:
    """Only three masks, of which two are too slow: the third, though it lies far below."""
    _, cost, limits, _, _ = case(0.5)
    shares = iter([0.7, 0.6, 0.35])
    masks = iter(np.eye(3, dtype=bool))

    def measure(mask: np.ndarray) -> tuple[Ratio, float]:
        share = next(shares)
        return Ratio(share, share, share), 1.0

    fake = replace(latency_of(limits), cost=cost)
    last = np.array([False, False, True])

    class Any(Latency):
        def at(self, mask: np.ndarray) -> int:
            return 1000

    cheap = Any(**vars(fake.cost))
    _, found = verify(Limits((replace(fake, cost=cheap, dense=2000, target=1000.0),)), lambda now: next(masks, last), measure)
    assert found.share.median == 0.35
    assert not found.holds


def test_what_is_too_slow_at_its_smallest_is_refused() -> None:
    """No network below 0.6: the smallest share that was measured is named."""
    signature, cost, limits, widths, scores = case(0.5)
    everything = np.ones(signature.channels, dtype=bool)

    def measure(mask: np.ndarray) -> tuple[Ratio, float]:
        share = 0.6 + 0.4 * cost.at(mask) / cost.at(everything)
        return Ratio(share, share - 0.01, share + 0.01), 1.0

    with pytest.raises(PasError, match=r"the fastest takes 0.6\d+ \(0.\d+ to 0.\d+\) of the dense latency as measured, above the 0.5000"):
        verify(limits, lambda now: land(widths, scores, now.load), measure)
    assert verify(limits, lambda now: land(widths, scores, now.load), measure, strict=False)[1].share.median > 0.6


def test_ranks() -> None:
    """Below the target, above it within the noise, above it; then the nearest."""
    made = lambda share, low: Verified(np.ones(1, dtype=bool), Ratio(share, low, share), 1.0, 0.5, share)  # noqa: E731
    listed = [made(0.49, 0.4), made(0.3, 0.3), made(0.501, 0.495), made(0.502, 0.501)]
    assert all(one.rank < other.rank for one, other in itertools.pairwise(listed))


def test_what_was_found_comes_back() -> None:
    _, _, limits, _, _ = case(0.5)
    found = Verified(np.ones(3, dtype=bool), Ratio(0.49, 0.48, 0.5), 8.25, 0.5, 0.51)
    again = Verified.of(found.mask, json.loads(json.dumps(found.as_dict())))
    assert (again.share, again.dense_ms, again.target, again.predicted) == (found.share, found.dense_ms, found.target, found.predicted)
    changed = slower(limits, 1.25)
    back = with_latency_state(limits, json.loads(json.dumps(latency_state(changed))))
    mask = np.random.default_rng(0).random(len(torch.ones(limits.each[0].cost.counts.elements.max() + 1))) < 0.5
    mask[0] = True
    assert latency_of(back).cost.at(mask) == latency_of(changed).cost.at(mask)


def test_steps_of_a_runtime_with_blocks() -> None:
    """Blocks of 16: widths are multiples of 16, or whole. An axis of one block can't save anything and stays whole."""
    signature = case(0.5)[0]
    widths = Widths(signature.prunable, (1,) * len(signature.prunable), 1, signature.channels)
    found = steps(widths, build(signature, made_up(signature), block=16))
    for axis, rungs in zip(widths.axes, found, strict=True):
        assert rungs == (*range(16, axis.size, 16), axis.size), axis.name
    snapped = replace(widths, snapped=found, step=32)  # and both together
    assert snapped.ladder(1) == [32, 64, 96]
    everything = steps(widths, build(signature, made_up(signature)))
    for axis, rungs in zip(widths.axes, everything, strict=True):  # but for axes that save less than a thousandth
        assert rungs == tuple(range(rungs[0], axis.size + 1))  # from the first point of the table on
    assert sum(len(rungs) > 1 for rungs in everything) > len(everything) / 2
