"""What each width of an axis costs when all other axes stay as they are: the costs that a knapsack takes.

A layer between two axes costs about the product of their widths, so the parts of a sum over axes can't all be right. Two published views
count such a layer once: SMCP (https://arxiv.org/abs/2211.02206) with the axis that it reads, HALP
(https://arxiv.org/abs/2210.06659) with the axis that it makes; SMCP's released code also mixes them, ``w`` of the first and
``1 - w`` of the second. Both linearise anew after each solution.
"""

from __future__ import annotations

import numpy as np
import torch

from pas.allocate.landing import AT_ONCE, Widths
from pas.axes.signature import Axis
from pas.budget import Limits

OPTIONS = 64
"""Widths of an axis that are considered."""


def options(widths: Widths) -> list[np.ndarray]:
    """Per axis its legal widths (K_a,), ascending; of longer ladders `OPTIONS` at about equal distances, the first and last among them."""
    found = []
    for a in range(len(widths.axes)):
        ladder = np.array(widths.ladder(a))
        found.append(ladder[np.unique(np.linspace(0, len(ladder) - 1, min(OPTIONS, len(ladder))).round().astype(int))])
    return found


def linearised(
    limits: Limits, widths: Widths, rungs: list[np.ndarray], mask: np.ndarray, *, reads: float, makes: float
) -> list[np.ndarray]:
    """Per axis what each of its `rungs` (K_a,), widths, adds to the load at a mask over all channels (C,), in shares of the target.

    With ``load(k)`` that of axis a at width k and all others as in the mask, and ``own(k)`` the same with all others closed, a width adds

        own(k) - own(now) + (reads (1 - m) + makes m) ((load - own)(k) - (load - own)(now)).

    What concerns the axis alone (depth-wise layers, the stem, the classifier) is all its own; of layers that it shares with another axis
    m is the part that makes it, by the slopes of the cost at the mask. For multiply-adds and parameters the parts are exact; the time of an
    operator doesn't vanish with its width, so of latency a little of what is shared counts as own.

    `reads`, `makes`: 1, 0 is SMCP's view, 0, 1 HALP's, w, 1 - w SMCP's double-sided one; 1, 1 is the exact difference of a single step,
    which counts what two steps save together twice. Of several limits, the one that is tightest at the mask.
    """
    tightest = max(limits.each, key=lambda limit: limit.cost.at(mask) / limit.target)
    only = Limits((tightest,))
    alone = np.ones((len(widths.axes), widths.channels), dtype=bool)
    for axis in widths.axes:
        alone[:, axis.start : axis.start + axis.size] = False
    for a, axis in enumerate(widths.axes):
        alone[a, axis.start : axis.start + axis.size] = mask[axis.start : axis.start + axis.size]
    found = []
    for a, (axis, rung, part) in enumerate(zip(widths.axes, rungs, _made(only, widths, mask, alone), strict=True)):
        whole, own = (_differences(only, axis, rung, one) for one in (mask, alone[a]))
        found.append(own + (reads * (1 - part) + makes * part) * (whole - own))
    return found


def _differences(limits: Limits, axis: Axis, rungs: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The load with one axis at each of these widths, less that of the mask (K,)."""
    masks = np.repeat(mask[None], len(rungs) + 1, axis=0)
    masks[1:, axis.start : axis.start + axis.size] = np.arange(axis.size) < rungs[:, None]
    load = np.concatenate([limits.load(masks[i : i + AT_ONCE]) for i in range(0, len(masks), AT_ONCE)])
    return load[1:] - load[0]


def _made(limits: Limits, widths: Widths, mask: np.ndarray, alone: np.ndarray) -> np.ndarray:
    """Of what each axis shares with others the part that makes it (axes,), by the cost's slopes; a half where these are zero."""

    def slopes(*, both_sides: bool) -> np.ndarray:
        """Summed over each axis, at the mask less those of the axis alone."""
        leaf = torch.from_numpy(np.concatenate([mask[None], alone])).to(torch.float64).requires_grad_()
        with torch.enable_grad():
            total = limits.each[0].cost(leaf, both_sides=both_sides).sum()
        (gradient,) = torch.autograd.grad(total, leaf)
        sums = np.stack([gradient[:, axis.start : axis.start + axis.size].sum(1).numpy() for axis in widths.axes], 1)
        shared: np.ndarray = sums[0] - sums[1:].diagonal()
        return shared

    both, makers = slopes(both_sides=True), slopes(both_sides=False)
    share = np.divide(makers, both, out=np.full(len(both), 0.5), where=np.abs(both) > 1e-9 * np.abs(both).max(initial=0))
    return np.clip(share, 0, 1)
