"""Latency as a function of the channels that stay: the sum of a table over a network's operators, calibrated on measured networks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pas.axes.signature import Signature
from pas.cost.counts import Counts, Dimensions
from pas.cost.grid import Grid, Grids
from pas.cost.operators import Factor, Key, Operator, operators
from pas.errors import PasError

NANOSECONDS = 1_000_000
"""A millisecond. Costs are whole numbers, so that they are compared exactly: latency counts nanoseconds."""


UNBLOCKED = ("grouped", "matmul", "scaled_dot_product_attention", "layer_norm")
"""Operators whose widths aren't filled up to whole blocks of channels."""


@dataclass(frozen=True)
class Calibration:
    """What the sum of a table is off by: a network takes ``scale * sum + offset`` (ms), and at least half of ``scale * sum``. An offset may
    be negative: operators alone take a little longer to begin than among others.
    """

    scale: float = 1.0
    offset: float = 0.0

    def times(self, factor: float) -> Calibration:
        """Of networks that take so many times as long."""
        return Calibration(self.scale * factor, self.offset * factor)


@dataclass(frozen=True)
class Latency:
    """The predicted time of a batch in nanoseconds, a cost like MACs: of any masks, with gradients to what makes and what reads a channel.

    The table's lower envelope is interpolated between its points. Each of O operators has up to D widths, products of counts, of which the
    last is 1, and of a size that stays.
    """

    counts: Counts
    grids: Grids
    which: Tensor  # (O,) the grid of each operator
    factors: Tensor  # (O, D, m) dimensions whose counts are multiplied
    sizes: Tensor  # (O, D)
    made: Tensor  # (O, D) whether it is the width that the operator makes
    blocks: Tensor  # (O, D) what the runtime computes at once
    calibration: Calibration

    def __call__(self, gates: Tensor, *, both_sides: bool = True) -> Tensor:
        """The time (...) under 0/1 values over all channels (..., C), of which position 0 must be 1, in float64.

        Without `both_sides` the gradient goes only to what makes a channel.
        """
        total = self.calibration.scale * self.grids(self._widths(gates, both_sides), self.which, self.blocks).sum(-1)
        return NANOSECONDS * torch.maximum(total + self.calibration.offset, total / 2)

    def each(self, gates: Tensor) -> Tensor:
        """The time of each operator (..., O) in nanoseconds, without the offset."""
        return NANOSECONDS * self.calibration.scale * self.grids(self._widths(gates, True), self.which, self.blocks)

    def at(self, mask: np.ndarray) -> int:
        """The time as a whole number of nanoseconds."""
        return round(float(self(torch.from_numpy(mask).to(torch.float64))))

    def to(self, device: torch.device) -> Latency:
        """The same cost on another device."""
        moved = {name: getattr(self, name).to(device) for name in ("counts", "grids", "which", "factors", "sizes", "made", "blocks")}
        return replace(self, **moved)

    def calibrated(self, calibration: Calibration) -> Latency:
        """The same sum, with another scale and offset."""
        return replace(self, calibration=calibration)

    def _widths(self, gates: Tensor, both_sides: bool) -> Tensor:
        counts = self.counts(gates)
        counts = torch.cat([counts, counts.new_ones(*counts.shape[:-1], 1)], -1)
        widths = counts[..., self.factors].prod(-1) * self.sizes
        return widths if both_sides else torch.where(self.made, widths, widths.detach())


def build(signature: Signature, grids: Mapping[Key, Grid], block: int = 1) -> Latency:
    """The latency of a network by the times of its operators, not calibrated. `block`: channels that the runtime computes at once.

    Raises PasError for an operator that isn't among them.
    """
    dimensions, found = Dimensions(), operators(signature)
    keys = list(dict.fromkeys(one.key for one in found))
    for key in keys:
        if key not in grids:
            raise PasError(f"the table has no {key}; measure it with pas profile")
    places = [[[dimensions.index(dim) for dim, _ in width if dim is not None] for width in one.widths] for one in found]
    last = len(dimensions.tables)
    deep = max((len(one.widths) for one in found), default=1)
    longest = max((len(row) for one in places for row in one), default=0) + 1
    factors = np.full((len(found), deep, longest), last)
    sizes, made = np.ones((len(found), deep)), np.zeros((len(found), deep), dtype=bool)
    blocks = np.ones((len(found), deep))
    for o, (one, rows) in enumerate(zip(found, places, strict=True)):
        made[o, len(rows) - 1] = True
        for d, (row, width) in enumerate(zip(rows, one.widths, strict=True)):
            factors[o, d, : len(row)] = row
            sizes[o, d] = math.prod(size for dim, size in width if dim is None)
            blocks[o, d] = _block(one, width, block)
    which = torch.tensor([keys.index(one.key) for one in found], dtype=torch.long)
    packed = Grids.of([grids[key] for key in keys])
    as_tensor = torch.from_numpy
    return Latency(
        dimensions.counts(), packed, which, as_tensor(factors), as_tensor(sizes), as_tensor(made), as_tensor(blocks), Calibration()
    )


def _block(one: Operator, width: Sequence[Factor], block: int) -> int:
    """What a runtime computes at once of one of an operator's widths: a block of channels, or their elements where that is the width."""
    sliced = [size for dim, size in width if dim is not None]
    if block <= 1 or len(sliced) != 1 or one.key.kind in UNBLOCKED:
        return 1
    return block * math.prod(size for _, size in width) // sliced[0]


def calibrate(sums: Sequence[float], measured: Sequence[float]) -> Calibration:
    """The scale and offset with the least squared *relative* errors on networks whose sum (ms) and measured latency (ms) are known. A
    negative offset takes at most half of what any of them takes without it; else, and of a single network, the scale stands alone.
    """
    x, y = np.asarray(sums, dtype=np.float64), np.asarray(measured, dtype=np.float64)
    if len(x) > 1 and np.ptp(x) > 0:
        (scale, offset), *_ = np.linalg.lstsq(np.stack([x / y, 1 / y], 1), np.ones(len(x)), rcond=None)
        if scale > 0 and offset > -scale * x.min() / 2:
            return Calibration(float(scale), float(offset))
    share = x / y
    return Calibration(float(share.sum() / (share**2).sum()), 0.0)
