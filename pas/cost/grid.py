"""A function of widths that was measured on a grid: its lower envelope, interpolated, with slopes that point to the next real saving."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """``values[i, j, ...]`` at widths ``points[0][i], points[1][j], ...`` (ascending). Between points it is multilinear.

    `slopes[d]` holds for each cell along dimension d, at each point of the others, how steep the function is there for a gradient: the
    difference over the cell, or, on a plateau, down to the nearest lower point that costs less. So a width at the edge of a step is pulled
    towards the whole step, not told that one channel less saves nothing.
    """

    points: tuple[Tensor, ...]
    values: Tensor
    slopes: tuple[Tensor, ...]

    def __call__(self, widths: Tensor) -> Tensor:
        """The values (...) at widths (..., D). Outside of the grid the nearest cell goes on, but never below zero."""
        cells, shares = [], []
        for d, points in enumerate(self.points):
            at = widths[..., d].detach().contiguous()
            if len(points) == 1:
                cells.append(torch.zeros_like(at, dtype=torch.long))
                shares.append(torch.zeros_like(at))
                continue
            cell = (torch.searchsorted(points, at, right=True) - 1).clamp(0, len(points) - 2)
            cells.append(cell)
            shares.append((at - points[cell]) / (points[cell + 1] - points[cell]))
        value = self._corners(self.values, cells, shares, ()).clamp(min=0)
        for d, slope in enumerate(self.slopes):
            if len(self.points[d]) > 1 and widths.requires_grad:
                steep = self._corners(slope, cells, shares, (d,))
                value = value + steep * (widths[..., d] - widths[..., d].detach())
        return value

    def to(self, device: torch.device) -> Grid:
        """The same grid on another device."""
        move = lambda tensors: tuple(one.to(device) for one in tensors)  # noqa: E731
        return Grid(move(self.points), self.values.to(device), move(self.slopes))

    def _corners(self, table: Tensor, cells: list[Tensor], shares: list[Tensor], fixed: tuple[int, ...]) -> Tensor:
        """The multilinear mean of a table over the corners of the cells, but along the `fixed` dimensions."""
        total = torch.zeros_like(shares[0])
        free = [d for d in range(len(cells)) if d not in fixed and len(self.points[d]) > 1]
        for corner in itertools.product((0, 1), repeat=len(free)):
            side = dict(zip(free, corner, strict=True))
            weight = torch.ones_like(shares[0])
            for d, upper in side.items():
                weight = weight * (shares[d] if upper else 1 - shares[d])
            total = total + weight * table[tuple(cell + side.get(d, 0) for d, cell in enumerate(cells))]
        return total


def grid(points: Sequence[Sequence[float]], values: np.ndarray) -> Grid:
    """The lower envelope over larger widths of what was measured: whoever needs less may run more, so narrower never costs more."""
    values = envelope(np.asarray(values, dtype=np.float64))
    places = [np.asarray(p, dtype=np.float64) for p in points]
    slopes = tuple(torch.from_numpy(_slopes(places[d], values, d)) for d in range(values.ndim))
    return Grid(tuple(map(torch.from_numpy, places)), torch.from_numpy(values), slopes)


def envelope(values: np.ndarray) -> np.ndarray:
    """``min`` over all points that are at least as wide in every dimension."""
    for d in range(values.ndim):
        values = np.flip(np.minimum.accumulate(np.flip(values, d), d), d)
    return values.copy()


def _slopes(points: np.ndarray, values: np.ndarray, d: int) -> np.ndarray:
    """(..., cells along d, ...): see `Grid`."""
    moved = np.moveaxis(values, d, 0)
    rest = moved.shape[1:]
    moved = moved.reshape(len(points), -1)
    found = np.zeros((max(len(points) - 1, 1), moved.shape[1]))
    for cell in range(len(points) - 1):
        left = np.ones(moved.shape[1], dtype=bool)
        for low in range(cell, -1, -1):
            saves = left & (moved[low] < moved[cell + 1])
            found[cell, saves] = ((moved[cell + 1] - moved[low]) / (points[cell + 1] - points[low]))[saves]
            left &= ~saves
    return np.ascontiguousarray(np.moveaxis(found.reshape(-1, *rest), 0, d))
