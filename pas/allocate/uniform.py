"""Uniform widths: every axis keeps the same share."""

from __future__ import annotations

import numpy as np

from pas.allocate.landing import Load, Widths, land, shares


def uniform(widths: Widths, scores: np.ndarray, load: Load) -> np.ndarray:
    """The mask over all channels with one share for all axes, as large as the budget allows, landed in the band.

    Inside an axis the highest `scores` (channels,) stay. Thresholding a channel's share of its axis is scaling widths.
    """
    return land(widths, 1 - shares(widths, scores), load)
