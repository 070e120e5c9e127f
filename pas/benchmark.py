"""What `pas benchmark` shows: the latency of a network, and of a bundle's beside its dense parent in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from pas.cost.conditions import Conditions
from pas.cost.measure import Latency, latency, ratio
from pas.errors import PasError
from pas.publish import bundle, sealed
from pas.publish.backbone import Backbone
from pas.publish.names import folder_of
from pas.surgery.fuse import fuse
from pas.wanted import Wanted, network

WARMUP = 5


def networks(wanted: Wanted) -> tuple[dict[str, nn.Module], Tensor]:
    """The networks to be timed, in their fused form, and an input: of a bundle's folder (then `entry` makes the dense network, where it was
    one's own) or a published name the dense network and the searched one, else that network alone.

    Raises PasError when there is no such network, the bundle is damaged, or another image is asked for than the bundle's own.
    """
    folder = Path(wanted.name or "")
    if not folder.is_dir():
        folder = folder_of(str(folder)) or folder
    if wanted.name is None or not folder.is_dir():
        if len(folder.parts) > 1 and folder.suffix != ".onnx":
            raise PasError(f"there is no bundle in {folder}: give the folder that pas search wrote, runs/RUN/bundle")
        model, example = network(wanted)
        return {"dense": fuse(model.eval())}, example
    backbone = Backbone(**sealed.read_config(folder)["pas"]["backbone"])
    if wanted != Wanted(wanted.name, wanted.entry):
        raise PasError(f"{folder} has its own image size ({backbone.image_size} px), classes and channels: leave them out")
    dense = bundle.dense_of(folder, model=backbone.own(wanted.entry))
    return {"dense": fuse(dense), "searched": bundle.structure(folder, model=dense)}, backbone.example()


def benchmark(wanted: Wanted, conditions: Conditions, *, repeats: int) -> dict[str, Latency]:
    """The latency of these networks, by turns. Raises PasError as `networks` does, and on a machine that stays too noisy."""
    found, example = networks(wanted)
    return latency(found, example, conditions, repeats=repeats, warmup=WARMUP, spread=conditions.spread)


def as_json(what: str, found: dict[str, Latency]) -> dict[str, Any]:
    """All of it as plain data."""
    rows = {name: one.as_dict() for name, one in found.items()}
    return {"network": what, **rows, **({"ratio": vars(ratio(found["searched"], found["dense"]))} if "searched" in found else {})}


def show(what: str, found: dict[str, Latency], console: Console) -> None:
    """A row a network, and under what it was measured."""
    first = next(iter(found.values()))
    console.print(f"{what}: {first}", highlight=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("", "median", "95 % interval", "middle half", "images/s", "runs"):
        table.add_column(name, justify="left" if not name else "right")
    for name, one in found.items():
        interval, rate = f"{one.low_ms:.4g} to {one.high_ms:.4g}", f"{1e3 * one.batch / one.median_ms:.4g}"
        table.add_row(name, f"{one.median_ms:.4g} ms", interval, f"{one.iqr_ms / one.median_ms:.1%}", rate, str(one.runs))
    console.print(table)
    if "searched" in found:
        share = ratio(found["searched"], found["dense"])
        console.print(f"searched / dense: {share}, {1 / share.median:.2f}x as fast", highlight=False)
