"""What gates cost: a gated training step against a plain one.

    python tests/benchmarks/gate_overhead.py [--models repvgg_a0 mobilenetv2_100] [--batch 128] [--size 64] [--steps 30]
                                             [--threads 1] [--device cpu] [--precision bf16] [--layout channels_last] [--compile]
                                             [--csv FILE]

Both networks take turns in one process, so that the machine's moods hit both; the ratio of the medians is what counts, of wall time
and of this process's CPU time (which a busy machine disturbs less; on a CPU with one thread the two agree). A step is
forward, backward and SGD with momentum; the gated one adds the gates' own part (moments, worth, projection). Target: 1.05.
"""

from __future__ import annotations

import argparse
import csv
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

import pas
from pas import models


def plain_step(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, how: argparse.Namespace) -> Callable[[], None]:
    call = torch.compile(model) if how.compile else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)

    def step() -> None:
        with autocast(x, how):
            loss = F.cross_entropy(call(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def gated_step(search: pas.Search, x: torch.Tensor, y: torch.Tensor, how: argparse.Namespace) -> Callable[[], None]:
    call = torch.compile(search.model) if how.compile else search.model
    optimizer = torch.optim.SGD(search.param_groups(lr=0.01, weight_decay=1e-4), momentum=0.9)

    def step() -> None:
        with autocast(x, how):
            loss = F.cross_entropy(call(x), y)
        (loss + search.penalty()).backward()
        optimizer.step()
        optimizer.zero_grad()
        search.step()

    return step


def autocast(x: torch.Tensor, how: argparse.Namespace) -> torch.autocast:
    """As the training loop has it."""
    return torch.autocast(x.device.type, torch.bfloat16, enabled=how.precision == "bf16")


def seconds(step: Callable[[], None], device: torch.device) -> tuple[float, float]:
    """Wall time and CPU time of one step."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(name: str, how: argparse.Namespace) -> dict[str, object]:
    torch.manual_seed(0)
    device, batch, size, steps = torch.device(how.device), how.batch, how.size, how.steps
    layout = torch.channels_last if how.layout == "channels_last" else torch.contiguous_format
    model = models.create(name, num_classes=1000).to(device).train()
    x, y = torch.randn(batch, 3, size, size, device=device), torch.randint(1000, (batch,), device=device)
    x = x.to(memory_format=layout)
    search = pas.Search(model, x[:1], budget=pas.Budget(macs=0.5), steps=2 * steps)
    search.model.to(memory_format=layout).train()
    model.to(memory_format=layout)
    turns = {"plain": plain_step(model, x, y, how), "gated": gated_step(search, x, y, how)}
    times: dict[str, list[tuple[float, float]]] = {kind: [] for kind in turns}
    for turn in range(steps + 3):
        for kind, step in turns.items():
            taken = seconds(step, device)
            if turn >= 3:
                times[kind].append(taken)
    (plain, plain_cpu), (gated, gated_cpu) = (map(statistics.median, zip(*times[kind], strict=True)) for kind in ("plain", "gated"))
    return {
        "model": name, "batch": batch, "size": size, "plain_ms": round(1e3 * plain, 2), "gated_ms": round(1e3 * gated, 2),
        "ratio": round(gated / plain, 4), "cpu_ratio": round(gated_cpu / plain_cpu, 4),
        "precision": how.precision, "layout": how.layout, "compile": how.compile, "steps": steps,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu", "threads": torch.get_num_threads(),
        "torch": torch.__version__, "python": platform.python_version(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["repvgg_a0", "mobilenetv2_100"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--layout", choices=("NCHW", "channels_last"), default="NCHW")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--csv", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for name in arguments.models:
        rows.append(measure(name, arguments))
        print(rows[-1], flush=True)
    if arguments.csv:
        with arguments.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
