"""Widths that a device rewards: the steps that a latency table shows."""

from __future__ import annotations

import numpy as np
import torch

from pas.allocate.landing import AT_ONCE, Widths
from pas.cost.latency import Latency

WORTH = 0.25
"""A width is a step when the next one costs more by at least this share of what widths cost on average."""
LEAST = 0.001
"""An axis that can't save this share of the latency stays whole."""


def steps(widths: Widths, cost: Latency) -> tuple[tuple[int, ...], ...]:
    """Of each axis the legal widths after which time rises, all else being whole; the full width always.

    Where a runtime fills channels up to blocks of 16, these are multiples of 16 for channels, and any number for attention's heads, if a
    head has such a multiple.
    """
    found: list[tuple[int, ...]] = []
    for a, axis in enumerate(widths.axes):
        ladder = widths.ladder(a)
        times = np.concatenate([_times(widths, cost, a, ladder[i : i + AT_ONCE]) for i in range(0, len(ladder), AT_ONCE)])
        rises = np.diff(times) / np.diff(ladder)
        if times[-1] - times[0] < LEAST * times[-1]:
            found.append((axis.size,))
            continue
        mean = (times[-1] - times[0]) / max(axis.size - ladder[0], 1)
        found.append((*(rung for rung, rise in zip(ladder, rises, strict=False) if rise > 0 and rise >= WORTH * mean), axis.size))
    return tuple(found)


def _times(widths: Widths, cost: Latency, a: int, rungs: list[int]) -> np.ndarray:
    """The cost of the whole network but for one axis, at these widths of it."""
    axis = widths.axes[a]
    masks = np.ones((len(rungs), widths.channels), dtype=bool)
    masks[:, axis.start : axis.start + axis.size] = np.arange(axis.size) < np.array(rungs)[:, None]
    return cost(torch.from_numpy(masks)).numpy()
