"""OBSPA on networks of 224 px: seconds on a CPU and memory, from the first example to the refitted network.

    python tests/benchmarks/obspa.py [--models resnet18 resnet50 ...] [--samples 64] [--threads 2] [--csv FILE]

Every network has a process of its own. Its peak memory is that of a forward pass of the same examples before, and what came on top of it;
beside it the size of the network, and of the largest Hessian of a layer. Weights and images are random: costs don't depend on them.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from methods import alone, peak, write

import pas
from pas import models

BATCH = 32
MIB = 2**20


def measure(name: str, samples: int, threads: int) -> dict[str, object]:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = models.create(name, num_classes=1000).eval()
    batches = [(torch.randn(BATCH, 3, 224, 224), torch.randint(1000, (BATCH,))) for _ in range(samples // BATCH)]
    with torch.no_grad():
        for x, _ in batches:
            model(x)
    before = peak()
    search = pas.Search(model, batches[0][0][:1], budget=pas.Budget(macs=0.5), steps=1, method="obspa", samples=samples)
    began = time.monotonic()
    search.calibrate(batches, lambda network, x, y: F.cross_entropy(network(x), y))
    small = search.export()
    seconds = time.monotonic() - began
    inputs = [weight[0].numel() for weight in model.parameters() if weight.dim() > 1]
    kept = sum(weight.numel() for weight in small.parameters()) / sum(weight.numel() for weight in model.parameters())
    return {
        "model": name, "samples": samples, "threads": threads, "seconds": round(seconds, 1), "forward_mib": round(before),
        "more_mib": round(peak() - before), "network_mib": round(sum(4 * weight.numel() for weight in model.parameters()) / MIB),
        "largest_hessian_mib": round(4 * max(inputs) ** 2 / MIB), "parameters_kept": round(kept, 3),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet18", "resnet50", "resnet101"])
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    how = parser.parse_args()
    if how.one:
        print(json.dumps(measure(how.models[0], how.samples, how.threads)))
        return
    rows = []
    for name in how.models:
        rows.append(alone(__file__, "--one", "--models", name, "--samples", str(how.samples), "--threads", str(how.threads)))
        write(rows, how.csv)


if __name__ == "__main__":
    main()
