"""What a person allows a network to cost, in their own units."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import torch

from pas.amount import ALLOWED, ALLOWED_TIME, UNITS, human, parse, parse_time
from pas.axes.signature import Axis, Signature
from pas.cost.latency import NANOSECONDS, Latency
from pas.cost.macs import Cost, build
from pas.errors import PasError

if TYPE_CHECKING:
    from pas.timing import Timing  # which brings ONNX Runtime along

Amount = float | int | str


@dataclass(frozen=True)
class Budget:
    """Limits on the searched network, in its fused form; several may hold at once.

    `macs` (multiply-adds of one example at the example's resolution), `params`, and `latency` (of a batch on the device at hand): a
    fraction in (0, 1] of the dense cost, an absolute number above 1 (milliseconds), or text with a unit such as "300 M" or "8 ms". Raises
    PasError for anything else.
    """

    macs: Amount | None = None
    params: Amount | None = None
    latency: Amount | None = None

    def __post_init__(self) -> None:
        if not self.given():
            raise PasError(
                "a budget needs macs=, params= or latency=: a fraction of the dense cost like 0.5, or an amount like '300 M' or '8 ms'"
            )
        for kind, amount in self.given().items():
            if _number(kind, amount) is None:
                raise PasError(f"budget.{kind}={amount!r}: must be {ALLOWED_TIME if kind == 'latency' else ALLOWED}")

    def given(self) -> dict[str, Amount]:
        """The limits that were set."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}


def _number(kind: str, amount: Amount) -> float | None:
    """A limit as a number, at most 1 for a share: multiply-adds, parameters, nanoseconds. None for what is no amount."""
    return parse_time(amount) if kind == "latency" else parse(amount)


@dataclass(frozen=True)
class Limit:
    """One limit of a budget on one network: its cost function, the dense cost and the target, in absolute units: multiply-adds,
    parameters, nanoseconds. `relative`: whether it was given as a share of the dense cost.
    """

    kind: str
    cost: Cost | Latency
    dense: int
    target: float
    relative: bool

    @property
    def unit(self) -> int:
        """What the numbers are divided by where people read them: latencies are told in milliseconds."""
        return NANOSECONDS if self.kind == "latency" else 1

    def told(self, value: float) -> float:
        """A cost in the unit that people read."""
        return value / self.unit if self.unit > 1 else value


@dataclass(frozen=True)
class Limits:
    """All limits of a budget on one network."""

    each: tuple[Limit, ...]

    def load(self, mask: np.ndarray) -> np.ndarray:
        """The tightest limit's cost over its target (...): at most 1 when the budget holds. `mask`: booleans over all
        channels (..., C).
        """
        values = torch.from_numpy(mask)
        return np.max([np.rint(limit.cost(values).numpy()) / limit.target for limit in self.each], axis=0)


def limits(budget: Budget, signature: Signature, smallest: np.ndarray, timing: Timing | None = None) -> Limits:
    """Resolve a budget against a network whose smallest legal form keeps the channels `smallest`. `timing`: its latency, where that is
    limited.

    Raises PasError when even that costs more than the budget allows, naming the smallest possible target and the frozen
    axes, and when the dense network costs less.
    """
    found = []
    everything = np.ones(signature.channels, dtype=bool)
    for kind, amount in budget.given().items():
        cost: Cost | Latency
        if kind == "latency":
            assert timing is not None
            cost, dense = timing.cost(signature), round(timing.dense_ms * NANOSECONDS)
        else:
            cost = build(signature, kind)
            dense = cost.at(everything)
        least, number = cost.at(smallest), _number(kind, amount)
        assert number is not None  # a budget was checked when it was made
        limit = Limit(kind, cost, dense, number * dense if number <= 1 else number, number <= 1)
        if limit.target > dense:
            raise PasError(
                f"budget.{kind}={amount} allows more than the dense network's {human(limit.told(dense))} {UNITS[kind]}: leave it out, "
                "or give less"
            )
        if limit.target < least:
            raise PasError(f"budget.{kind}={amount}: {_unreachable(limit, smallest)}" + _hint(number, limit, smallest, signature))
        found.append(limit)
    return Limits(tuple(found))


def _unreachable(limit: Limit, smallest: np.ndarray) -> str:
    least = limit.cost.at(smallest)
    share = math.ceil(1e4 * least / limit.dense) / 1e4  # rounded up, so that what is named here isn't refused in turn
    if limit.kind == "latency":
        return (
            f"{human(limit.told(limit.target))} ms can't be reached; the smallest possible are "
            f"{math.ceil(1e4 * limit.told(least)) / 1e4:.4f} ms ({share:.4f} of the dense {human(limit.told(limit.dense))} ms) with the "
            "minimum widths (min_width, round_to, snap)"
        )
    return (
        f"{math.floor(limit.target)} {limit.kind} can't be reached; the smallest possible is {least} "
        f"({share:.4f} of the dense {limit.dense}) with the minimum widths (min_width, round_to)"
    )


def _hint(number: float, limit: Limit, smallest: np.ndarray, signature: Signature) -> str:
    if limit.kind != "latency" and 1 < number <= 100:
        return f"; for a share write '{number:g} %'"
    return _held(limit.cost, smallest, [axis for axis in signature.axes if not axis.prunable])


def _held(cost: Cost | Latency, smallest: np.ndarray, frozen: list[Axis]) -> str:
    """Which frozen axes hold most of what is left, and why they are."""
    left = cost.at(smallest)
    shares = []
    for axis in frozen:
        without = smallest.copy()
        without[axis.start : axis.start + axis.size] = False
        shares.append((1 - cost.at(without) / left, axis))
    largest = sorted(shares, key=lambda one: -one[0])[:3]
    words = [f"{axis.name} with {share:.0%} of it ({axis.frozen})" for share, axis in largest if share >= 0.01]
    return f". What stays whole has a part in that, above all {'; '.join(words)}" if words else ""
