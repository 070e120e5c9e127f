"""A comparison as a table: how every method recovers from its cut, what it costs, and how far it is from the best baseline."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from scipy.stats import ttest_rel

from pas.amount import UNITS
from pas.report.collect import Mean

STAGES = {"cut": "cut", "renorm": "norms", "epoch": "one epoch", "end": "end"}
"""Of `result.json`'s `recovery`: right after the cut, with batch norms re-estimated, after an epoch of fine-tuning, after all of it."""
UNSURE = 0.2
"""A latency whose interval is wider than this share of it isn't told."""
Result = Mapping[str, Any]


@dataclass(frozen=True)
class Line:
    """The results of a row in a cell of a comparison, by seed."""

    row: str
    cell: str
    results: Mapping[int, Result]

    def top1(self, stage: str) -> Mean | None:
        """Top-1 in percent at a stage of the recovery; None where some run didn't measure it."""
        return self._mean(lambda result: top1(result, stage))

    def share(self, kind: str) -> Mean | None:
        """MACs, parameters or latency ("latency_ms") over those of the dense network."""
        return self._mean(lambda result: _share(result, kind))

    def seconds(self) -> Mean | None:
        """Of searching, fine-tuning and measuring."""
        return self._mean(_seconds)

    def _mean(self, number: Callable[[Result], float | None]) -> Mean | None:
        values = [number(result) for result in self.results.values()]
        known = [value for value in values if value is not None]
        if not known or len(known) < len(values):
            return None
        return Mean(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else 0.0, len(known))


@dataclass(frozen=True)
class Pairing:
    """Top-1 of a row minus that of another with the same seeds: the mean, and the p-value of a paired t-test (two-sided; None below two
    seeds, or where all differences are equal).
    """

    difference: float
    p: float | None
    seeds: int


def top1(result: Result, stage: str) -> float | None:
    """Top-1 of a run at a stage; None where it wasn't measured."""
    value = result["searched"]["top1"] if stage == "end" else result.get("recovery", {}).get(stage)
    return None if value is None else float(value)


def lines(found: Iterable[tuple[str, str, int, Result]]) -> list[Line]:
    """Results (row, cell, seed, result) gathered over their seeds, cell after cell, in the order in which they come."""
    groups: dict[tuple[str, str], dict[int, Result]] = {}
    for row, cell, seed, result in found:
        groups.setdefault((cell, row), {})[seed] = result
    cells = list(dict.fromkeys(cell for cell, _ in groups))
    return [Line(row, cell, results) for of in cells for (cell, row), results in groups.items() if cell == of]


def best(group: Sequence[Line], baselines: Sequence[str]) -> Line | None:
    """Of the rows of one cell the baseline with the highest mean at the end."""
    known = [line for line in group if line.row in baselines]
    return max(known, key=lambda line: statistics.fmean(result["searched"]["top1"] for result in line.results.values()), default=None)


def paired(line: Line, other: Line) -> Pairing | None:
    """The difference at the end over the seeds that both have; None without any, and for a row beside itself."""
    seeds = [seed for seed in line.results if seed in other.results]
    if line is other or not seeds:
        return None
    mine, its = ([one.results[seed]["searched"]["top1"] for seed in seeds] for one in (line, other))
    gaps = [a - b for a, b in zip(mine, its, strict=True)]
    test = len(seeds) > 1 and max(gaps) > min(gaps)
    return Pairing(statistics.fmean(gaps), float(ttest_rel(mine, its).pvalue) if test else None, len(seeds))


def stages_of(all_lines: Sequence[Line]) -> list[str]:
    """The stages of a recovery that these runs went through; without fine-tuning the end is the cut, which is told once."""
    known = [stage for stage in STAGES if any(line.top1(stage) is not None for line in all_lines)]
    return known if "epoch" in known or "cut" not in known else [stage for stage in known if stage != "end"]


HEADER = ("method", "n", "cut", "norms", "one epoch", "end", "vs {}", "p", "{}", "latency", "seconds")


def table(group: Sequence[Line], baselines: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of one cell's table, in words. Costs are shares of the dense network's; "vs" is the paired difference at the end."""
    base = best(group, baselines)
    kind = next(iter(group[0].results.values()))["budget"]["kind"]
    cost = "macs" if kind == "latency" else kind
    header = [word.format(base.row if base else "baseline") if "vs" in word else word.format(UNITS[cost]) for word in HEADER]
    rows = []
    for line in group:
        gap = None if base is None else paired(line, base)
        words = [line.row, str(len(line.results)), *(_words(line.top1(stage)) for stage in STAGES)]
        words += ["", ""] if gap is None else [f"{gap.difference:+.2f}", "" if gap.p is None else f"{gap.p:.3f}"]
        words += [_percent(line.share(cost)), _percent(line.share("latency_ms"))]
        seconds = line.seconds()
        rows.append([*words, "" if seconds is None else f"{seconds.mean:.0f}"])
    return header, rows


def cells_of(all_lines: Sequence[Line]) -> dict[str, list[Line]]:
    """The lines of each cell."""
    groups: dict[str, list[Line]] = {}
    for line in all_lines:
        groups.setdefault(line.cell, []).append(line)
    return groups


def show(all_lines: Sequence[Line], baselines: Sequence[str], console: Console) -> None:
    """Print a table a cell."""
    for cell, group in cells_of(all_lines).items():
        header, rows = table(group, baselines)
        printed = Table(title=_title(cell, group), title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for name in header:
            printed.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
        for row in rows:
            printed.add_row(*row)
        console.print(printed)
        console.print()


def markdown(all_lines: Sequence[Line], baselines: Sequence[str]) -> str:
    """The tables as Markdown, with a line on what the columns are."""
    text = [NOTE, ""]
    for cell, group in cells_of(all_lines).items():
        header, rows = table(group, baselines)
        text += [f"## {_title(cell, group)}", "", "| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
        text += ["| " + " | ".join(row) + " |" for row in rows] + [""]
    return "\n".join(text)


NOTE = (
    "Top-1 in percent (mean ± std over n seeds) right after the cut, with batch norms re-estimated, after one epoch of fine-tuning and "
    "at its end (the last epoch, never the best). \"vs\": the mean paired difference at the end to the best baseline, p of a paired "
    "t-test. Costs are shares of the dense network's, latencies measured by turns in one process (none where that was too noisy to "
    "tell); seconds of search, fine-tuning and measuring."
)
COLUMNS = ("row", "cell", "seed", "run_key", *STAGES, "dense_top1", "macs", "params", "latency", "seconds", "commit")


def as_csv(all_lines: Sequence[Line]) -> str:
    """One row a run; costs as shares of the dense network's."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for line in all_lines:
        for seed, result in line.results.items():
            numbers = [*(top1(result, stage) for stage in STAGES), result["dense"]["top1"]]
            numbers += [_share(result, kind) for kind in ("macs", "params", "latency_ms")]
            numbers.append(_seconds(result))
            written = ["" if number is None else f"{number:.6g}" for number in numbers]
            writer.writerow([line.row, line.cell, seed, result["run_key"], *written, result["environment"]["commit"] or ""])
    return text.getvalue()


def _title(cell: str, group: Sequence[Line]) -> str:
    result = next(iter(group[0].results.values()))
    dense = statistics.fmean(one["dense"]["top1"] for line in group for one in line.results.values())
    words = f"{result['model']} on {result['data']} ({result['split']}), dense {dense:.2f} %"
    return f"{words}: {cell}" if cell else words


def _seconds(result: Result) -> float:
    return float(sum(value for name, value in result["seconds"].items() if name != "prepare"))


def _share(result: Result, kind: str) -> float | None:
    searched, dense = result["searched"][kind], result["dense"][kind]
    if not searched or not dense:
        return None
    measured = result.get("latency", {}) if kind == "latency_ms" else {}
    if measured.get("share_high", 0.0) - measured.get("share_low", 0.0) > UNSURE * searched / dense:
        return None
    return float(searched / dense)


def _words(mean: Mean | None) -> str:
    return "" if mean is None else f"{mean.mean:.2f} ± {mean.std:.2f}" if mean.n > 1 else f"{mean.mean:.2f}"


def _percent(mean: Mean | None) -> str:
    return "" if mean is None else f"{mean.mean:.1%}"
