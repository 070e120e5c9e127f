"""From weights to channels: importances summed over a channel's slices, reduced over the places where it lives, made comparable."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from pas.axes.ids import Table
from pas.axes.signature import Signature
from pas.criteria.weightwise import Maps

TINY = float(np.finfo(np.float64).tiny)

REDUCTIONS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "sum": np.add,
    "mean": np.add,  # then divided by the number of slots
    "max": np.maximum,
    "prod": np.multiply,
    "first": lambda before, new: before,
}
"""How a channel's importance so far and that in one slot more become one."""

NORMALISERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": lambda x: x,
    "sum": lambda x: x / max(np.abs(x).sum(), TINY),
    "mean": lambda x: x / max(np.abs(x).mean(), TINY),
    "max": lambda x: x / max(np.abs(x).max(), TINY),
    "standardise": lambda x: (x - x.min()) / max(x.max() - x.min(), TINY),
    "gaussian": lambda x: (x - x.mean()) / max(float(np.sqrt(np.square(x - x.mean()).sum() / max(len(x) - 1, 1))), TINY),
}
"""What an axis's importances (n,) become. The first four are of magnitudes, so that importances with signs keep their order."""


def grouped(signature: Signature, maps: Maps, reduce: str, normalise: str) -> np.ndarray:
    """One importance a channel (channels,) out of one a weight, in the grouped form of SPA (https://arxiv.org/abs/2403.18955) and DepGraph
    (https://arxiv.org/abs/2301.12900); NaN for channels of which no map says anything.

    In each slot (a dimension of a parameter in which the channel's axis lives, whether it makes or reads the channel) the importances of
    all weights that go with the channel are summed; `reduce`, of `REDUCTIONS`, makes one number of those of all slots ("first": the first
    slot in the order of the signature, as a rule the kernel that makes the channel); `normalise`, of `NORMALISERS`, is taken inside each
    axis. Where an element of a dimension belongs to several channels (the group and the place in the group), it counts for each of them.
    """
    total, slots = np.full(signature.channels, np.nan), np.zeros(signature.channels)
    combine = REDUCTIONS[reduce]
    for name, dims in signature.dims.items():
        if name not in maps:
            continue
        for d, table in enumerate(dims):
            if table is None:
                continue
            channels, found = _slot(maps[name], d, table)
            before = total[channels]
            total[channels] = np.where(slots[channels] == 0, found, combine(before, found))
            slots[channels] += 1
    if reduce == "mean":
        total /= np.maximum(slots, 1)
    return normalised(signature, total, normalise)


def normalised(signature: Signature, scores: np.ndarray, how: str) -> np.ndarray:
    """Scores (channels,) normalised inside each axis, by one of `NORMALISERS`."""
    scores = scores.copy()
    for axis in signature.axes:
        part = np.s_[axis.start : axis.start + axis.size]
        scores[part] = NORMALISERS[how](scores[part])
    return scores


def _slot(importance: torch.Tensor, dim: int, table: Table) -> tuple[np.ndarray, np.ndarray]:
    """The channels that live in a dimension, and of each the summed importance of its slices."""
    others = [d for d in range(importance.dim()) if d != dim]
    each = importance.sum(others, dtype=torch.float64) if others else importance.double()
    channels, where = np.unique(table, return_inverse=True)
    return channels, np.bincount(where.ravel(), np.repeat(each.cpu().numpy(), table.shape[1]), len(channels))
