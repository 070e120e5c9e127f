"""Images a second of searched networks beside well-known ones, in turns in one process: throughput.csv.

    python experiments/latency/throughput.py --device cuda --runtime torch --dtype bfloat16 --layout channels_last --batch 128 --out FOLDER

All in their fused form at 224 px. The searched ones are RepVGG-A0 and MobileNetV2 with uniform widths at 0.7, 0.5 and 0.3 of their latency.
Weights are random, as times don't depend on them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import timm
import torch
from predict import arguments, conditions_of, table_of, write
from rich.console import Console
from torch import nn

import pas
from pas.cost import Conditions
from pas.cost.measure import latency, ratio

KNOWN, SEARCHED, BUDGETS = ("repvgg_a0", "resnet18", "resnet50", "mobilenetv2_100"), ("repvgg_a0", "mobilenetv2_100"), (0.7, 0.5, 0.3)
X = torch.zeros(1, 3, 224, 224)


def fused(name: str) -> nn.Module:
    """A network of timm as it is deployed."""
    return pas.fuse(timm.create_model(name).eval())


def searched(name: str, budget: float, conditions: Conditions, table: Path) -> nn.Module:
    """Uniform widths at a share of the dense latency."""
    model = timm.create_model(name).eval()
    limit, quiet = pas.Budget(latency=budget), Console(quiet=True)
    found = pas.Search(model, X, budget=limit, steps=1, method="uniform", conditions=conditions, table=table, progress=quiet)
    small = found.export().eval()
    print(name, budget, found.report()["budget"][0], flush=True)
    return small


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], parents=[arguments()])
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args()
    conditions = conditions_of(options, options.batch, spread=0.05)
    networks = {name: fused(name) for name in KNOWN}
    for name in SEARCHED:
        for budget in BUDGETS:
            networks[f"{name} at {budget}"] = searched(name, budget, conditions, table_of(name, conditions, options.out))
    found = latency(networks, X, conditions, repeats=50, warmup=5, spread=conditions.spread)
    rows = []
    for name, one in found.items():
        signature = pas.signature(networks[name], X)
        macs = pas.cost.macs(signature, signature.dense())
        its = {"network": name, "images_s": 1e3 * one.batch / one.median_ms, "ms": one.median_ms}
        over = {parent: ratio(one, found[parent]) for parent in SEARCHED}
        shares = {f"over_{parent}": f"{its.median:.3f} ({its.low:.3f} to {its.high:.3f})" for parent, its in over.items()}
        rows.append({**its, **shares, "gmacs": macs / 1e9, "conditions": str(conditions.header())})
        print(rows[-1], flush=True)
    write(options.out / "throughput.csv", rows)
