"""A latency budget holds when it is measured: the prediction is corrected by what the landed network takes, until it does."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from pas.amount import BAND
from pas.budget import Limit, Limits
from pas.cost.latency import Calibration, Latency
from pas.cost.measure import Ratio
from pas.errors import PasError
from pas.timing import MARGIN

ROUNDS = 8

Land = Callable[[Limits], np.ndarray]
"""The channels that stay under some limits, booleans (C,)."""
Measure = Callable[[np.ndarray], tuple[Ratio, float]]
"""Of these channels: the latency over that of the dense network, both measured in one process, and the dense one in ms."""


@dataclass(frozen=True)
class Verified:
    """What was measured of the channels that stay: `share` of the latency of the dense network, which took `dense_ms`; `target` as such a
    share. `predicted`: what had been expected.
    """

    mask: np.ndarray
    share: Ratio
    dense_ms: float
    target: float
    predicted: float

    @property
    def holds(self) -> bool:
        """Whether the network lies in the band, and not on its upper edge."""
        return (1 - BAND) * self.target <= self.share.median <= self.target / math.sqrt(MARGIN)

    @property
    def rank(self) -> tuple[int, float]:
        """Of several the first by this is best: below the target, above it within the noise, above it; then the nearest to it."""
        above = 0 if self.share.median <= self.target else 1 if self.share.low <= self.target else 2
        return above, abs(self.target - self.share.median)

    def as_dict(self) -> dict[str, Any]:
        """All but the channels."""
        share = {"share": self.share.median, "share_low": self.share.low, "share_high": self.share.high}
        return {**share, "share_target": self.target, "share_predicted": self.predicted, "dense_ms": self.dense_ms}

    @staticmethod
    def of(mask: np.ndarray, numbers: Mapping[str, Any]) -> Verified:
        """What `as_dict` gave, of these channels."""
        share = Ratio(*(numbers[f"share{part}"] for part in ("", "_low", "_high")))
        return Verified(mask, share, numbers["dense_ms"], numbers["share_target"], numbers["share_predicted"])


def verify(limits: Limits, land: Land, measure: Measure, *, strict: bool = True) -> tuple[Limits, Verified]:
    """The limits with the prediction of latency corrected, and what was measured of the channels that they land on.

    Where widths come in steps so coarse that none lie in the band, or another limit binds, it is the best of what was measured. Raises
    PasError when all of it lies above the target by more than the noise, unless not `strict`. Costs hold the margin already.
    """
    tried: list[tuple[Limits, Verified]] = []
    for _ in range(ROUNDS):
        limit = latency_of(limits)
        mask = land(limits)
        if any(np.array_equal(one.mask, mask) for _, one in tried):
            break
        share, dense_ms = measure(mask)
        # what was given in ms is a share of what the dense network takes at the same moment
        target = limit.target / (limit.dense if limit.relative else limit.unit * dense_ms)
        found = Verified(mask, share, dense_ms, target, limit.cost.at(mask) / MARGIN / limit.dense)
        tried.append((limits, found))
        if found.holds:
            break
        limits = corrected(limits, found)
    best = min(tried, key=lambda one: one[1].rank)
    share, target = best[1].share, best[1].target
    if strict and share.low > target:
        raise PasError(
            f"budget.latency: of the networks within it as predicted the fastest takes {share} of the dense latency as measured, above the "
            f"{target:.4f} that are allowed, and there are none between: allow at least {share.high:.4f}, or smaller widths (min_width, "
            "round_to, snap)"
        )
    return best


def latency_of(limits: Limits) -> Limit:
    """The limit on latency."""
    return next(limit for limit in limits.each if limit.kind == "latency")


def corrected(limits: Limits, found: Verified) -> Limits:
    """The limits as a measurement has them: these channels take what they took, and all others in proportion."""
    limit = latency_of(limits)
    took = found.share.median / found.target * limit.target
    return slower(limits, MARGIN * took / limit.cost.at(found.mask))


def slower(limits: Limits, factor: float) -> Limits:
    """The limits with a prediction of latency that is so many times what it was."""
    limit = latency_of(limits)
    return _with(limits, limit, _cost(limit).calibration.times(factor))


def latency_state(limits: Limits) -> dict[str, float]:
    """What a search takes latency to be: target and dense latency in ns, and the prediction's scale and offset."""
    limit = latency_of(limits)
    return {"target": limit.target, "dense": limit.dense, **vars(_cost(limit).calibration)}


def with_latency_state(limits: Limits, state: Mapping[str, float]) -> Limits:
    """The limits with what `latency_state` gave."""
    limit = replace(latency_of(limits), target=float(state["target"]), dense=round(float(state["dense"])))
    return _with(limits, limit, Calibration(float(state["scale"]), float(state["offset"])))


def _cost(limit: Limit) -> Latency:
    assert isinstance(limit.cost, Latency)
    return limit.cost


def _with(limits: Limits, limit: Limit, calibration: Calibration) -> Limits:
    """The limits with this one on latency, and its cost calibrated so."""
    now = replace(limit, cost=_cost(limit).calibrated(calibration))
    return Limits(tuple(now if one.kind == limit.kind else one for one in limits.each))


class Limited(Protocol):
    """What has limits that can be replaced: a search."""

    limits: Limits

    def relimit(self, limits: Limits) -> None:
        """Take limits on the same costs of which latency was measured anew."""


class Held:
    """The part of a search's state that says what it takes latency to be."""

    def __init__(self, search: Limited) -> None:
        self.search = search

    def state_dict(self) -> dict[str, Tensor]:
        """Target and calibration, as tensors."""
        return {name: torch.tensor(number, dtype=torch.float64) for name, number in latency_state(self.search.limits).items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` gave."""
        self.search.relimit(with_latency_state(self.search.limits, {name: float(number) for name, number in state.items()}))
