"""Results as text: a table in the terminal, and Markdown over all runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from rich.console import Console
from rich.table import Table

from pas.amount import BAND, UNITS, human
from pas.report.collect import Cell, Finished, cells, speedup
from pas.report.comparison.lines import share

NOTE = (
    "MACs are multiply-adds of one image in the fused form. Top-1 is measured on the split that is named, after the last epoch. "
    "Speed-up is the dense latency over the searched one, measured by turns in one process, and left out where that was too noisy to tell."
)
MEANS = ("model", "data", "split", "method", "budget", "seeds", "dense top-1", "top-1", "MACs", "parameters", "speed-up")
RUNS = ("run", "top-1", "MACs", "parameters", "latency ms", "device", "commit")


@dataclass(frozen=True)
class Entry:
    """What stands in a table, and the number that it is sorted by, if it is one."""

    words: str
    number: float | None = None


def show(result: dict[str, Any], folder: Path, console: Console) -> None:
    """Dense against searched, and where the figure and the bundle of the run are."""
    table = Table(
        title=f"{result['model']} on {result['data']} ({result['split']}), method {result['method']}, seed {result['seed']}",
        title_justify="left",
    )
    table.add_column("")
    for name in ("dense", "searched", "change"):
        table.add_column(name, justify="right")
    for row in comparison(result):
        table.add_row(*row)
    console.print(table)
    for limit in result["limits"]:
        console.print(f"budget: {reached(limit)}", highlight=False)
    gap = result.get("optimality")
    if gap is not None:
        console.print(f"optimality: {optimal(gap)}", highlight=False)
    console.print(f"time: {seconds(result)}", highlight=False)
    for name, path in (("figure", folder / "figures" / "widths.png"), ("bundle", folder / "bundle")):
        # soft_wrap: a path must stay one word for whoever copies it
        console.print(f"{name}: {path}", highlight=False, soft_wrap=True)


def reached(limit: Mapping[str, Any]) -> str:
    """A limit, what the network costs, and what the open channels cost where the export opened or closed over 1 % of that."""
    target, achieved, itself = limit["target"], limit["achieved"], limit.get("open")
    words = f"{human(target)} {UNITS[limit['kind']]}, reached {human(achieved)} ({achieved / target:.2%} of it)"
    if limit["kind"] == "latency":  # its parts are of different measurements, but for their ratio
        measured = f"{words}; measured {limit['share']:.4f} of dense ({limit['share_low']:.4f} to {limit['share_high']:.4f})"
        return "; ".join([measured, *_outside(limit)])
    if itself is None or abs(itself - achieved) <= 0.01 * target:
        return words
    return f"{words}; before the export the open channels took {human(itself)} ({itself / target:.1%})"


def _outside(limit: Mapping[str, Any]) -> list[str]:
    """What to think of a network that was measured above its target, or further below it than the band of a budget reaches."""
    target, before = limit["share_target"], limit["verified_share"]
    excess = limit["share"] / target - 1
    if -BAND <= excess <= 0:
        return []
    side = f"{abs(excess):.1%} {'above' if excess > 0 else 'below'} the target"
    if excess > 0 and limit["share_low"] <= target:
        return [f"{side}, which lies within the noise"]
    if -BAND <= before / target - 1 <= 0:
        return [f"{side}, though the search measured {before:.4f}: what else runs here moves it"]
    return [f"{side}: the steps of the widths, or another limit, allow no nearer"]


def optimal(gap: Mapping[str, Any]) -> str:
    """How far the widths lie from the best ones for the search's own importances."""
    least = f"{1 - gap['bound']:.3%} (gap {'' if gap['exact'] else 'at most '}{gap['gap']:.3%})"
    best = "the best widths within this budget give up" if gap["exact"] else "no widths within this budget give up less than"
    return f"of the importance {1 - gap['reached']:.3%} is given up; {best} {least}"


def markdown(runs: Sequence[Finished], figures: Sequence[Path], folder: Path) -> str:
    """All of it as one page: means over seeds, every run, and the figures."""
    lines = ["# Results", "", *_piped(MEANS, [means(cell) for cell in cells(runs)]), ""]
    lines += ["## Runs", "", *_piped(RUNS, [numbers(run) for run in runs]), "", NOTE]
    if figures:
        lines += ["", "## Figures", ""]
        lines += [_picture(path.relative_to(folder)) for path in figures]
    return "\n".join(lines) + "\n"


def means(cell: Cell) -> list[Entry]:
    """A row of the table over seeds; its columns are MEANS."""
    of_dense = cell.target / cell.runs[0].result["budget"]["dense"]
    shares = [one for one in (share(run.result, "latency") for run in cell.runs) if one is not None]
    faster = math.exp(-sum(map(math.log, shares)) / len(shares)) if shares else None
    told = [Entry(word) for word in (cell.model, cell.data, cell.split, cell.label)]
    told += [Entry(f"{human(cell.target)} {UNITS[cell.kind]} ({of_dense:.0%})", cell.target), Entry(str(len(cell.runs)), len(cell.runs))]
    told += [Entry(str(mean), mean.mean) for mean in (cell.mean("dense", "top1"), cell.mean("searched", "top1"))]
    told += [Entry(human(mean), mean) for mean in (cell.mean("searched", name).mean for name in ("macs", "params"))]
    return [*told, Entry("" if faster is None else f"{faster:.2f}", faster)]


def numbers(run: Finished) -> list[Entry]:
    """A row of the table of runs; its columns are RUNS."""
    found, where = run.result["searched"], run.result["environment"]
    latency = found["latency_ms"]
    told = [Entry(run.result["run_key"]), Entry(f"{found['top1']:.2f}", found["top1"])]
    told += [Entry(human(found[name]), found[name]) for name in ("macs", "params")]
    told.append(Entry("" if latency is None else f"{latency:.3g}", latency))
    return [*told, Entry(where["device"]), Entry((where["commit"] or "")[:10] + (" (changed)" if where.get("dirty") else ""))]


def comparison(result: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Rows of what is counted: its name, dense, searched, the change."""
    dense, searched = result["dense"], result["searched"]
    rows = [
        ("top-1", f"{dense['top1']:.2f} %", f"{searched['top1']:.2f} %", f"{searched['top1'] - dense['top1']:+.2f}")
    ]
    for name, label in (("params", "parameters"), ("macs", "MACs")):
        rows.append((label, human(dense[name]), human(searched[name]), f"{searched[name] / dense[name]:.1%}"))
    faster = speedup(result)
    if faster is not None:
        place = result.get("latency", {})
        label = (
            f"latency ({place['runtime']}, batch {place['batch']})"
            if "runtime" in place and "batch" in place
            else "latency"
        )
        change = f"{faster:.2f}x faster"
        if place.get("share_low", 0) > 0:
            change += f" (95 %: {1 / place['share_high']:.2f} to {1 / place['share_low']:.2f})"
        rows.append((label, f"{dense['latency_ms']:.3g} ms", f"{searched['latency_ms']:.3g} ms", change))
    return rows


def seconds(result: Mapping[str, Any]) -> str:
    """How long each part of a run took."""
    return ", ".join(f"{stage} {value:.{1 if value < 10 else 0}f} s" for stage, value in result["seconds"].items())


def _picture(path: PurePath) -> str:
    """An image whose text names the run that it shows: RUN/figures/widths.png."""
    run = f"{path.parts[-3]}: " if len(path.parts) > 2 else ""
    return f"![{run}{path.stem}]({path.as_posix()})"


def _piped(header: Sequence[str], rows: Sequence[Sequence[Entry]]) -> list[str]:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *([entry.words for entry in row] for row in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines]
