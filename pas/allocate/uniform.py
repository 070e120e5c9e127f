"""Uniform widths: every axis keeps the same share."""

from __future__ import annotations

import numpy as np

from pas.allocate.landing import Load, Widths, land, ranked


def uniform(widths: Widths, scores: np.ndarray, load: Load) -> np.ndarray:
    """The mask over all channels with one share for all axes, as large as the budget allows, landed in the band.

    Inside an axis the highest `scores` (channels,) stay. A channel's share is its rank over the size of its axis:
    thresholding shares is scaling widths.
    """
    share = np.zeros(widths.channels)
    for axis, order in zip(widths.axes, ranked(widths.axes, scores), strict=True):
        share[axis.start + order] = 1 - (np.arange(axis.size) + 1) / axis.size
    return land(widths, share, load)
