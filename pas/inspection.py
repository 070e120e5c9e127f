"""What `pas inspect` shows: the axes of a network, what each controls, and what is frozen and why."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from pas import models
from pas.amount import human
from pas.axes.signature import Axis, Signature
from pas.cost.macs import KINDS, Cost, build
from pas.surgery.forms import signature


def inspect(name: str, *, image_size: int | None, num_classes: int) -> Signature:
    """The signature of a network by name, without weights. `image_size`: pixels a side, None for the network's own."""
    with torch.device("meta"):
        model = models.create(name, num_classes=num_classes)
    size = image_size or model.pretrained_cfg["input_size"][-1]
    return signature(model, torch.zeros(1, 3, size, size, device="meta"))


def rows(sig: Signature) -> list[dict[str, Any]]:
    """One row an axis: name, size, whether and why not it may be sliced, where it lives, and the share of the cost that goes with it.

    A share is what the network would save without the axis; an axis takes part in what its neighbours cost, so shares overlap.
    """
    costs = {kind: build(sig, kind) for kind in KINDS}
    found = []
    for axis in sig.axes:
        found.append(
            {
                "name": axis.name,
                "size": axis.size,
                "prunable": axis.prunable,
                "exact": axis.exact,
                "frozen": axis.frozen,
                "slots": [list(slot) for slot in axis.slots],
                **{f"{kind}_share": round(share(cost, [axis], sig.channels), 6) for kind, cost in costs.items()},
            }
        )
    return found


def share(cost: Cost, axes: Iterable[Axis], channels: int) -> float:
    """The share of a network's cost that goes with these axes: what it would save without them."""
    everything = np.ones(channels, dtype=bool)
    without = everything.copy()
    for axis in axes:
        without[axis.start : axis.start + axis.size] = False
    return 1 - cost.at(without) / cost.at(everything)


def as_json(name: str, sig: Signature) -> dict[str, Any]:
    """All of it as plain data."""
    dense = sig.dense()
    everything = sig.mask(dense)
    return {"model": name, **{kind: build(sig, kind).at(everything) for kind in KINDS}, "axes": rows(sig)}


def show(name: str, sig: Signature, console: Console) -> None:
    """A table of all axes in the order of the network."""
    everything = np.ones(sig.channels, dtype=bool)
    macs, params = (build(sig, kind).at(everything) for kind in KINDS)
    table = Table(title=f"{name}: {len(sig.prunable)} prunable axes, {human(macs)} MACs, {human(params)} parameters (fused form)")
    table.add_column("axis", overflow="fold")
    table.add_column("size", justify="right")
    table.add_column("MACs", justify="right")
    table.add_column("params", justify="right")
    table.add_column("lives in", overflow="fold")
    table.add_column("frozen, because", overflow="fold")
    for row in rows(sig):
        weights = [f"{parameter}[{dim}]" for parameter, dim in row["slots"] if parameter.endswith("weight")]
        lives = ", ".join(weights[:4]) + (f", ... ({len(weights)} weights)" if len(weights) > 4 else "")
        shares = [f"{100 * row[f'{kind}_share']:.1f} %" for kind in KINDS]
        table.add_row(row["name"], str(row["size"]), *shares, lives, row["frozen"] or "")
    console.print(table)
