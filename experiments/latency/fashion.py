"""Fashion-MNIST at equal measured latency: widths searched under MACs, under latency, and uniform ones.

    python experiments/latency/fashion.py            # test split, seeds 0, 1, 2, two processes of one thread

First a search under MACs for each seed; what its network takes, as a share of the dense latency (ONNX Runtime, 32 images, one thread), is
the budget of the other rows of that seed. Started again, it does what is missing; every `result.json` is copied to `results/`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

from pas.compose import compose
from pas.result import read_result
from pas.runs import run_folder

HERE = Path(__file__).resolve().parent
COMMON = ("experiment=fashion_mnist_repvgg", "model=repvgg_micro", "cost.batch=32")
MACS = ("method=pas", "budget.macs=0.4")
ROWS = {"pas, latency": ("method=pas",), "uniform, L1": ("method=uniform", "method.options.criterion=l1")}
SEEDS = (0, 1, 2)
ONE_AT_A_TIME = Lock()


def overrides(seed: int, *more: str) -> list[str]:
    """Of `pas search`."""
    return [*COMMON, *more, f"seed={seed}"]


def folder_of(words: list[str]) -> Path:
    """Where the run is; Hydra composes in one thread at a time."""
    with ONE_AT_A_TIME:
        return run_folder(compose(words))


def result(words: list[str]) -> dict[str, Any] | None:
    """Of a finished run, here or in `results/`."""
    folder = folder_of(words)
    return read_result(folder) or read_result(HERE / "results" / folder.name)


def search(words: list[str]) -> dict[str, Any]:
    """Run it unless there is a result, and keep that."""
    if result(words) is None:
        with (HERE / "fashion.log").open("ab") as log:
            command = [sys.executable, "-m", "pas", "search", *words]
            subprocess.run(command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
        folder = folder_of(words)
        kept = HERE / "results" / folder.name
        kept.mkdir(parents=True, exist_ok=True)
        for name in ("result.json", "architecture.json"):
            shutil.copy(folder / name, kept / name)
    found = result(words)
    assert found is not None
    print(f"{found['run_key']}: {found['searched']['top1']:.2f} %", flush=True)
    return found


def share(found: dict[str, Any]) -> float:
    """Of the dense latency, in three digits."""
    return round(found["searched"]["latency_ms"] / found["dense"]["latency_ms"], 3)


def of_seed(seed: int) -> list[tuple[str, dict[str, Any]]]:
    """All rows of a seed."""
    first = search(overrides(seed, *MACS))
    rows = [("pas, MACs", first)]
    for name, words in ROWS.items():
        rows.append((name, search(overrides(seed, *words, f"budget.latency={share(first)}"))))
    return rows


def table(seeds: Iterable[list[tuple[str, dict[str, Any]]]]) -> str:
    """Mean and standard deviation over the seeds, and the differences to the first row, paired by seed."""
    listed = list(seeds)
    lines = ["| row | top-1, % | minus the first row | share of the latency | share of the MACs |", "|---|---|---|---|---|"]
    for row, name in enumerate(name for name, _ in listed[0]):
        runs = [seed[row][1] for seed in listed]
        firsts = [seed[0][1] for seed in listed]
        top1 = [run["searched"]["top1"] for run in runs]
        minus = [run["searched"]["top1"] - first["searched"]["top1"] for run, first in zip(runs, firsts, strict=True)]
        shares = [share(run) for run in runs]
        macs = [run["searched"]["macs"] / run["dense"]["macs"] for run in runs]
        words = [name, spread(top1), spread(minus, sign="+") if row else "", spread(shares, 3), spread(macs, 3)]
        lines.append("| " + " | ".join(words) + " |")
    return "\n".join(lines)


def spread(values: list[float], digits: int = 2, sign: str = "") -> str:
    """Mean and standard deviation."""
    std = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{sign}.{digits}f}{std}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    options = parser.parse_args()
    with ThreadPoolExecutor(options.processes) as pool:
        print(table(pool.map(of_seed, options.seeds)))
