"""What `pas profile` shows: where a network's time goes on this device, and how well the table's sum tells its latency."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from pas.axes.signature import Signature
from pas.cost.conditions import Conditions
from pas.cost.latency import NANOSECONDS
from pas.cost.operators import operators
from pas.cost.profile import default_path
from pas.surgery.forms import signature
from pas.timing import Timing, digest, timing
from pas.wanted import Wanted, network

ROWS = 12


@dataclass(frozen=True)
class Profile:
    """The latency of a network, and the table's file."""

    path: Path
    signature: Signature
    timing: Timing


def profile(wanted: Wanted, conditions: Conditions, path: Path | None, console: Console) -> Profile:
    """Measure what the table of these conditions lacks for a network: its operators, and the sub-networks that calibrate their sum.

    `path`: the table's file, where the one of the user's cache is not meant. Raises PasError as `pas.timing.timing` does.
    """
    model, example = network(wanted)
    found = signature(model, example)
    chosen = path or default_path(conditions)
    return Profile(chosen, found, timing(model, found, conditions, chosen, console, measure=True))


def show(what: str, found: Profile, console: Console) -> None:
    """The operators that take most of the time, and what the whole takes."""
    cost = found.timing.predicted(found.signature)
    mask = np.ones(found.signature.channels, dtype=bool)
    ms = (cost.each(torch.from_numpy(mask)) / NANOSECONDS).tolist()
    total: Counter[str] = Counter()
    times: Counter[str] = Counter()
    for one, its in zip(operators(found.signature), ms, strict=True):
        total[str(one.key)] += its
        times[str(one.key)] += 1
    console.print(f"{what}: {found.timing.conditions.header()}", highlight=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("operator", "times", "ms", "share"):
        table.add_column(name, justify="left" if name == "operator" else "right")
    whole = sum(total.values())
    for key, its in total.most_common(ROWS):
        table.add_row(key, str(times[key]), f"{its:.3g}", f"{its / whole:.1%}")
    if len(total) > ROWS:
        rest = sum(its for _, its in total.most_common()[ROWS:])
        table.add_row(f"{len(total) - ROWS} more", "", f"{rest:.3g}", f"{rest / whole:.1%}")
    console.print(table)
    calibration, dense = found.timing.calibration, found.timing.dense_ms
    console.print(f"measured {dense:.4g} ms, predicted {cost.at(mask) / NANOSECONDS:.4g} ms", highlight=False)
    fixed = f"; to their sum {calibration.offset:+.3g} ms are added" if calibration.offset else ""
    words = f"rows are {calibration.scale:.3f} times what operators take alone{fixed}: as whole sub-networks were measured"
    console.print(words, highlight=False, soft_wrap=True)
    block = f"blocks of {found.timing.block} channels" if found.timing.block > 1 else "no blocks of channels"
    console.print(f"{block}; network {digest(found.signature)}", highlight=False)
    console.print(f"table: {found.path}", highlight=False, soft_wrap=True)
