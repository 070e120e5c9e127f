"""What a person allows a network to cost, in their own units."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

import numpy as np

from pas.axes.signature import Signature
from pas.cost.macs import Cost, build, human
from pas.errors import PasError

Amount = float | int | str
_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}


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
            parse(kind, amount)

    def given(self) -> dict[str, Amount]:
        """The limits that were set."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}


def parse(kind: str, amount: Amount) -> float:
    """A limit as a number: at most 1 means a fraction of the dense cost."""
    if isinstance(amount, str):
        match = re.fullmatch(
            r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([kKmMgG]?)\s*(?:macs?|params?|parameters)?\s*", amount
        )
        if match is None:
            raise PasError(
                f"budget.{kind}={amount!r}: write a fraction like 0.5, a number, or text like '300 M' or '2.1 G'"
            )
        number = float(match[1]) * _UNITS[match[2].lower()]
    elif isinstance(amount, (int, float)) and not isinstance(amount, bool):
        number = float(amount)
    else:
        raise PasError(f"budget.{kind} must be a number or text, not {type(amount).__name__}")
    if not 0 < number < float("inf"):
        raise PasError(
            f"budget.{kind}={amount!r}: it must be above 0; a fraction is in (0, 1], an absolute amount above 1"
        )
    return number


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

    def load(self, mask: np.ndarray) -> float:
        """The tightest limit's cost over its target: at most 1 when the budget holds. `mask`: booleans over all
        channels.
        """
        return max(limit.cost.at(mask) / limit.target for limit in self.each)


def limits(budget: Budget, signature: Signature, smallest: np.ndarray) -> Limits:
    """Resolve a budget against a network whose smallest legal form keeps the channels `smallest`.

    Raises PasError when even that costs more than the budget allows, naming the smallest possible target and the frozen
    axes.
    """
    found = []
    everything = np.ones(signature.channels, dtype=bool)
    for kind, amount in budget.given().items():
        cost = build(signature, kind)
        dense, least, number = cost.at(everything), cost.at(smallest), parse(kind, amount)
        target = number * dense if number <= 1 else number
        if target < least:
            frozen = [axis.name for axis in signature.axes if not axis.prunable]
            raise PasError(
                f"budget.{kind}={amount}: {human(target)} can't be reached; the smallest possible is {human(least)} "
                f"({least / dense:.4f} of the dense {human(dense)}) with the minimum widths and {len(frozen)} frozen axes"
            )
        found.append(Limit(kind, cost, dense, min(target, dense)))
    return Limits(tuple(found))
