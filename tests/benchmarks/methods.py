"""What each method costs: its step beside a step of the dense network, the memory of both, and the size of its code.

    python tests/benchmarks/methods.py [--model repvgg_micro] [--methods pas smcp ...] [--batch 128] [--size 32] [--steps 60] [--csv FILE]

Every method has a process of its own, of one thread, in which a whole search of `--steps` steps takes turns with steps of the dense
network: the ratio of the mean CPU times of all steps (a re-wiring now and then is part of the price), how long it looked at examples
before the first one, and by how much the process's peak memory grew over what dense steps had needed. Random images: costs don't
depend on them. A method that the file already has is not measured again.
"""

from __future__ import annotations

import argparse
import csv
import inspect
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from gate_overhead import gated_step, plain_step

import pas
from pas import models
from pas.methods import METHODS

PLAIN = argparse.Namespace(compile=False, precision="fp32")
WIDTHS_OF_ANOTHER = ("given", "random", "scratch")
EXAMPLES = 256


def peak() -> float:
    """MiB: the largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(method: str, how: argparse.Namespace) -> dict[str, object]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, y = torch.randn(how.batch, 3, how.size, how.size), torch.randint(10, (how.batch,))
    model = models.create(how.model, num_classes=10).train()
    dense = plain_step(model, x, y, PLAIN)
    for _ in range(3):
        dense()
    before = peak()
    search = pas.Search(model, x[:1], budget=pas.Budget(macs=0.5), steps=how.steps, method=method)
    began = time.process_time()
    batches = ((x, y) for _ in range(-(-EXAMPLES // how.batch)))
    search.calibrate(batches, lambda network, x, y: F.cross_entropy(network(x), y))
    judged = time.process_time() - began
    searching = gated_step(search, x, y, PLAIN)
    times: dict[str, list[float]] = {"dense": [], "search": []}
    search.model.train()
    for _ in range(how.steps):
        for name, step in (("dense", dense), ("search", searching)):
            began = time.process_time()
            step()
            times[name].append(time.process_time() - began)
    code = Path(inspect.getfile(METHODS[method])).read_text().splitlines()
    found = {name: statistics.fmean(values[2:]) for name, values in times.items()}
    return {
        "method": method, "model": how.model, "batch": how.batch, "size": how.size, "dense_ms": round(1e3 * found["dense"], 2),
        "step_ratio": round(found["search"] / found["dense"], 3), "slowest_step_ratio": round(max(times["search"][2:]) / found["dense"], 2),
        "judging_s": round(judged, 2), "dense_mib": round(before), "more_mib": round(peak() - before), "lines": len(code),
    }  # fmt: skip


def alone(script: str, *words: str) -> dict[str, object]:
    """What a benchmark measures in a process of its own, which prints it as JSON last; shown."""
    out = subprocess.run([sys.executable, script, *words], check=True, capture_output=True, text=True).stdout
    found: dict[str, object] = json.loads(out.splitlines()[-1])
    print("  ".join(f"{key} {value}" for key, value in found.items()), flush=True)
    return found


def write(rows: Sequence[Mapping[str, object]], path: Path | None) -> None:
    """All rows as a file, if one is asked for."""
    if path is not None:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="repvgg_micro")
    parser.add_argument("--methods", nargs="+", default=[name for name in METHODS if name not in WIDTHS_OF_ANOTHER])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--csv", type=Path)
    how = parser.parse_args()
    if len(how.methods) == 1 and not how.csv:
        print(json.dumps(measure(how.methods[0], how)))
        return
    rows = list(csv.DictReader(how.csv.open())) if how.csv and how.csv.exists() else []
    for method in how.methods:
        if any(row["method"] == method for row in rows):
            continue
        words = ["--model", how.model, "--batch", str(how.batch), "--size", str(how.size), "--steps", str(how.steps)]
        rows.append(alone(__file__, *words, "--methods", method))
        write(rows, how.csv)


if __name__ == "__main__":
    main()
