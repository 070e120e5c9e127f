"""Latency as a function of the channels that stay: the sum of a table over a network's operators, calibrated on measured networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pas.axes.signature import Signature
from pas.cost.counts import Counts, Dimensions
from pas.cost.grid import Grid
from pas.cost.operators import Key, Operator, operators
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
    """All operators with one key: each of their widths (operators, D) is a product of counts (operators, D, m), of which the last is 1, and
    of a size that stays. `made`: the width that they make.
    """

    grid: Grid
    factors: Tensor
    sizes: Tensor
    made: int


@dataclass(frozen=True)
class Latency:
    """The predicted time of a batch in nanoseconds, a cost like MACs: of any masks, with gradients to what makes and what reads a channel.

    The table's lower envelope is interpolated between its points.
    """

    counts: Counts
    parts: tuple[Part, ...]
    calibration: Calibration

    def __call__(self, gates: Tensor, *, both_sides: bool = True) -> Tensor:
        """The time (...) under 0/1 values over all channels (..., C), of which position 0 must be 1, in float64.

        Without `both_sides` the gradient goes only to what makes a channel.
        """
        counts = self.counts(gates)
        counts = torch.cat([counts, counts.new_ones(*counts.shape[:-1], 1)], -1)
        total = counts.new_zeros(counts.shape[:-1])
        for part in self.parts:
            widths = counts[..., part.factors].prod(-1) * part.sizes
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
        parts = tuple(Part(one.grid.to(device), one.factors.to(device), one.sizes.to(device), one.made) for one in self.parts)
        return replace(self, counts=self.counts.to(device), parts=parts)

    def calibrated(self, calibration: Calibration) -> Latency:
        """The same sum, with another scale and offset."""
        return replace(self, calibration=calibration)


def build(signature: Signature, table: Table) -> Latency:
    """The latency of a network by a table, not calibrated. Raises PasError for an operator that the table doesn't have."""
    dimensions = Dimensions()
    uses: dict[Key, list[Operator]] = {}
    for one in operators(signature):
        uses.setdefault(one.key, []).append(one)
    listed = {
        key: [[[dimensions.index(dim) for dim, _ in width if dim is not None] for width in one.widths] for one in found]
        for key, found in uses.items()
    }
    last = len(dimensions.tables)
    parts = []
    for key, found in uses.items():
        longest = max(len(places) for widths in listed[key] for places in widths)
        factors = [[places + [last] * (longest - len(places)) for places in widths] for widths in listed[key]]
        sizes = [[math.prod(size for dim, size in width if dim is None) for width in one.widths] for one in found]
        shape = (len(found), len(found[0].widths), longest)
        indices = torch.tensor(factors, dtype=torch.long).reshape(shape)
        parts.append(Part(table.grid(key), indices, torch.tensor(sizes, dtype=torch.float64), made=shape[1] - 1))
    return Latency(dimensions.counts(), tuple(parts), Calibration())


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
