"""A function of widths that was measured on a grid: its lower envelope, interpolated, with slopes that point to the next real saving."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """``values[i, j, ...]`` at widths ``points[0][i], points[1][j], ...`` (ascending). Between points it is multilinear.

    `slopes[d]`, of the same shape, holds for each cell along dimension d (by its lower point), at each point of the others, how steep the
    function is there for a gradient: the difference over the cell, or, on a plateau, down to the nearest lower point that costs less. So a
    width at the edge of a step is pulled towards the whole step, not told that one channel less saves nothing.
    """

    points: tuple[np.ndarray, ...]
    values: np.ndarray
    slopes: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Grids:
    """Many grids in one, for speed: G of up to D dimensions with up to P points, all values and slopes in a row (V,)."""

    points: Tensor  # (G, D, P), infinite where a dimension has fewer
    counts: Tensor  # (G, D) points of each dimension; 1 for those that a grid doesn't have
    values: Tensor  # (V,)
    slopes: Tensor  # (D, V)
    offsets: Tensor  # (G,) where each grid begins
    strides: Tensor  # (G, D) from one point to the next; 0 where there is one

    @staticmethod
    def of(grids: Sequence[Grid]) -> Grids:
        """The same functions."""
        count, dimensions = len(grids), max((one.values.ndim for one in grids), default=1)
        most = max((size for one in grids for size in one.values.shape), default=1)
        points = np.full((count, dimensions, most), np.inf)
        points[:, :, 0] = 1
        counts, strides = np.ones((count, dimensions), dtype=np.int64), np.zeros((count, dimensions), dtype=np.int64)
        for g, one in enumerate(grids):
            for d, places in enumerate(one.points):
                points[g, d, : len(places)] = places
                counts[g, d] = len(places)
                strides[g, d] = math.prod(one.values.shape[d + 1 :]) if len(places) > 1 else 0
        nothing = lambda one: np.zeros(one.values.size)  # noqa: E731
        slopes = [[one.slopes[d].ravel() if d < one.values.ndim else nothing(one) for one in grids] for d in range(dimensions)]
        offsets = np.cumsum([0, *(one.values.size for one in grids)])[:-1]
        return Grids(
            torch.from_numpy(points),
            torch.from_numpy(counts),
            torch.from_numpy(np.concatenate([one.values.ravel() for one in grids] or [np.zeros(0)])),
            torch.from_numpy(np.stack([np.concatenate(row or [np.zeros(0)]) for row in slopes])),
            torch.from_numpy(offsets.astype(np.int64)),
            torch.from_numpy(strides),
        )

    def __call__(self, widths: Tensor, which: Tensor, block: Tensor) -> Tensor:
        """The values (..., O) of O functions, grids ``which`` (O,), at widths (..., O, D): 1 where a grid has fewer dimensions. Outside of
        a grid the value is that of its edge, with the slope of the nearest cell.

        `block` (O, D): what a runtime computes at once; widths are filled up to whole blocks, as far as the grid goes. 1 for none.
        """
        points, counts = self.points[which], self.counts[which]
        last = points.gather(-1, (counts - 1)[..., None])[..., 0]
        at = widths.detach()
        at = torch.where(block > 1, torch.minimum(torch.ceil(at / block) * block, torch.maximum(at, last)), at)
        cell = torch.minimum((points < at[..., None]).sum(-1) - 1, counts - 2).clamp(min=0)
        whole = points.expand(*at.shape, points.shape[-1])
        low = whole.gather(-1, cell[..., None])[..., 0]
        high = whole.gather(-1, torch.minimum(cell + 1, counts - 1)[..., None])[..., 0]
        share = torch.where(counts > 1, (at - low) / (high - low).clamp(min=1e-9), 0.0).clamp(0, 1)
        place = self.offsets[which] + (cell * self.strides[which]).sum(-1)
        value = self._mean(self.values, place, share, which, ())
        if widths.requires_grad:
            for d in range(widths.shape[-1]):
                steep = self._mean(self.slopes[d], place, share, which, (d,))
                value = value + steep * (widths[..., d] - widths[..., d].detach())
        return value

    def to(self, device: torch.device) -> Grids:
        """The same functions on another device."""
        return Grids(*(getattr(self, one.name).to(device) for one in fields(self)))

    def _mean(self, table: Tensor, place: Tensor, share: Tensor, which: Tensor, fixed: tuple[int, ...]) -> Tensor:
        """The multilinear mean of a table over the corners of the cells, but along the `fixed` dimensions."""
        total = torch.zeros_like(place, dtype=torch.float64)
        free = [d for d in range(share.shape[-1]) if d not in fixed]
        for corner in itertools.product((0, 1), repeat=len(free)):
            weight, where = torch.ones_like(total), place
            for d, upper in zip(free, corner, strict=True):
                weight = weight * (share[..., d] if upper else 1 - share[..., d])
                where = where + self.strides[which][:, d] * upper
            total = total + weight * table[where]
        return total


def grid(points: Sequence[Sequence[float]], values: np.ndarray) -> Grid:
    """The lower envelope over larger widths of what was measured: whoever needs less may run more, so narrower never costs more."""
    values = envelope(np.asarray(values, dtype=np.float64))
    places = tuple(np.asarray(p, dtype=np.float64) for p in points)
    return Grid(places, values, tuple(_slopes(places[d], values, d) for d in range(values.ndim)))


def envelope(values: np.ndarray) -> np.ndarray:
    """``min`` over all points that are at least as wide in every dimension."""
    for d in range(values.ndim):
        values = np.flip(np.minimum.accumulate(np.flip(values, d), d), d)
    return values.copy()


def _slopes(points: np.ndarray, values: np.ndarray, d: int) -> np.ndarray:
    """Of the shape of the values: see `Grid`. The last point along d begins no cell."""
    moved = np.moveaxis(values, d, 0)
    rest = moved.shape[1:]
    moved = moved.reshape(len(points), -1)
    found = np.zeros_like(moved)
    for cell in range(len(points) - 1):
        left = np.ones(moved.shape[1], dtype=bool)
        for low in range(cell, -1, -1):
            saves = left & (moved[low] < moved[cell + 1])
            found[cell, saves] = ((moved[cell + 1] - moved[low]) / (points[cell + 1] - points[low]))[saves]
            left &= ~saves
    return np.ascontiguousarray(np.moveaxis(found.reshape(-1, *rest), 0, d))
