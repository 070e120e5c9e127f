"""A comparison to look at: accuracy against cost where its cells are budgets of one task, else every method's recovery side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pas.amount import UNITS
from pas.report.collect import Mean, dense_top1
from pas.report.comparison.caption import title
from pas.report.comparison.lines import Line, cells_of, kinds_of, results_of, stages_of
from pas.report.figures import COLOURS, INK, figure_of, plain, save, style

WORDS = {"cut": "right after the cut", "renorm": "norms re-estimated", "epoch": "after one epoch", "end": "at the end"}
SAME = 0.05
"""Top-1 of one dense parent, measured twice, differs by less."""
FAR = 0.5
"""The dense network's top-1 is drawn where it widens a panel by at most such a share."""


def draw(lines: Sequence[Line], path: Path) -> Path:
    """Write the figure of a comparison; means over seeds with their standard deviation."""
    return _curves(lines, path) if are_curves(lines) else _dots(lines, path)


def are_curves(lines: Sequence[Line]) -> bool:
    """Whether the cells are the same task and dense parents at different costs."""
    cells = list(cells_of(lines).values())
    found = results_of(lines)
    tasks = {(result["model"], result["data"], result["split"]) for result in found}
    kinds = {tuple(kinds_of(group)) for group in cells}
    if len(cells) == 1 or len(tasks) > 1 or len(kinds) > 1:
        return False
    dense: dict[int, list[float]] = {}
    for line in lines:
        for seed, result in line.results.items():
            dense.setdefault(seed, []).append(result["dense"]["top1"])
    costs = {round(cost.mean, 2) for group in cells if (cost := group[0].share(_kind(lines))) is not None}
    return all(max(values) - min(values) < SAME for values in dense.values()) and len(costs) == len(cells)


def _curves(lines: Sequence[Line], path: Path) -> Path:
    """A panel a stage that was measured: top-1 against the share of the dense cost, a line a row. The end has a scale of its own: there
    rows lie close together.
    """
    rows = list(dict.fromkeys(line.row for line in lines))
    stages, kind = stages_of(lines), _kind(lines)
    columns = max(2, 2 * len(stages))
    figure = figure_of(3.4 * len(stages) + 0.6, 3.3 + 0.17 * -(-(len(rows) + 1) // columns))
    panels = figure.subplots(1, len(stages), squeeze=False)[0]
    for axes, stage in zip(panels, stages, strict=True):
        if stage != "end" and axes is not panels[0]:
            axes.sharey(panels[0])
            axes.tick_params(labelleft=False)
        for number, row in enumerate(rows):
            points = [(line.share(kind), line.top1(stage)) for line in lines if line.row == row]
            known = sorted((cost.mean, value.mean, value.std) for cost, value in points if cost is not None and value is not None)
            if known:
                cost, mean, std = zip(*known, strict=True)
                axes.errorbar(cost, mean, std if any(std) else None, **style(number), ms=4, lw=1.3, capsize=2, label=row)
        dense, told = dense_top1(results_of(lines)), WORDS[stage]
        if stage != "end" or _near(dense, [line.top1(stage) for line in lines]):
            axes.axhline(dense, color=INK, lw=0.9, ls="--", label="dense")
        else:
            told += f" (dense: {dense:.1f})"
        axes.set_title(told, fontsize=9, color=INK, loc="left")
        axes.set_xlabel(f"share of the dense {'latency' if kind == 'latency' else UNITS[kind]}")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        plain(axes)
    panels[0].set_ylabel("top-1 (%)")
    found = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.suptitle(title("", lines), x=0.01, ha="left", fontsize=10, color=INK)
    figure.legend(found.values(), found.keys(), loc="outside lower left", ncols=columns, frameon=False, fontsize=8)
    return save(figure, path)


def _dots(lines: Sequence[Line], path: Path) -> Path:
    """A row of panels a cell, a panel a stage that was measured in it: the top-1 of every row, each panel on a scale of its own."""
    cells = cells_of(lines)
    stages = {cell: stages_of(group) for cell, group in cells.items()}
    across = max(map(len, stages.values()))
    longest = max(len(line.row) for line in lines)
    heights = [0.75 + 0.21 * len(group) for group in cells.values()]
    titles = [title(cell, group) for cell, group in cells.items()]
    width = max(0.4 + 0.065 * longest + 2.1 * across, 0.3 + 0.08 * max(map(len, titles)))
    figure = figure_of(width, sum(heights) + 0.35 * len(heights))
    parts = figure.subfigures(len(cells), 1, squeeze=False, height_ratios=heights)[:, 0]
    for part, words, (cell, group) in zip(parts, titles, cells.items(), strict=True):
        part.suptitle(words, x=0.01, ha="left", fontsize=10, color=INK)
        panels = part.subplots(1, across, squeeze=False, sharey=True)[0]
        for axes, stage in zip(panels, stages[cell], strict=False):
            _panel(axes, group, stage)
        for axes in panels[len(stages[cell]) :]:
            axes.set_visible(False)
    return save(figure, path)


def _panel(axes: Axes, group: Sequence[Line], stage: str) -> None:
    means = [line.top1(stage) for line in group]
    known = [(place, mean) for place, mean in enumerate(means) if mean is not None]
    for place, mean in known:
        axes.errorbar(mean.mean, place, xerr=mean.std if mean.n > 1 else None, color=COLOURS[0], marker="o", ms=4, capsize=2, lw=1.2)
    dense = dense_top1(results_of(group))
    words = WORDS[stage]
    if _near(dense, means):
        axes.axvline(dense, color=INK, lw=0.9, ls="--")
    else:
        words += f" (dense: {dense:.1f})"
    axes.set_title(words, fontsize=8, color=INK, loc="left")
    axes.set_yticks(range(len(group)), [line.row for line in group])
    axes.set_ylim(len(group) - 0.4, -0.6)
    axes.margins(x=0.08)
    axes.set_xlabel("top-1 (%)")
    plain(axes)


def _near(dense: float, means: Sequence[Mean | None]) -> bool:
    """Whether the dense network's top-1 widens a panel of these by little."""
    known = [mean for mean in means if mean is not None]
    low, high = min(mean.mean - mean.std for mean in known), max(mean.mean + mean.std for mean in known)
    return low - FAR * (high - low) <= dense <= high + FAR * (high - low)


def _kind(lines: Sequence[Line]) -> str:
    return kinds_of(lines)[0]
