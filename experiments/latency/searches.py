"""What searched networks take when they are measured: budgets of 0.7, 0.5 and 0.3 of the dense latency. Writes searches.csv.

    python experiments/latency/searches.py           # RepVGG-A0 and MobileNetV2 at 224 px, one image, two threads: half an hour

Widths by the magnitude of weights, and uniform ones: both decide at once, and what is asked here is only whether the exported network takes
the time that was asked for. It is written as ONNX beside the dense one, and a fresh process without code of `pas` measures both by turns.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MODELS, BUDGETS, METHODS = ("repvgg_a0", "mobilenetv2_100"), (0.7, 0.5, 0.3), ("magnitude", "uniform")
ROUNDS = 100


def measure(dense: str, searched: str, threads: int) -> dict[str, float]:
    """The median ratio of two ONNX files over rounds, its 95 % interval by ranks, and the dense median in ms."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    sessions = [onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]) for path in (dense, searched)]
    feed = {sessions[0].get_inputs()[0].name: np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)}
    times: list[list[float]] = [[], []]
    for _ in range(ROUNDS):
        for its, session in zip(times, sessions, strict=True):
            session.run(None, feed)
            start = time.perf_counter()
            session.run(None, feed)
            its.append(1e3 * (time.perf_counter() - start))
    ratios = sorted(b / a for a, b in zip(*times, strict=True))
    low, high = (round(ROUNDS / 2 + side * 1.96 * ROUNDS**0.5 / 2) for side in (-1, 1))
    return {"share": statistics.median(ratios), "low": ratios[low], "high": ratios[high], "dense_ms": statistics.median(times[0])}


def search(name: str, budget: float, method: str, threads: int) -> dict[str, Any]:
    """A row: what was asked, predicted, measured by the export, and measured by another process."""
    import timm
    import torch

    import pas
    from pas import onnx
    from pas.cost import Conditions

    torch.manual_seed(0)
    model, x = timm.create_model(name).eval(), torch.zeros(1, 3, 224, 224)
    began = time.monotonic()
    found = pas.Search(model, x, budget=pas.Budget(latency=budget), steps=1, method=method, conditions=Conditions(threads=threads))
    made = time.monotonic()
    small = found.export().eval()
    exported, report = time.monotonic(), found.report()["budget"][0]
    with tempfile.TemporaryDirectory() as folder:
        onnx.export(pas.fuse(model), x, f"{folder}/dense.onnx")
        onnx.export(small, x, f"{folder}/searched.onnx")
        command = [sys.executable, __file__, "--measure", f"{folder}/dense.onnx", f"{folder}/searched.onnx", "--threads", str(threads)]
        measured = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    dense = pas.cost.macs(found.signature, found.signature.dense())
    row = {"model": name, "method": method, "threads": threads, "budget": budget, "predicted": report["share_predicted"]}
    row |= {"export_measured": report["share"], "measured": measured["share"], "low": measured["low"], "high": measured["high"]}
    row |= {"of_budget": measured["share"] / budget, "dense_ms": measured["dense_ms"]}
    return row | {"macs": pas.cost.macs(found.signature, found.architecture) / dense, "search_s": made - began, "export_s": exported - made}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--measure", nargs=2, metavar="FILE")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--models", nargs="+", default=MODELS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*options.measure, options.threads)))
        sys.exit()
    file = HERE / "searches.csv"
    rows: list[dict[str, Any]] = list(csv.DictReader(file.open())) if file.exists() else []
    for name in options.models:
        for method in METHODS:
            for budget in BUDGETS:
                if any((row["model"], row["method"], float(row["budget"])) == (name, method, budget) for row in rows):
                    continue
                row = search(name, budget, method, options.threads)
                rows.append({key: f"{value:.4f}" if isinstance(value, float) else value for key, value in row.items()})
                print(rows[-1], flush=True)
                with file.open("w") as out:
                    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
                    writer.writeheader()
                    writer.writerows(rows)
