"""Names beside the points of a figure, where they cover neither each other nor a point."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from pas.report.figures import INK


class Spot(NamedTuple):
    """A side of a point and the distance from it, in points of print."""

    distance: float
    right: int
    up: int


DISTANCES = (6.0, 14.0)
SPOTS = [Spot(*one) for one in itertools.product(DISTANCES, (1, -1, 0), (0, 1, -1)) if one[1:] != (0, 0)]
"""The favourite first: right, above and below that, left; those further away after all that are near."""
HALF_MARKER = 4.0
HORIZONTAL, VERTICAL = {1: "left", -1: "right", 0: "center"}, {1: "bottom", -1: "top", 0: "center"}
LEADER = {"arrowstyle": "-", "lw": 0.4, "color": INK, "shrinkA": 0, "shrinkB": 3}


def put_names(axes: Axes, points: Sequence[tuple[float, float]], names: Sequence[str]) -> None:
    """Write each name beside its point, on the first side where there is room; where there is none, on the one that covers least.

    The limits of the axes have to be final.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # so that the layout is done, and texts know their sizes
    half = HALF_MARKER * figure.dpi / 72
    taken = [Bbox([[x - half, y - half], [x + half, y + half]]) for x, y in axes.transData.transform(points)]
    for point, name in zip(points, names, strict=True):
        text = axes.annotate(name, point, (0, 0), textcoords="offset points", fontsize=6, color=INK)
        tried = []
        for place in SPOTS:
            _put(text, place)
            tried.append((_covered(text.get_window_extent(), taken, axes.bbox), place))
            if tried[-1][0] == 0:
                break
        best = min(tried, key=lambda one: one[0])[1]  # of equals the favourite
        _put(text, best)
        taken.append(text.get_window_extent())
        if best.distance > DISTANCES[0]:
            axes.annotate("", point, text.get_position(), textcoords="offset points", arrowprops=LEADER)


def _put(text: Annotation, spot: Spot) -> None:
    text.set_position((spot.right * spot.distance, spot.up * spot.distance * (0.6 if spot.right else 1)))
    text.set(ha=HORIZONTAL[spot.right], va=VERTICAL[spot.up])


def _covered(box: Bbox, taken: Sequence[Bbox], inside: Bbox) -> float:
    """How much of a box lies on others, or outside of the axes."""
    shared = [Bbox.intersection(box, other) for other in taken]
    within = Bbox.intersection(box, inside)
    outside = _area(box) - (_area(within) if within is not None else 0.0)
    return sum(_area(one) for one in shared if one is not None) + outside


def _area(box: Bbox) -> float:
    return float(box.width * box.height)
