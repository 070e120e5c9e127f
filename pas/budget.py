"""What a person allows a network to cost, in their own units."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import torch

from pas.amount import ALLOWED, human, parse
from pas.axes.signature import Axis, Signature
from pas.cost.macs import Cost, build
from pas.errors import PasError

Amount = float | int | str


@dataclass(frozen=True)
class Budget:
    """Limits on the searched network, in its fused form; several may hold at once.

    `macs` (multiply-adds of one example at the example's resolution) and `params`: a fraction in (0, 1] of the dense
    cost, an absolute number above 1, or text with a unit such as "300 M". Raises PasError for anything else.
    """

    macs: Amount | None = None
    params: Amount | None = None

    def __post_init__(self) -> None:
        if not self.given():
            raise PasError(
                "a budget needs macs= or params=: a fraction of the dense cost like 0.5, or an amount like '300 M'"
            )
        for kind, amount in self.given().items():
            if parse(amount) is None:
                raise PasError(f"budget.{kind}={amount!r}: must be {ALLOWED}")

    def given(self) -> dict[str, Amount]:
        """The limits that were set."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}


@dataclass(frozen=True)
class Limit:
    """One limit of a budget on one network: its exact cost function, the dense cost and the target, in absolute
    units.
    """

    kind: str
    cost: Cost
    dense: int
    target: float


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


def limits(budget: Budget, signature: Signature, smallest: np.ndarray) -> Limits:
    """Resolve a budget against a network whose smallest legal form keeps the channels `smallest`.

    Raises PasError when even that costs more than the budget allows, naming the smallest possible target and the frozen
    axes, and when the dense network costs less.
    """
    found = []
    everything = np.ones(signature.channels, dtype=bool)
    for kind, amount in budget.given().items():
        cost = build(signature, kind)
        dense, least, number = cost.at(everything), cost.at(smallest), parse(amount)
        assert number is not None  # a budget was checked when it was made
        target = number * dense if number <= 1 else number
        if target > dense:
            raise PasError(f"budget.{kind}={amount} allows more than the dense network's {human(dense)}: leave it out, or give less")
        if target < least:
            frozen = [axis for axis in signature.axes if not axis.prunable]
            share = math.ceil(1e4 * least / dense) / 1e4  # rounded up, so that what is named here isn't refused in turn
            raise PasError(
                f"budget.{kind}={amount}: {math.floor(target)} {kind} can't be reached; the smallest possible is {least} "
                f"({share:.4f} of the dense {dense}) with the minimum widths (min_width, round_to)"
                + (f"; for a share write '{number:g} %'" if 1 < number <= 100 else _held(cost, smallest, frozen))
            )
        found.append(Limit(kind, cost, dense, target))
    return Limits(tuple(found))


def _held(cost: Cost, smallest: np.ndarray, frozen: list[Axis]) -> str:
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
