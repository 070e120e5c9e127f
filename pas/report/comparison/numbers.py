"""All numbers of a comparison as CSV, a row a run."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from pas.report.comparison.lines import STAGES, Line, share, top1

LATENCIES = {"latency": "share", "latency_low": "share_low", "latency_high": "share_high"}
SPENT = ("prepare", "search", "finetune", "measure")
TRAINED = ("dense", "search", "finetune")
COLUMNS = (
    "row", "cell", "seed", "run_key", "model", "data", "split", "method", "budget", "target", "achieved",
    *(f"{stage}_epochs" for stage in TRAINED), *STAGES, "dense_top1", "macs", "params", *LATENCIES, "dense_ms", "searched_ms",
    *(f"{stage}_s" for stage in SPENT), "device", "threads", "commit", "dirty",
)  # fmt: skip


def as_csv(all_lines: Sequence[Line]) -> str:
    """Top-1 in percent; targets and costs as shares of the dense network's, of several limits with a blank between them. Latencies are here
    however noisy they are, with the bounds of their interval.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for line in all_lines:
        for seed, result in line.results.items():
            row = {"row": line.row, "cell": line.cell, "seed": seed, **_row(result)}
            writer.writerow({name: _cell(value) for name, value in row.items()})
    return text.getvalue()


def _row(result: Mapping[str, Any]) -> dict[str, Any]:
    limits = result["limits"]
    row = {name: result[name] for name in ("run_key", "model", "data", "split", "method")}
    row["budget"] = " ".join(limit["kind"] for limit in limits)
    for name in ("target", "achieved"):
        row[name] = " ".join(f"{limit[name] / limit['dense']:.6g}" for limit in limits)
    row |= {f"{stage}_epochs": result.get("epochs", {}).get(stage) for stage in TRAINED}
    row |= {stage: top1(result, stage) for stage in STAGES} | {"dense_top1": result["dense"]["top1"]}
    row |= {kind: share(result, kind) for kind in ("macs", "params")}
    row |= {column: result.get("latency", {}).get(name) for column, name in LATENCIES.items()}
    row["latency"] = share(result, "latency", sure=False)
    row |= {"dense_ms": result["dense"]["latency_ms"], "searched_ms": result["searched"]["latency_ms"]}
    row |= {f"{stage}_s": result["seconds"].get(stage) for stage in SPENT}
    return row | {name: result["environment"].get(name) for name in ("device", "threads", "commit", "dirty")}


def _cell(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
