"""A cost as a sum of tables over the choices of a few axes each: what allocators solve, whichever cost it is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pas.axes.signature import Signature
from pas.cost.latency import NANOSECONDS, Latency
from pas.cost.polynomial import Monomial, Polynomial, counted, times
from pas.errors import PasError

LARGEST = 1 << 22
"""Elements of the largest table: more, and the network is refused."""
Table = tuple[tuple[int, ...], np.ndarray]
"""Axes, ascending, and a value for each combination of their choices."""
Choices = Sequence[np.ndarray]
"""The widths that each axis may have."""


@dataclass(frozen=True)
class Tabulated:
    """``constant + sum_t table_t[choices of its axes]``."""

    constant: float
    tables: tuple[Table, ...]

    def at(self, choices: Sequence[int]) -> float:
        """The cost of the choice with this number of each axis."""
        return self.constant + float(sum(table[tuple(choices[a] for a in scope)] for scope, table in self.tables))


def of_polynomial(polynomial: Polynomial, choices: Choices) -> Tabulated:
    """MACs or parameters. Raises PasError when too many axes meet in one product."""
    scopes = [tuple(dict.fromkeys(monomial)) for monomial in polynomial.terms]
    terms = zip(scopes, polynomial.terms.items(), strict=True)
    return _collected(0.0, ((scope, _value(monomial, coefficient, scope, choices)) for scope, (monomial, coefficient) in terms))


def of_latency(latency: Latency, signature: Signature, choices: Choices) -> Tabulated:
    """The predicted latency. Raises PasError when too many axes meet in one operator."""
    counts = [*counted(latency.counts, signature), {(): 1.0}]
    unit = NANOSECONDS * latency.calibration.scale
    tables: list[Table] = []
    for o in range(len(latency.which)):
        widths: list[dict[Monomial, float]] = []
        for factors, size in zip(latency.factors[o].tolist(), latency.sizes[o].tolist(), strict=True):
            product: dict[Monomial, float] = {(): size}
            for dimension in factors:
                product = times(product, counts[dimension])
            widths.append(product)
        scope = tuple(sorted({a for width in widths for monomial in width for a in monomial}))
        arrays = [sum(_value(m, c, scope, choices) for m, c in width.items()) for width in widths]
        stacked = torch.from_numpy(np.stack(np.broadcast_arrays(*arrays), -1)[..., None, :].astype(np.float64))
        ms = latency.grids(stacked, latency.which[o : o + 1], latency.blocks[o : o + 1])[..., 0].numpy()
        tables.append((scope, unit * ms))
    return _collected(NANOSECONDS * latency.calibration.offset, tables)


def _collected(constant: float, tables: Iterable[Table]) -> Tabulated:
    """The sum of a constant and of tables, of which those over the same axes become one, and those over none part of the constant."""
    found: dict[tuple[int, ...], np.ndarray] = {}
    for scope, table in tables:
        found[scope] = found[scope] + table if scope in found else table
    return Tabulated(constant + float(found.pop((), 0.0)), tuple(found.items()))


def _value(monomial: Monomial, coefficient: float, scope: tuple[int, ...], choices: Choices) -> np.ndarray:
    """A monomial at all choices of the axes of a scope that holds its own."""
    small_enough(scope, choices)
    table = np.full([len(choices[a]) for a in scope], coefficient)
    for place, axis in enumerate(scope):
        power = choices[axis].astype(np.float64) ** monomial.count(axis)
        table = table * power.reshape(-1, *(1,) * (len(scope) - place - 1))
    return table


def small_enough(scope: Sequence[int], choices: Choices) -> None:
    """Raises PasError when a table over these axes would be too large."""
    if math.prod(len(choices[a]) for a in scope) > LARGEST:
        raise PasError(f"{len(scope)} axes meet in this network, too many to bound what their widths are worth")
