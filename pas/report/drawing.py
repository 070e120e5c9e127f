"""A drawing of a network's axes: a bar for each, an arc for each weight that reads one axis and makes another."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Arc, Patch

from pas.axes.signature import Axis, Signature
from pas.report.figures import checked, save

FREE, LOOSE, FROZEN, INK = "#2f6f9f", "#d1793b", "#c3c9d0", "#333a42"
KINDS = {FREE: "can be sliced, exactly", LOOSE: "can be sliced, changes a norm's statistics", FROZEN: "stays whole"}


def draw(signature: Signature, path: Path, title: str) -> Path:
    """Write the drawing to `path` (.svg, .png or .pdf): axes in the order of the network, bars as high as the root of their size; arcs
    above the bars join what a weight reads to what it makes, wider for more weights. Raises PasError for another ending.
    """
    checked(path)
    axes = [axis for axis in signature.axes if axis.size > 1]
    place = {axis.start: number for number, axis in enumerate(axes)}
    arcs = weights_between(signature, axes)
    width = max(7.0, 1.0 + 0.22 * len(axes))
    figure = Figure(figsize=(width, 5.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    _arcs(above, {(place[a], place[b]): count for (a, b), count in arcs.items()})
    _bars(below, axes)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, color=INK)
    shown = [colour for colour in KINDS if any(_colour(axis) == colour for axis in axes)]
    handles = [Patch(color=colour, label=KINDS[colour]) for colour in shown]
    arc = Line2D([], [], color=INK, lw=1.5, alpha=0.55, label="a weight between two axes, wider for more numbers; bars: root of the size")
    figure.legend(handles=[*handles, arc], loc="outside lower left", ncols=2, frameon=False, fontsize=8)
    return save(figure, path)


def weights_between(signature: Signature, axes: list[Axis]) -> dict[tuple[int, int], int]:
    """(start of one axis, start of a later one) -> numbers in the parameters that live in both."""
    home = np.zeros(signature.channels, dtype=np.int64)
    for axis in axes:
        home[axis.start : axis.start + axis.size] = axis.start
    found: dict[tuple[int, int], int] = defaultdict(int)
    for name, sizes in signature.shapes.items():
        tables = [dim for dim in signature.dims.get(name, ()) if dim is not None]
        ends = sorted({int(start) for table in tables[:2] for start in np.unique(home[table]) if start})
        for a, b in itertools.combinations(ends, 2):
            found[a, b] += int(np.prod(sizes))
    return dict(found)


def _arcs(panel: Axes, arcs: dict[tuple[int, int], int]) -> None:
    """Paler and thinner where an axis has many, as a residual stream has, so that its fan doesn't become one black wedge."""
    most, longest = max(arcs.values(), default=1), max((abs(a - b) for a, b in arcs), default=1)
    fans = Counter(end for pair in arcs for end in pair)
    for (a, b), count in arcs.items():
        span = abs(a - b)
        height = 2 * (0.15 + 0.85 * span / longest)
        crowd = min(1.0, 6 / max(fans[a], fans[b]))
        width = (0.4 + 2.2 * (count / most) ** 0.5) * max(0.3, crowd)
        panel.add_patch(Arc(((a + b) / 2, 0), span, height, theta1=0, theta2=180, color=INK, lw=width, alpha=0.2 + 0.35 * crowd))
    panel.set_ylim(0, 1.08)
    panel.axis("off")


def _bars(panel: Axes, axes: list[Axis]) -> None:
    heights = [axis.size**0.5 for axis in axes]
    panel.bar(range(len(axes)), heights, width=0.72, color=[_colour(axis) for axis in axes])
    panel.invert_yaxis()
    for number, axis in enumerate(axes):
        panel.annotate(str(axis.size), (number, heights[number]), (0, -3), textcoords="offset points", rotation=90, ha="center", va="top",
                       fontsize=6, color=INK)  # fmt: skip
    panel.set_ylim(max(heights) * 1.25, 0)
    panel.set_xlim(-0.8, len(axes) - 0.2)
    panel.set_yticks([])
    panel.set_xticks(range(len(axes)), [axis.name for axis in axes], rotation=90, fontsize=6)
    for side in ("top", "left", "right", "bottom"):
        panel.spines[side].set_visible(False)
    panel.tick_params(length=0)


def _colour(axis: Axis) -> str:
    return FROZEN if not axis.prunable else FREE if axis.exact else LOOSE
