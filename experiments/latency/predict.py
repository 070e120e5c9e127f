"""Predicted against measured latency of random sub-networks: prediction.csv, summary.csv and prediction.png.

    python experiments/latency/predict.py                                # two networks, batches of 1 and 32, two threads: half an hour
    python experiments/latency/predict.py --models repvgg_a0 --batches 1 # or less of it, added to what is there
    python experiments/latency/predict.py --device cuda --runtime torch --dtype bfloat16 --layout channels_last --batches 1 128 --out FOLDER

Sub-networks in the steps that the table shows, drawn with another seed than those that calibrate. Measured by turns with the dense network;
what a prediction is off by is a share of what was measured. "MACs": times a constant, fitted to the sub-networks that calibrate, too.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from matplotlib.figure import Figure
from rich.console import Console
from scipy.stats import spearmanr

import pas
from pas.cost import Conditions
from pas.cost.latency import NANOSECONDS, Calibration, calibrate
from pas.cost.profile import profile
from pas.timing import architecture, digest, rewarded, shares, sub_networks, timing

HERE = Path(__file__).resolve().parent
MODELS, BATCHES = ("repvgg_a0", "mobilenetv2_100"), (1, 32)
FIELDS = ("runtime", "device", "layout", "dtype")
COLUMNS = ("model", "batch", "threads", "number", "dense_ms", "measured", "calibrated", "sum", "macs")
NAMES = {"calibrated": "table, calibrated", "sum": "sum of the table", "macs": "MACs"}


def table_of(name: str, conditions: Conditions, out: Path) -> Path:
    """The file of a network's table."""
    return out / "tables" / f"{name}-b{conditions.batch}-t{conditions.threads}.jsonl"


def arguments() -> argparse.ArgumentParser:
    """What says how latency is measured, but for the batch, and where results go."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=HERE, help="the folder of tables and results: one a device")
    for field in FIELDS:
        parser.add_argument(f"--{field}", default=getattr(Conditions(), field))
    return parser


def conditions_of(options: argparse.Namespace, batch: int, spread: float) -> Conditions:
    """What such arguments say."""
    return Conditions(batch=batch, threads=options.threads, spread=spread, **{field: getattr(options, field) for field in FIELDS})


def predictions(name: str, conditions: Conditions, count: int, out: Path) -> list[dict[str, Any]]:
    """A row a sub-network: measured share of the dense latency, and the predicted ones."""
    torch.manual_seed(0)
    model, console = timm.create_model(name).eval(), Console()
    signature = pas.signature(model, torch.zeros(1, 3, 224, 224))
    path = table_of(name, conditions, out)
    found = timing(model, signature, conditions, path, console, measure=True)
    table = profile(signature, conditions, path, console, measure=False)
    cost = found.predicted(signature)
    plain = cost.calibrated(Calibration())
    known = [one for one in table.table.networks if one.network == digest(signature)]
    macs = [pas.cost.macs(signature, architecture(signature, one.widths)) for one in known]
    per_mac = calibrate([*macs, pas.cost.macs(signature, signature.dense())], [*(one.share for one in known), 1.0])
    drawn = sub_networks(signature, rewarded(signature, table), count, seed=1)
    rows = []
    for number, (one, measured) in enumerate(zip(drawn, shares(model, signature, drawn, conditions, console), strict=True)):
        mask = signature.mask(one)
        row = {"model": name, "batch": conditions.batch, "threads": conditions.threads, "number": number, "dense_ms": measured.dense_ms}
        row |= {"measured": measured.share, "calibrated": cost.at(mask) / NANOSECONDS / found.dense_ms}
        row |= {"sum": plain.at(mask) / NANOSECONDS / found.dense_ms, "macs": pas.cost.macs(signature, one) * per_mac.scale}
        rows.append(row)
    return rows


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and largest error and rank correlation of each way to predict, network by network."""
    found = []
    for model, batch in dict.fromkeys((row["model"], row["batch"]) for row in rows):
        its = [row for row in rows if (row["model"], row["batch"]) == (model, batch)]
        measured = np.array([float(row["measured"]) for row in its])
        for kind, label in NAMES.items():
            off = np.abs(np.array([float(row[kind]) for row in its]) / measured - 1)
            rank = spearmanr([float(row[kind]) for row in its], measured).statistic
            found.append({"model": model, "batch": batch, "prediction": label, "networks": len(its), "mean_error": f"{off.mean():.4f}",
                          "largest_error": f"{off.max():.4f}", "rank": f"{rank:.4f}"})  # fmt: skip
    return found


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Predicted against measured shares, a panel a network and batch."""
    cases = list(dict.fromkeys((row["model"], row["batch"]) for row in rows))
    figure = Figure(figsize=(3.3 * len(cases), 3.6), layout="constrained", dpi=150)
    for axes, (model, batch) in zip(figure.subplots(1, len(cases), squeeze=False)[0], cases, strict=True):
        its = [row for row in rows if (row["model"], row["batch"]) == (model, batch)]
        for kind, colour, marker in (("macs", "#8c6bb1", "x"), ("sum", "#d1793b", "+"), ("calibrated", "#2f6f9f", "o")):
            points = ([float(row[name]) for row in its] for name in ("measured", kind))
            axes.scatter(*points, s=16, c=colour, marker=marker, label=NAMES[kind])
        top = 1.05 * max(float(row[kind]) for row in its for kind in (*NAMES, "measured"))
        axes.plot([0, top], [0, top], lw=0.8, c="#333a42")
        axes.set(title=f"{model}, batch {batch}", xlabel="measured share of the dense latency", ylabel="predicted")
        axes.set(xlim=(0, top), ylim=(0, top))
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path)


def read(path: Path) -> list[dict[str, Any]]:
    """What was measured before."""
    return list(csv.DictReader(path.open())) if path.exists() else []


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """A CSV."""
    with path.open("w") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: f"{value:.5f}" if isinstance(value, float) else value for name, value in row.items()} for row in rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], parents=[arguments()])
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--spread", type=float, default=0.1, help="the largest 95 %% interval of a ratio that counts as measured")
    options = parser.parse_args()
    file = options.out / "prediction.csv"
    for batch in options.batches:
        for name in options.models:
            new = predictions(name, conditions_of(options, batch, options.spread), options.count, options.out)
            before = [row for row in read(file) if (row["model"], int(row["batch"])) != (name, batch)]
            write(file, [{key: row[key] for key in COLUMNS} for row in [*before, *new]])
            write(options.out / "summary.csv", summary(read(file)))
            draw(read(file), options.out / "prediction.png")
            print((options.out / "summary.csv").read_text(), flush=True)
