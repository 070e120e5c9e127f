"""Results as text: a table in the terminal, and Markdown over all runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from rich.console import Console
from rich.table import Table

from pas.amount import BAND, UNITS, human
from pas.report.collect import Finished, cells, speedup


def show(result: dict[str, Any], folder: Path, console: Console) -> None:
    """Dense against searched, and where the figure and the bundle of the run are."""
    table = Table(
        title=f"{result['model']} on {result['data']} ({result['split']}), method {result['method']}, seed {result['seed']}",
        title_justify="left",
    )
    table.add_column("")
    for name in ("dense", "searched", "change"):
        table.add_column(name, justify="right")
    for row in _comparison(result):
        table.add_row(*row)
    console.print(table)
    for limit in result["limits"]:
        console.print(f"budget: {reached(limit)}", highlight=False)
    gap = result.get("optimality")
    if gap is not None:
        console.print(f"optimality: {optimal(gap)}", highlight=False)
    console.print(f"time: {_seconds(result)}", highlight=False)
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
    lines = ["# Results", "", *_means(runs), "", "## Runs", "", *_all(runs), ""]
    lines += ["MACs are multiply-adds of one image in the fused form. Top-1 is measured on the split that is named, after the last epoch. "
              "Speed-up is the dense latency over the searched one, measured by turns in one process."]  # fmt: skip
    if figures:
        lines += ["", "## Figures", ""]
        lines += [_picture(path.relative_to(folder)) for path in figures]
    return "\n".join(lines) + "\n"


def _comparison(result: dict[str, Any]) -> list[tuple[str, str, str, str]]:
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
        rows.append(
            (label, f"{dense['latency_ms']:.3g} ms", f"{searched['latency_ms']:.3g} ms", f"{faster:.2f}x faster")
        )
    return rows


def _seconds(result: dict[str, Any]) -> str:
    return ", ".join(f"{stage} {value:.{1 if value < 10 else 0}f} s" for stage, value in result["seconds"].items())


def _picture(path: PurePath) -> str:
    """An image whose text names the run that it shows: RUN/figures/widths.png."""
    run = f"{path.parts[-3]}: " if len(path.parts) > 2 else ""
    return f"![{run}{path.stem}]({path.as_posix()})"


def _means(runs: Sequence[Finished]) -> list[str]:
    lines = [
        "| model | data | split | method | budget | seeds | dense top-1 | top-1 | MACs | parameters | speed-up |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for cell in cells(runs):
        share = cell.target / cell.runs[0].result["budget"]["dense"]
        fast = [factor for factor in (speedup(run.result) for run in cell.runs) if factor is not None]
        factor = math.exp(sum(map(math.log, fast)) / len(fast)) if fast else None
        words = [cell.model, cell.data, cell.split, cell.label, f"{human(cell.target)} {UNITS[cell.kind]} ({share:.0%})"]
        words += [str(len(cell.runs)), str(cell.mean("dense", "top1")), str(cell.mean("searched", "top1"))]
        words += [human(cell.mean("searched", name).mean) for name in ("macs", "params")]
        lines.append("| " + " | ".join([*words, "" if factor is None else f"{factor:.2f}"]) + " |")
    return lines


def _all(runs: Sequence[Finished]) -> list[str]:
    lines = ["| run | top-1 | MACs | parameters | latency ms | device | commit |", "|---|---|---|---|---|---|---|"]
    for run in runs:
        found, where = run.result["searched"], run.result["environment"]
        latency = "" if found["latency_ms"] is None else f"{found['latency_ms']:.3g}"
        commit = (where["commit"] or "")[:10] + (" (changed)" if where.get("dirty") else "")
        lines.append(
            f"| {run.result['run_key']} | {found['top1']:.2f} | {human(found['macs'])} | {human(found['params'])} | {latency} "
            f"| {where['device']} | {commit} |"
        )
    return lines
