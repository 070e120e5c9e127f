"""What `metrics.jsonl` tells, as curves over the steps of the stages one after the other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pas.report.figures import COLOURS, INK, SPINE, figure_of, plain, save, tick, words

NAMES = {
    "loss": "training loss",
    "top1": "training top-1 (%)",
    "open": "open channels",
    "macs": "MACs",
    "params": "parameters",
    "latency": "predicted latency (ms)",
}
STAGES = {"dense": ("dense parent", "#9aa3ad"), "search": ("search", COLOURS[1]), "finetune": ("fine-tuning", COLOURS[0])}
MOST = 400
"""Points of a stage that are drawn."""
Point = tuple[int, float]


@dataclass(frozen=True)
class Curve:
    """One number of the rows by stage, its points at steps counted from the first stage's start; `export`: what it would be after an export
    at that step; `ends`: where each stage ends; `target`: what the budget allows.
    """

    name: str
    stages: dict[str, list[Point]]
    export: list[Point]
    ends: dict[str, int]
    target: float | None

    @property
    def label(self) -> str:
        return NAMES[self.name]

    @property
    def thinned(self) -> bool:
        """Whether not all points are drawn."""
        return any(len(points) > MOST for points in (*self.stages.values(), self.export))


def read(rows: Sequence[Mapping[str, Any]], target: Mapping[str, float]) -> list[Curve]:
    """The curves that there are; what is no finite number is left out. `target`: of MACs and parameters. A latency has none: it is measured
    in other milliseconds than those that were predicted.
    """
    starts, ends = _places(rows)

    def points(name: str, stage: str) -> list[Point]:
        return [(starts[stage] + row["step"], row[name]) for row in rows if row["stage"] == stage and _finite(row.get(name))]

    found = []
    for name in NAMES:
        stages = {stage: of for stage in starts if (of := points(name, stage))}
        export = [point for stage in starts for point in points(f"export_{name}", stage)]
        if stages:
            found.append(Curve(name, stages, export, ends, target.get(name) if name != "latency" else None))
    return found


def thin(points: Sequence[Point]) -> list[Point]:
    """Of a long curve the lowest and the highest point of each of MOST / 2 equal pieces, the first and the last: no peak is lost."""
    if len(points) <= MOST:
        return list(points)
    edges = [len(points) * i // (MOST // 2) for i in range(MOST // 2 + 1)]
    pieces = [points[a:b] for a, b in itertools.pairwise(edges)]
    ends = {one for piece in pieces for one in (min(piece, key=lambda point: point[1]), max(piece, key=lambda point: point[1]))}
    return sorted({points[0], points[-1]} | ends)


def curves(found: Sequence[Curve], path: Path, title: str) -> Path:
    """Write one figure of all curves side by side."""
    figure = figure_of(3.2 * len(found), 2.9)
    for axes, curve in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        _draw(axes, curve)
    figure.suptitle(words(title), x=0.01, ha="left", fontsize=10, color=INK)
    return save(_explained(figure), path)


def curve_of(curve: Curve) -> Figure:
    """A figure of one curve."""
    figure = figure_of(3.5, 2.5)
    _draw(figure.subplots(), curve)
    return _explained(figure)


def _explained(figure: Figure) -> Figure:
    """With a legend of the lines that aren't a stage, if there are any."""
    found = {label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if found:
        place: dict[str, Any] = {"loc": "outside lower left", "ncols": len(found), "frameon": False}
        figure.legend(found.values(), found.keys(), **place, fontsize=8, labelcolor=INK)
    return figure


def _draw(axes: Axes, curve: Curve) -> None:
    """Stages in colours of their own, named at the top, with a line between them."""
    first, last = next(iter(curve.ends)), max(curve.ends.values())
    for stage, points in curve.stages.items():
        axes.plot(*zip(*thin(points), strict=True), color=STAGES.get(stage, ("", INK))[1], lw=1.4)
    if curve.export:
        axes.plot(*zip(*thin(curve.export), strict=True), color=INK, lw=1.0, ls=":", label="after an export")
    if curve.target is not None:
        axes.axhline(curve.target, color=INK, lw=0.9, ls="--", label="target")
    axes.set_xlim(0, max(1, last))
    for stage, end in curve.ends.items():
        name, colour = STAGES.get(stage, (stage, INK))
        place: dict[str, Any] = {"x": 0, "ha": "left"} if stage == first else {"x": end, "ha": "right"}
        axes.text(**place, y=1.02, s=words(name), transform=axes.get_xaxis_transform(), va="bottom", fontsize=7, color=colour)
        if end < last:
            axes.axvline(end, color=SPINE, lw=0.8)
    axes.set_ylabel(curve.label)
    axes.set_xlabel("step")
    axes.yaxis.set_major_formatter(FuncFormatter(tick))
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    plain(axes)


def _places(rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, int], dict[str, int]]:
    """Where each stage starts and ends on a common scale of steps, in their order."""
    lengths: dict[str, int] = {}
    for row in rows:
        lengths[row["stage"]] = max(lengths.get(row["stage"], 0), row["step"])
    starts, ends, total = {}, {}, 0
    for stage, length in lengths.items():
        starts[stage] = total
        total += length
        ends[stage] = total
    return starts, ends


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
