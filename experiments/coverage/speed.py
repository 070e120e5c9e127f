"""How long `pas` takes to find the axes of a network, beside torch's export alone and Torch-Pruning's dependency graph, in one process.

    python experiments/coverage/speed.py            # speed.csv, linear.csv and linear.png; about ten minutes on an idle core

speed.csv: medians of rounds in which the three take turns, and ratios. Torch-Pruning's dependency graph is built, and all of its groups
are listed, as its pruners do before they prune anything. linear.csv: ResNets of more and more blocks, the pass over the graph alone.
"""

from __future__ import annotations

import csv
import gc
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch
import torch_pruning
from matplotlib.figure import Figure
from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn

import pas
from pas.axes.capture import capture
from pas.axes.infer import follow

HERE = Path(__file__).resolve().parent
ROUNDS = 5
NETWORKS = (
    "resnet18", "resnet50", "vgg11_bn", "mobilenetv2_100", "mobilenetv3_large_100", "efficientnet_b0", "densenet121", "regnety_002",
    "convnext_atto", "hrnet_w18_small", "inception_v4", "vit_tiny_patch16_224",
)  # fmt: skip
BLOCKS = (4, 8, 16, 32, 64)
"""Residual blocks in each of the two middle stages of a ResNet."""


def seconds(action: Callable[[], object]) -> float:
    gc.collect()
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def dependency_graph(model: nn.Module, x: Tensor) -> None:
    graph = torch_pruning.DependencyGraph().build_dependency(model, x)
    for _ in graph.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear]):
        pass


def compared(name: str) -> dict[str, object]:
    """Medians of the three, taking turns, after one round that isn't counted."""
    model = timm.create_model(name).eval()
    x = torch.randn(1, *model.pretrained_cfg["input_size"])
    actions: dict[str, Callable[[], object]] = {
        "export": lambda: torch.export.export(model, (x,), strict=False),
        "pas": lambda: pas.signature(model, x),
        "torch_pruning": lambda: dependency_graph(model, x),
    }
    taken: dict[str, list[float]] = {key: [] for key in actions}
    works = True
    for turn in range(ROUNDS + 1):
        for key, action in actions.items():
            if key == "torch_pruning" and not works:
                continue
            try:
                spent = seconds(action)
            except Exception:  # whatever Torch-Pruning raises for a network that it can't follow
                if key != "torch_pruning":
                    raise
                works = False
                continue
            if turn:
                taken[key].append(spent)
    medians = {key: statistics.median(values) for key, values in taken.items() if values}
    row: dict[str, object] = {"model": name, **{f"{key}_s": round(value, 3) for key, value in medians.items()}}
    row["pas_over_export"] = round(medians["pas"] / medians["export"], 2)
    if works:
        row["pas_over_torch_pruning"] = round(medians["pas"] / medians["torch_pruning"], 2)
    return row


def linear() -> list[dict[str, float]]:
    """Nodes of the graph, and the median seconds of the pass over it."""
    found = []
    for blocks in BLOCKS:
        model = ResNet(Bottleneck, (3, blocks, blocks, 3)).eval()
        x = torch.randn(1, 3, 64, 64)
        program = capture(model, x)
        times = [seconds(lambda: follow(program, model, x)) for _ in range(ROUNDS)]  # noqa: B023 (called at once)
        found.append({"blocks": 2 * blocks + 6, "nodes": len(program.graph.nodes), "seconds": round(statistics.median(times), 4)})
        print(found[-1], flush=True)
    return found


def slope(points: list[dict[str, float]]) -> float:
    """The exponent p of seconds ~ nodes^p, by least squares."""
    nodes, taken = (np.log([point[key] for point in points]) for key in ("nodes", "seconds"))
    return float(np.polyfit(nodes, taken, 1)[0])


def draw(points: list[dict[str, float]]) -> None:
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.plot([point["nodes"] for point in points], [point["seconds"] for point in points], marker="o", color="#2f6f9f")
    axes.set(xlabel="nodes of the graph", ylabel="seconds of the pass", xlim=(0, None), ylim=(0, None))
    axes.set_title(f"ResNets of {points[0]['blocks']} to {points[-1]['blocks']} blocks: seconds ~ nodes^{slope(points):.2f}", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(HERE / "linear.png", dpi=150)


def write(name: str, rows: list[dict[str, object]]) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with (HERE / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    points = linear()
    write("linear.csv", [dict(point) for point in points])
    draw(points)
    rows = []
    for number, name in enumerate(NETWORKS, start=1):
        rows.append(compared(name))
        print(f"{number}/{len(NETWORKS)} {rows[-1]}", flush=True)
        write("speed.csv", rows)
    ratios = [float(str(row["pas_over_torch_pruning"])) for row in rows if "pas_over_torch_pruning" in row]
    print(f"pas / Torch-Pruning: median {statistics.median(ratios):.2f}; seconds ~ nodes^{slope(points):.2f}")
