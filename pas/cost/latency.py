"""Latency as a function of the channels that stay: the sum of a table over a network's operators, calibrated on measured networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pas.axes.signature import Signature
from pas.cost.grid import Grid
from pas.cost.operators import Key, operators
from pas.cost.table import Table

NANOSECONDS = 1_000_000
"""A millisecond. Costs are whole numbers, so that they are compared exactly: latency counts nanoseconds."""


@dataclass(frozen=True)
class Calibration:
    """What the sum of a table is off by: a network takes ``scale * sum + offset`` (ms)."""

    scale: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True)
class Part:
    """All operators with one key: their widths (operators, D) are products of counts (operators, D, m). `made`: the one that they make."""

    grid: Grid
    factors: Tensor
    made: int


@dataclass(frozen=True)
class Latency:
    """The predicted time of a batch in nanoseconds, a cost like MACs: of any masks, with gradients to what makes and what reads a channel.

    A count is a polynomial in the gates (see `pas.cost.macs.Cost`); the table's lower envelope is interpolated between its points.
    """

    elements: Tensor
    owner: Tensor
    fixed: Tensor
    parts: tuple[Part, ...]
    calibration: Calibration

    def __call__(self, gates: Tensor, *, both_sides: bool = True) -> Tensor:
        """The time (...) under 0/1 values over all channels (..., C), of which position 0 must be 1, in float64.

        Without `both_sides` the gradient goes only to what makes a channel.
        """
        values = gates.to(torch.float64)
        counts = values.new_zeros(*values.shape[:-1], len(self.fixed)).index_add(-1, self.owner, values[..., self.elements].prod(-1))
        counts = counts + self.fixed
        total = counts.new_zeros(values.shape[:-1])
        for part in self.parts:
            widths = counts[..., part.factors].prod(-1)
            if not both_sides:
                others = [d for d in range(widths.shape[-1]) if d != part.made]
                widths = widths.clone()
                widths[..., others] = widths[..., others].detach()
            total = total + part.grid(widths).sum(-1)
        return NANOSECONDS * (self.calibration.scale * total + self.calibration.offset)

    def at(self, mask: np.ndarray) -> int:
        """The time as a whole number of nanoseconds."""
        return round(float(self(torch.from_numpy(mask).to(torch.float64))))

    def to(self, device: torch.device) -> Latency:
        """The same cost on another device."""
        parts = tuple(Part(part.grid.to(device), part.factors.to(device), part.made) for part in self.parts)
        return replace(self, elements=self.elements.to(device), owner=self.owner.to(device), fixed=self.fixed.to(device), parts=parts)

    def calibrated(self, calibration: Calibration) -> Latency:
        """The same sum, with another scale and offset."""
        return replace(self, calibration=calibration)


def build(signature: Signature, table: Table) -> Latency:
    """The latency of a network by a table, not calibrated. Raises PasError for an operator that the table doesn't have."""
    tables: list[np.ndarray] = []
    index: dict[object, int] = {}
    fixed: list[float] = []

    def count(dim: np.ndarray | None, size: int) -> int:
        key = size if dim is None else (dim.shape, dim.tobytes())
        if key not in index:
            index[key] = len(fixed)
            fixed.append(size if dim is None else 0)
            tables.append(np.zeros((0, 1), dtype=np.int64) if dim is None else dim)
        return index[key]

    one = count(None, 1)
    uses: dict[Key, list[list[list[int]]]] = {}
    for operator in operators(signature):
        uses.setdefault(operator.key, []).append([[count(dim, size) for dim, size in width] for width in operator.widths])
    parts = []
    for key, found in uses.items():
        longest = max(len(width) for widths in found for width in widths)
        factors = [[width + [one] * (longest - len(width)) for width in widths] for widths in found]
        parts.append(Part(table.grid(key), torch.tensor(factors), made=len(found[0]) - 1))
    most = max(one.shape[1] for one in tables)
    elements = np.concatenate([np.pad(one, ((0, 0), (0, most - one.shape[1]))) for one in tables])
    owner = np.repeat(np.arange(len(tables)), [len(one) for one in tables])
    constants = torch.tensor(fixed, dtype=torch.float64)
    return Latency(torch.from_numpy(elements), torch.from_numpy(owner), constants, tuple(parts), Calibration())


def calibrate(sums: Sequence[float], measured: Sequence[float]) -> Calibration:
    """The scale and offset with the least squared *relative* errors on networks whose sum (ms) and measured latency (ms) are known. The
    offset of a network is never negative, and a single one gives the scale alone.
    """
    x, y = np.asarray(sums, dtype=np.float64), np.asarray(measured, dtype=np.float64)
    if len(x) > 1 and np.ptp(x) > 0:
        (scale, offset), *_ = np.linalg.lstsq(np.stack([x / y, 1 / y], 1), np.ones(len(x)), rcond=None)
        if offset >= 0 and scale > 0:
            return Calibration(float(scale), float(offset))
    share = x / y
    return Calibration(float(share.sum() / (share**2).sum()), 0.0)
