"""Which channels a smaller search must still have, and where they were before."""

from __future__ import annotations

import numpy as np

from pas.allocate.landing import Widths
from pas.axes.signature import Signature


def needed(widths: Widths, landed: np.ndarray, hopeful: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The channels that a smaller search must still have: those that may come back, and a rung more than an export needs.

    `landed`: what an export would keep; `hopeful`: what may still open; `scores`: who comes first; each over all channels (C,).
    """
    keep = landed | hopeful
    for a, axis in enumerate(widths.axes):
        part = np.s_[axis.start : axis.start + axis.size]
        ladder = widths.ladder(a)
        above = [rung for rung in ladder if rung > landed[part].sum()] or [axis.size]
        width = next(rung for rung in ladder if rung >= max(keep[part].sum(), above[0]))
        order = np.lexsort((-scores[part], ~keep[part]))  # kept ones first, then by score
        keep[part] = False
        keep[axis.start + order[:width]] = True
    return keep


def positions(before: Signature, now: Signature, keep: np.ndarray) -> np.ndarray | None:
    """Of each channel of a sliced network its position before; None when its axes are not the same ones, smaller."""
    position = np.zeros(now.channels, dtype=np.int64)
    if [axis.name for axis in before.axes] != [axis.name for axis in now.axes]:
        return None
    for old, new in zip(before.axes, now.axes, strict=True):
        kept = old.start + np.flatnonzero(keep[old.start : old.start + old.size])
        if len(kept) != new.size:
            return None
        position[new.start : new.start + new.size] = kept
    return position
