"""Figures of one run and of a sweep, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pas.amount import UNITS
from pas.architecture import Architecture
from pas.disk import writing
from pas.errors import PasError
from pas.report.collect import Cell, dense_top1

LAYERS_A_ROW = 40
NUMBERED = 24  # up to so many layers in a row, the kept widths are written above the bars
DENSE, KEPT, INK, SPINE, GRID = "#d6dbe1", "#2f6f9f", "#333a42", "#aab2bb", "#eceff2"
COLOURS = ("#2f6f9f", "#d1793b", "#5a9a62", "#8c6bb1", "#b5495b", "#7a7a7a")
MARKERS = "osD^vP*Xdph<>"
DASHES = ("-", "--", ":")
"""Where the colours begin again, the next of these."""

FORMATS = (".png", ".svg", ".pdf")


def checked(path: Path) -> Path:
    """The path of a figure that a person asked for. Raises PasError when its name has another ending than those that can be drawn."""
    if path.suffix not in FORMATS:
        raise PasError(f"{path}: the name must end in {', '.join(FORMATS)}")
    return path


def widths(names: Sequence[str], dense: Sequence[int], kept: Sequence[int], path: Path, title: str) -> Path:
    """The width of every layer that stays, before that of the dense network, in the order of the network.

    Networks with many layers go over several rows of bars, each with a scale of its own.
    """
    names = without_common_start(names)
    count = -(-len(names) // LAYERS_A_ROW)
    a_row = -(-len(names) // count)
    pieces = [slice(first, first + a_row) for first in range(0, len(names), a_row)]
    longest = max(len(name) for name in names)
    figure = figure_of(max(6.0, 1.2 + 0.29 * a_row), len(pieces) * (3.1 + 0.075 * longest) + 0.6)
    panels = figure.subplots(2 * len(pieces), 1, squeeze=False, height_ratios=[3, 1] * len(pieces))[:, 0]
    for row, piece in enumerate(pieces):
        upper, lower = panels[2 * row], panels[2 * row + 1]
        _bars(upper, dense[piece], kept[piece], slots=a_row)
        _shares(lower, names[piece], dense[piece], kept[piece], slots=a_row)
    figure.align_ylabels(panels)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.suptitle(words(title), x=0.01, ha="left", fontsize=10, color=INK)
    share = sum(kept) / sum(dense)
    labels = [labels[0], f"{labels[1]} ({sum(kept):,} of {sum(dense):,} channels, {share:.0%})"]
    figure.legend(handles, labels, loc="outside lower left", ncols=2, frameon=False, fontsize=8)
    return save(figure, path)


def widths_of(architecture: Architecture, path: Path, title: str) -> Path:
    """The same figure of all axes of an architecture."""
    kept = architecture.widths()
    return widths(list(kept), [architecture.sizes[name] for name in kept], list(kept.values()), path, title)


def pair(
    names: Sequence[str], dense: Sequence[int], kept: Mapping[str, Sequence[int]], common: Sequence[int], path: Path, title: str
) -> Path:
    """The widths of two networks side by side before the dense ones; a line on both bars marks the channels that both keep.

    `kept`: label -> width of every layer, for both networks.
    """
    names = without_common_start(names)
    count = -(-len(names) // LAYERS_A_ROW)
    a_row = -(-len(names) // count)
    longest = max(len(name) for name in names)
    figure = figure_of(max(6.0, 1.2 + 0.29 * a_row), count * (3.3 + 0.075 * longest) + 0.9)
    panels = figure.subplots(2 * count, 1, squeeze=False, height_ratios=[3, 2] * count)[:, 0]
    for row, first in enumerate(range(0, len(names), a_row)):
        piece = slice(first, first + a_row)
        bars = {label: widths[piece] for label, widths in kept.items()}
        _two_bars(panels[2 * row], dense[piece], bars, common[piece], slots=a_row)
        panels[2 * row].set_xticks([])
        panels[2 * row].set_ylabel("channels")
        whole = [100 / size for size in dense[piece]]  # in percent too: narrow layers would be lost beside wide ones
        shares = {label: _products(widths, whole) for label, widths in bars.items()}
        _two_bars(panels[2 * row + 1], _products(dense[piece], whole), shares, _products(common[piece], whole), slots=a_row)
        panels[2 * row + 1].set_xticks(range(len(names[piece])), [words(name) for name in names[piece]], rotation=90)
        panels[2 * row + 1].set_ylabel("kept (%)")
    figure.align_ylabels(panels)
    figure.suptitle(words(title), x=0.01, ha="left", fontsize=10, color=INK)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=1, frameon=False, fontsize=8)
    return save(figure, path)


def front(group: Sequence[Cell], path: Path, title: str) -> Path:
    """Write the figure of accuracy against cost over a sweep."""
    figure = front_of(group)
    figure.suptitle(words(title), x=0.01, ha="left", fontsize=10, color=INK)
    return save(figure, path)


def front_of(group: Sequence[Cell], width: float = 5.6) -> Figure:
    """Mean and standard deviation over seeds against cost, a line a method, and the dense network with a line at its accuracy; `width` in
    inches.
    """
    kind = group[0].kind
    name = "latency_ms" if kind == "latency" else kind
    whole = [run.result for cell in group for run in cell.runs]
    dense, top1 = sum(one["dense"][name] for one in whole) / len(whole), dense_top1(whole)
    methods = sorted({cell.label for cell in group})
    columns = 2 if width > 5 else 1
    figure = figure_of(width, 3.1 + 0.17 * -(-(len(methods) + 1) // columns))
    axes = figure.subplots()
    for number, method in enumerate(methods):
        points = sorted((cell for cell in group if cell.label == method), key=lambda cell: cell.cost(dense))
        cost = [cell.cost(dense) for cell in points]
        found = [cell.mean("searched", "top1") for cell in points]
        axes.errorbar(cost, [one.mean for one in found], [one.std for one in found], **style(number), ms=4, lw=1.4, capsize=3,
                      label=words(f"{method} ({_seeds(points)})"))  # fmt: skip
    axes.axhline(top1, color=INK, lw=0.9, ls="--")
    axes.plot(dense, top1, marker="*", ms=11, ls="--", lw=0.9, color=INK, label="dense")
    axes.set_xlabel(f"{UNITS[kind]} of the fused network" if kind != "latency" else "latency (ms)")
    axes.set_ylabel(words(f"{group[0].split} top-1 (%)"))
    axes.margins(x=0.06, y=0.12)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(FuncFormatter(tick))
    figure.legend(loc="outside lower left", ncols=columns, frameon=False, fontsize=8, labelcolor=INK)
    plain(axes)
    return figure


def style(number: int) -> dict[str, Any]:
    """Colour, marker and line of the line with this number."""
    turn, colour = divmod(number, len(COLOURS))
    return {"color": COLOURS[colour], "marker": MARKERS[number % len(MARKERS)], "ls": DASHES[turn % len(DASHES)]}


def _bars(axes: Axes, dense: Sequence[int], kept: Sequence[int], *, slots: int) -> None:
    places = range(len(dense))
    axes.bar(places, dense, width=0.82, color=DENSE, label="dense width")
    axes.bar(places, kept, width=0.82, color=KEPT, label="kept")
    top = max(dense)
    if slots <= NUMBERED:
        for place, width in zip(places, kept, strict=True):
            axes.text(place, width + 0.015 * top, str(width), ha="center", va="bottom", fontsize=7, color=INK)
    axes.set_xticks([])
    axes.set_xlim(-0.6, slots - 0.4)  # the same scale in a last row that isn't full
    axes.set_ylim(0, 1.08 * top)
    axes.set_ylabel("channels")
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    plain(axes)


def _shares(axes: Axes, names: Sequence[str], dense: Sequence[int], kept: Sequence[int], *, slots: int) -> None:
    """The same in percent: narrow layers would be lost beside wide ones."""
    places = range(len(names))
    axes.bar(places, [100] * len(names), width=0.82, color=DENSE)
    axes.bar(places, [100 * part / whole for part, whole in zip(kept, dense, strict=True)], width=0.82, color=KEPT)
    axes.set_xticks(list(places), [words(name) for name in names], rotation=90)
    axes.set_xlim(-0.6, slots - 0.4)
    axes.set_ylim(0, 100)
    axes.set_yticks([0, 50, 100])
    axes.set_ylabel("kept (%)")
    axes.tick_params(axis="x", length=0)
    plain(axes)


def _two_bars(
    axes: Axes, dense: Sequence[float], kept: Mapping[str, Sequence[float]], common: Sequence[float], *, slots: int
) -> None:
    places = range(len(dense))
    axes.bar(places, dense, width=0.86, color=DENSE, label="dense width")
    for shift, colour, (label, widths) in zip((-0.2, 0.2), COLOURS[:2], kept.items(), strict=True):
        axes.bar([place + shift for place in places], widths, width=0.36, color=colour, label=words(label))
    left, right = [place - 0.4 for place in places], [place + 0.4 for place in places]
    axes.hlines(common, left, right, color=INK, lw=1.2, label="channels in common")
    axes.set_xlim(-0.6, slots - 0.4)
    axes.set_ylim(0, 1.04 * max(dense))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    plain(axes)
    axes.tick_params(axis="x", length=0)


def _products(one: Sequence[float], other: Sequence[float]) -> list[float]:
    return [a * b for a, b in zip(one, other, strict=True)]


def without_common_start(names: Sequence[str]) -> list[str]:
    """Layer names without the modules that all of them lie in, such as `features.`"""
    paths = [name.split(".") for name in names]
    shared = 0
    while all(len(path) > shared + 1 for path in paths) and len({path[shared] for path in paths}) == 1:
        shared += 1
    return [".".join(path[shared:]) for path in paths]


def _seeds(points: Sequence[Cell]) -> str:
    counts = sorted({len(cell.runs) for cell in points})
    if counts == [1]:
        return "1 seed"
    return f"mean ± std, {counts[0]} seeds" if len(counts) == 1 else f"mean ± std, {counts[0]}-{counts[-1]} seeds"


def tick(value: float, _: float) -> str:
    """A count on an axis: 20 M."""
    for unit, scale in ((" G", 1e9), (" M", 1e6), (" k", 1e3)):
        if abs(value) >= scale:
            return f"{value / scale:g}{unit}"
    return f"{value:g}"


def words(text: str) -> str:
    """Text in which no dollar begins a formula, with a question mark in place of what isn't printed."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text).replace("$", r"\$")


def figure_of(width: float, height: float) -> Figure:
    # not through pyplot: no global state, no window, nothing to close
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(SPINE)
    axes.tick_params(colors=INK, labelsize=7)
    axes.xaxis.label.set(color=INK, size=8)
    axes.yaxis.label.set(color=INK, size=8)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=GRID, lw=0.8)


def save(figure: Figure, path: Path) -> Path:
    """Write a figure whole or not at all."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    return path
