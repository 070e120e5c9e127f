"""A comparison as tables, one a cell: on the screen and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console

from pas.amount import UNITS
from pas.report.collect import Mean
from pas.report.comparison.caption import NOTE, caption, epochs, title
from pas.report.comparison.lines import STAGES, Line, cells_of, kinds_of, stages_of
from pas.report.comparison.pairs import Pairing, best, paired

UNTOLD = "–"
EMPTY = {"", UNTOLD, "0"}
"""A column of these only is left out; seconds are 0 where nothing was fine-tuned."""
SPENT = {"search s": "search", "fine-tune s": "finetune"}


def table(group: Sequence[Line], baselines: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of one cell's table, in words, without columns that are empty for all rows."""
    columns: list[tuple[str, list[str]]] = [("method", [line.row for line in group]), ("n", [str(len(line.results)) for line in group])]
    columns += [(STAGES[stage], [_points(line, stage) for line in group]) for stage in stages_of(group)]
    base = best(group, baselines)
    if base is not None and len(group) > 1:
        gaps = [paired(line, base) for line in group]
        told = ["baseline" if line is base else _difference(line, gap) for line, gap in zip(group, gaps, strict=True)]
        columns += [(f"vs {base.row}", told), ("95 % interval", [_interval(gap) for gap in gaps]), ("p", [_p(gap) for gap in gaps])]
    trained = [epochs(line) for line in group]
    if len({*trained} - {""}) > 1:
        columns.append(("epochs", trained))
    for kind in ("macs", *(kind for kind in kinds_of(group) if kind == "params"), "latency"):
        columns.append(("latency" if kind == "latency" else UNITS[kind], [_share(line, kind) for line in group]))
    columns += [(name, [_seconds(line.seconds(stage)) for line in group]) for name, stage in SPENT.items()]
    kept = [(name, words) for name, words in columns if {*words} - EMPTY]
    return [name for name, _ in kept], [list(row) for row in zip(*(words for _, words in kept), strict=True)]


def show(all_lines: Sequence[Line], baselines: Sequence[str], missing: str, console: Console) -> None:
    """Print a table a cell, and what its columns are. Lines of a table are never cut off: a terminal that is too narrow wraps them."""
    for cell, group in cells_of(all_lines).items():
        console.print(title(cell, group), style="bold", highlight=False, markup=False)
        console.print(caption(group, baselines), style="dim", highlight=False, markup=False)
        header, *rows = _aligned(*table(group, baselines))
        console.print(header, style="dim", highlight=False, markup=False, soft_wrap=True)
        for row in rows:
            console.print(row, highlight=False, markup=False, soft_wrap=True)
        console.print()
    if missing:
        console.print(missing, highlight=False, markup=False)
    console.print(NOTE, style="dim", highlight=False, markup=False)


def markdown(all_lines: Sequence[Line], baselines: Sequence[str], missing: str) -> str:
    """The tables as Markdown, with a text on what the columns are."""
    text = [NOTE, "", *([missing, ""] if missing else [])]
    for cell, group in cells_of(all_lines).items():
        header, rows = table(group, baselines)
        text += [f"## {title(cell, group)}", "", caption(group, baselines), ""]
        text += ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
        text += ["| " + " | ".join(row) + " |" for row in rows] + [""]
    return "\n".join(text)


def _aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: names on the left, numbers on the right."""
    widths = [max(map(cell_len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in (header, *rows):
        blanks = [" " * (width - cell_len(word)) for width, word in zip(widths, row, strict=True)]
        lines.append("  ".join([row[0] + blanks[0], *(blank + word for blank, word in zip(blanks[1:], row[1:], strict=True))]))
    return lines


def _counted(words: str, count: int, line: Line) -> str:
    """With the number of seeds where these are fewer than the line's."""
    return words if count == len(line.results) else f"{words} ({count})"


def _points(line: Line, stage: str) -> str:
    mean = line.top1(stage)
    return "" if mean is None else _counted(str(mean), mean.n, line)


def _share(line: Line, kind: str) -> str:
    mean = line.share(kind)
    return "" if mean is None else _counted(f"{mean.mean:.1%}", mean.n, line)


def _seconds(mean: Mean | None) -> str:
    return "" if mean is None else f"{mean.mean:.0f}" if mean.mean >= 10 or not mean.mean else f"{mean.mean:.1f}"


def _difference(line: Line, gap: Pairing | None) -> str:
    return UNTOLD if gap is None else _counted(f"{gap.difference:+.2f}", len(gap.gaps), line)


def _interval(gap: Pairing | None) -> str:
    if gap is None:
        return ""
    return UNTOLD if gap.test is None else f"{gap.test.low:+.2f} to {gap.test.high:+.2f}"


def _p(gap: Pairing | None) -> str:
    if gap is None:
        return ""
    return UNTOLD if gap.test is None else "<0.001" if gap.test.p < 0.001 else f"{gap.test.p:.3f}"
