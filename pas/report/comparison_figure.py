"""A comparison to look at: accuracy against cost where it has several budgets, else every method's recovery side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from pas.report.comparison import Line, cells_of, stages_of
from pas.report.figures import COLOURS, INK, figure_of, plain, save

MARKERS = "osD^vP*Xdph<>"
DASHES = ("-", "--", ":")
"""Where the colours begin again, the next of these."""


def draw(lines: Sequence[Line], path: Path, title: str) -> Path:
    """Write the figure of a comparison; means over seeds with their standard deviation."""
    return _curves(lines, path, title) if len(cells_of(lines)) > 1 else _dots(lines, path, title)


def _curves(lines: Sequence[Line], path: Path, title: str) -> Path:
    """A panel a stage that was measured: top-1 against the share of the dense cost, a line a row."""
    rows = list(dict.fromkeys(line.row for line in lines))
    stages = stages_of(lines)
    kind = _kind(lines)
    figure = figure_of(3.4 * len(stages) + 0.4, 3.6 + 0.17 * (len(rows) / (2 * len(stages))))
    panels = figure.subplots(1, len(stages), squeeze=False, sharey=True)[0]
    for axes, stage in zip(panels, stages, strict=True):
        for number, row in enumerate(rows):
            points = [(line.share(kind), line.top1(stage)) for line in lines if line.row == row]
            known = sorted((cost.mean, value.mean, value.std) for cost, value in points if cost is not None and value is not None)
            if known:
                cost, mean, std = zip(*known, strict=True)
                axes.errorbar(cost, mean, std, **_style(number), ms=4, lw=1.3, capsize=2, label=row)
        axes.axhline(_dense(lines), color=INK, lw=0.9, ls="--", label="dense")
        axes.set_title(_words(stage), fontsize=9, color=INK, loc="left")
        axes.set_xlabel(f"share of the dense {'latency' if kind == 'latency_ms' else kind}")
        plain(axes)
    panels[0].set_ylabel("top-1 (%)")
    found = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, color=INK)
    figure.legend(found.values(), found.keys(), loc="outside lower left", ncols=2 * len(stages), frameon=False, fontsize=8)
    return save(figure, path)


def _dots(lines: Sequence[Line], path: Path, title: str) -> Path:
    """A line a row from its top-1 right after the cut to the one at the end."""
    figure = figure_of(6.4, 1.3 + 0.28 * len(lines))
    axes: Axes = figure.subplots()
    for number, stage in enumerate(stages_of(lines)):
        colour = COLOURS[number % len(COLOURS)]
        for place, line in enumerate(lines):
            value = line.top1(stage)
            if value is not None:
                axes.errorbar(value.mean, -place, xerr=value.std, color=colour, marker=MARKERS[number], ms=5, capsize=2, lw=1.2)
    axes.axvline(_dense(lines), color=INK, lw=0.9, ls="--")
    axes.set_yticks([-place for place in range(len(lines))], [line.row for line in lines])
    axes.set_xlabel("top-1 (%)")
    plain(axes)
    handles = [Line2D([], [], color=COLOURS[number % len(COLOURS)], marker=MARKERS[number], ls="", label=_words(stage))
               for number, stage in enumerate(stages_of(lines))]  # fmt: skip
    handles.append(Line2D([], [], color=INK, lw=0.9, ls="--", label="dense"))
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, color=INK)
    figure.legend(handles=handles, loc="outside lower left", ncols=len(handles), frameon=False, fontsize=8)
    return save(figure, path)


def _style(number: int) -> dict[str, str]:
    turn, colour = divmod(number, len(COLOURS))
    return {"color": COLOURS[colour], "marker": MARKERS[number % len(MARKERS)], "ls": DASHES[turn % len(DASHES)]}


def _words(stage: str) -> str:
    return {"cut": "right after the cut", "renorm": "norms re-estimated", "epoch": "after one epoch", "end": "at the end"}[stage]


def _kind(lines: Sequence[Line]) -> str:
    kind = str(next(iter(lines[0].results.values()))["budget"]["kind"])
    return "latency_ms" if kind == "latency" else kind


def _dense(lines: Sequence[Line]) -> float:
    values = [result["dense"]["top1"] for line in lines for result in line.results.values()]
    return float(sum(values) / len(values))
