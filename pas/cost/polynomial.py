"""A cost as a polynomial in the widths of axes: what allocators solve."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pas.axes.signature import Axis, Signature
from pas.cost.counts import Counts
from pas.cost.macs import Cost

Monomial = tuple[int, ...]
"""Numbers of axes, ascending, one as often as its power."""


@dataclass(frozen=True)
class Polynomial:
    """``sum_m coefficient_m * prod_{a in m} width_a`` over the axes that may be sliced; the empty monomial is what always stays."""

    axes: tuple[Axis, ...]
    terms: dict[Monomial, float]

    def at(self, widths: Sequence[int]) -> float:
        """The cost at these widths, one an axis."""
        return float(sum(c * np.prod([widths[a] for a in monomial]) for monomial, c in self.terms.items()))


def polynomial(cost: Cost, signature: Signature) -> Polynomial:
    """A cost in terms of widths. Exact, because every channel of an axis lives in the same places, so that how many stay says it all."""
    counts = counted(cost.counts, signature)
    counts.append({(): 1.0})
    terms: dict[Monomial, float] = defaultdict(float)
    for coefficient, factors in zip(cost.coefficients.tolist(), cost.factors.tolist(), strict=True):
        product: dict[Monomial, float] = {(): coefficient}
        for dimension in factors:
            product = times(product, counts[dimension])
        for monomial, value in product.items():
            terms[monomial] += value
    return Polynomial(signature.prunable, dict(terms))


def counted(counts: Counts, signature: Signature) -> list[dict[Monomial, float]]:
    """How many elements of each dimension stay, as polynomials in the widths of the prunable axes."""
    axes = signature.prunable
    home = np.full(signature.channels, -1)
    for number, axis in enumerate(axes):
        home[axis.start : axis.start + axis.size] = number
    owners, elements = counts.owner.numpy(), home[counts.elements.numpy()]
    found: list[dict[Monomial, float]] = []
    for dimension in range(counts.dimensions):
        rows = elements[owners == dimension]
        kinds = Counter(tuple(sorted({a for a in row if a >= 0})) for row in rows.tolist())
        found.append({kind: number / float(np.prod([axes[a].size for a in kind])) for kind, number in kinds.items()})
    return found


def times(a: dict[Monomial, float], b: dict[Monomial, float]) -> dict[Monomial, float]:
    """The product of two polynomials."""
    found: dict[Monomial, float] = defaultdict(float)
    for one, x in a.items():
        for other, y in b.items():
            found[tuple(sorted(one + other))] += x * y
    return found
