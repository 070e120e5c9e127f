"""What a search and its fine-tuning cost together, against a dense training of as many steps.

    python tests/benchmarks/search_cost.py [--models repvgg_nano repvgg_mini] [--budget 0.5] [--search 0.2] [--shrink 0.5 0.75]
                                           [--steps 40] [--batch 128] [--size 32] [--csv FILE]

A search of `--steps` steps runs to its end; on the way, the steps of each phase (gated, gated after a cut, sliced and in training
form) are timed in turns with steps of the dense network, in one process with one thread, so that the machine's moods hit all.
The phases' medians of CPU time, weighted by their share of the steps (`--search` of all are search, the rest fine-tuning), give
the ratio. Random images: what a step costs does not depend on them, what the widths are does, so also uniform widths are shown.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from gate_overhead import gated_step, plain_step

import pas
from pas import models

ROUNDS = 8
PLAIN = argparse.Namespace(compile=False, precision="fp32")
"""How steps run."""


def cpu_seconds(step: Callable[[], None]) -> float:
    began = time.process_time()
    step()
    return time.process_time() - began


def ratio(steps: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Median CPU time of each step over the dense one's, taken in turns."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(ROUNDS + 2):
        for name, step in steps.items():
            spent = cpu_seconds(step)
            if turn >= 2:  # the first ones choose kernels
                times[name].append(spent)
    dense = statistics.median(times["dense"])
    return {name: statistics.median(values) / dense for name, values in times.items()}


def measure(name: str, options: argparse.Namespace) -> dict[str, float | str]:
    torch.manual_seed(0)
    x, y = torch.randn(options.batch, 3, options.size, options.size), torch.randint(0, 10, (options.batch,))
    model = models.create(name, num_classes=10, in_chans=3).train()
    dense = plain_step(model, x, y, PLAIN)
    row: dict[str, float | str] = {"model": name, "budget": options.budget}
    for label, cuts in (("whole", []), ("shrinking", sorted(options.shrink))):
        search = pas.Search(model, x[:1], budget=pas.Budget(macs=options.budget), steps=options.steps, round_to=4)
        done, total = 0, 0.0
        for cut in [*cuts, 1.0]:
            step = gated_step(search, x, y, PLAIN)
            until = round(cut * options.steps)
            for _ in range(until - done):
                step()
            measured = ratio({"dense": dense, "gated": _still(search, x, y)})["gated"]
            total += (until - done) / options.steps * measured
            done = until
            if cut < 1:
                search = search.shrink()
        sliced = ratio({"dense": dense, "sliced": plain_step(search.slice().train(), x, y, PLAIN)})["sliced"]
        row[f"search, {label}"], row["sliced"] = round(total, 3), round(sliced, 3)
        row[f"all, {label}"] = round(options.search * total + (1 - options.search) * sliced, 3)
    uniform = pas.Search(model, x[:1], budget=pas.Budget(macs=options.budget), steps=1, round_to=4, method="uniform")
    row["sliced, uniform"] = round(ratio({"dense": dense, "sliced": plain_step(uniform.slice().train(), x, y, PLAIN)})["sliced"], 3)
    return row


def _still(search: pas.Search, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    """A gated step that is timed but does not count: the method's clock is put back."""
    step, method = gated_step(search, x, y, PLAIN), search.method

    def timed() -> None:
        state = {key: value.clone() for key, value in method.state_dict().items()}
        step()
        method.load_state_dict(state)

    return timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["repvgg_nano", "repvgg_mini"])
    parser.add_argument("--budget", type=float, default=0.5)
    parser.add_argument("--search", type=float, default=0.2)
    parser.add_argument("--shrink", type=float, nargs="*", default=[0.5, 0.75])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(name, options) for name in options.models]
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    if options.csv:
        with options.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
