"""A network's latency on the device at hand: a table of its operators, calibrated on a few sub-networks that were measured beside it."""

from __future__ import annotations

import copy
import hashlib
import statistics
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from torch import Tensor, nn

from pas.allocate.landing import Widths
from pas.allocate.snapping import steps
from pas.architecture import Architecture
from pas.axes.signature import Signature
from pas.cost.conditions import Conditions
from pas.cost.latency import NANOSECONDS, Calibration, Latency, calibrate
from pas.cost.measure import Ratio, Timed, prepared, ratio, turns
from pas.cost.operators import operators
from pas.cost.profile import Profiled, command, default_path, locked, profile, summed
from pas.cost.table import BLOCK, Axes, Network, Table, Writer, begun, points, wanted
from pas.errors import PasError
from pas.progress import Bar
from pas.surgery.fuse import fuse
from pas.surgery.slice import slice

SAMPLES = 6
"""Sub-networks that a table is calibrated on."""
AT_ONCE = 3
"""So many of them take turns with the whole network, so that little time passes between two that are compared."""
ROUNDS, FEWEST, LASTING_MS = 100, 8, 500.0
"""Rounds of turns: as many as a network alone takes so long in, within these bounds. A moment shows but one of the machine's moods."""
WARMUP = 3
MARGIN = 1.01
"""Networks are taken to be slower by this factor than they are predicted to be, so that they land inside of a budget's band and not on its
edge: another process may see one or two per cent more.
"""
NEAR = 0.01
"""How well the share of a searched network is to be known: whether it lies within three per cent of a target."""


@dataclass(frozen=True)
class Timing:
    """What a search knows of a network's latency. `dense_ms`: that of the whole network, in its fused form, when it was calibrated."""

    conditions: Conditions
    table: Table
    axes: Axes
    calibration: Calibration
    dense_ms: float

    @property
    def block(self) -> int:
        """The channels that the runtime computes at once."""
        return max(self.table.block, 1)

    def predicted(self, signature: Signature) -> Latency:
        """The predicted latency of the network, or of one that was cut out of it, in nanoseconds."""
        return summed(self.table, self.axes, signature).calibrated(self.calibration)

    def cost(self, signature: Signature) -> Latency:
        """The same, slower by the margin: what a budget limits."""
        return self.predicted(signature).calibrated(self.calibration.times(MARGIN))

    def as_dict(self) -> dict[str, Any]:
        """As plain data, of which `of` makes the same again."""
        listed: dict[str, list[tuple[Sequence[int], float]]] = {}
        for key, widths in points(self.axes):
            listed.setdefault(str(key), []).append((widths, self.table.points[str(key)][widths]))
        return {"block": self.table.block, "points": listed, "calibration": vars(self.calibration), "dense_ms": self.dense_ms}

    @staticmethod
    def of(data: Mapping[str, Any], signature: Signature, conditions: Conditions) -> Timing:
        """What `as_dict` gave, of the same network."""
        table = Table(conditions.header(), block=data["block"])
        table.points = {key: {tuple(widths): ms for widths, ms in its} for key, its in data["points"].items()}
        axes = wanted(operators(signature), signature, max(table.block, BLOCK))
        return Timing(conditions, table, axes, Calibration(**data["calibration"]), data["dense_ms"])


def compared(dense: Timed, network: Timed, conditions: Conditions) -> tuple[Ratio, float]:
    """The latency of a network over that of the dense one, in turns in one process, and the dense one in ms."""
    runs, repeats = {"dense": dense, "searched": network}, rounds(dense)
    found = turns(runs, conditions, repeats=repeats, warmup=WARMUP, spread=NEAR, refuse=False)
    return ratio(found["searched"], found["dense"]), found["dense"].median_ms


def rounds(dense: Timed) -> int:
    """How many rounds of turns a network is worth."""
    return min(ROUNDS, max(FEWEST, round(LASTING_MS / dense.ms())))


def timed(model: nn.Module, signature: Signature, conditions: Conditions) -> Timed:
    """A network in its fused form, ready to run on an input of the signature's example."""
    return prepared(fuse(copy.deepcopy(model).cpu()), image_of(signature), conditions)


def image_of(signature: Signature) -> Tensor:
    """The only tensor of a signature's example, on the CPU. Raises PasError for several, or a dict: such networks are not timed."""
    example = signature.example
    inputs = example if isinstance(example, tuple) else (example,)
    if len(inputs) != 1 or not isinstance(inputs[0], Tensor):
        raise PasError("latency: networks of one tensor can be timed, not those of several inputs or keywords")
    return inputs[0].cpu()


def timing(
    model: nn.Module,
    signature: Signature,
    conditions: Conditions,
    path: Path | None = None,
    console: Console | None = None,
    *,
    measure: bool = False,
) -> Timing:
    """The latency of a network under some conditions.

    `path`: a table that has all of the network's operators, or gets those that it lacks if `measure` says so; where none is named, the one
    of these conditions in the user's cache, to which what is missing is always added. Raises PasError for a table of other conditions or
    one that lacks something, for operators that can't be timed, and on a machine that is too noisy.
    """
    image_of(signature)
    if path is not None and not measure and not begun(path):
        raise PasError(f"there is no latency table in {path}; `{command(path, conditions)}` measures one")
    where = path or default_path(conditions)
    with locked(where):  # what several processes measured at once would disturb each other
        return _timing(model, signature, conditions, where, console, measure=measure or path is None)


def _timing(
    model: nn.Module, signature: Signature, conditions: Conditions, path: Path, console: Console | None, *, measure: bool
) -> Timing:
    found = profile(signature, conditions, path, console, measure=measure)
    cost = summed(found.table, found.axes, signature)
    known = calibrating(model, signature, conditions, found, console)
    dense_ms = statistics.median(one.dense_ms for one in known)
    networks = [*(architecture(signature, one.widths) for one in known), signature.dense()]
    sums = [cost.at(signature.mask(one)) / NANOSECONDS for one in networks]
    calibration = calibrate(sums, [*(one.share * dense_ms for one in known), dense_ms])
    return Timing(conditions, found.table, found.axes, calibration, dense_ms)


def calibrating(
    model: nn.Module, signature: Signature, conditions: Conditions, found: Profiled, console: Console | None
) -> list[Network]:
    """The sub-networks of a table that calibrate a network, measured now if they aren't in it."""
    name = digest(signature)
    known = [one for one in found.table.networks if one.network == name]
    if len(known) >= SAMPLES:
        return known[:SAMPLES]
    drawn = sub_networks(signature, rewarded(signature, found), SAMPLES, seed=0)[len(known) :]
    with closing(Writer(found.path, found.table.header)) as writer:
        for network in shares(model, signature, drawn, conditions, console):
            writer.network(network)
            found.table.networks.append(network)
            known.append(network)
    return known


def shares(
    model: nn.Module, signature: Signature, drawn: Sequence[Architecture], conditions: Conditions, console: Console | None
) -> list[Network]:
    """The share of the whole network's latency that sub-networks take, measured in turns with it."""
    dense, name = timed(model, signature, conditions), digest(signature)
    found: list[Network] = []
    with Bar("calibrate", len(drawn), 0, console) as bar:
        for first in range(0, len(drawn), AT_ONCE):
            chunk = drawn[first : first + AT_ONCE]
            runs = {"dense": dense}
            for number, one in enumerate(chunk):
                runs[f"sub-network {number}"] = timed(slice(model, signature, one), signature, conditions)
            times = turns(runs, conditions, repeats=rounds(dense), warmup=WARMUP, spread=conditions.spread)
            beside, *others = times.values()
            for one, its in zip(chunk, others, strict=True):
                found.append(Network(name, one.widths(), round(ratio(its, beside).median, 6), round(beside.median_ms, 6)))
            bar.update(len(found), {"last": f"{found[-1].share:.3f} of the dense {found[-1].dense_ms:.3g} ms"})
    return found


def rewarded(signature: Signature, found: Profiled) -> Mapping[str, Sequence[int]]:
    """Of each axis the widths that the device rewards."""
    widths = Widths(signature.prunable, (1,) * len(signature.prunable), 1, signature.channels)
    rungs = steps(widths, summed(found.table, found.axes, signature))
    return {axis.name: its for axis, its in zip(signature.prunable, rungs, strict=True)}


def sub_networks(signature: Signature, ladders: Mapping[str, Sequence[int]], count: int, seed: int) -> list[Architecture]:
    """Random sub-networks: shares of the width from a fifth to all, evenly spread; for each axis between a half and one and a half of that,
    and of its ladder the rung that is nearest.
    """
    rng = np.random.default_rng(seed)
    found = []
    for share in rng.permutation(np.linspace(0.2, 1.0, count)):
        widths = {}
        for axis in signature.prunable:
            rungs = np.array(ladders[axis.name])
            widths[axis.name] = int(rungs[np.abs(rungs - axis.size * share * rng.uniform(0.5, 1.5)).argmin()])
        found.append(architecture(signature, widths))
    return found


def architecture(signature: Signature, widths: Mapping[str, int]) -> Architecture:
    """The first channels of each axis, as many as `widths` say. Raises PasError for an axis that isn't there."""
    made = signature.dense()
    for name, width in widths.items():
        made = made.keep(name, range(width))
    return made


def digest(signature: Signature) -> str:
    """A name for a network by its axes, what it runs, and its input."""
    runs = [(str(one.key), one.place, one.dense()) for one in operators(signature)]
    words = [*((axis.name, axis.size) for axis in signature.axes), *runs, tuple(image_of(signature).shape[1:])]
    return hashlib.sha256(repr(words).encode()).hexdigest()[:16]
