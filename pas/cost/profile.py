"""Filling a latency table: every operator of a network at every width that its grid needs, resumable, with the time that is left."""

from __future__ import annotations

import fcntl
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console

from pas.axes.signature import Signature
from pas.cost.conditions import Conditions
from pas.cost.grid import envelope
from pas.cost.kernels import Kernel, kernel
from pas.cost.latency import Latency, build
from pas.cost.measure import torch_threads
from pas.cost.operators import Key, operators
from pas.cost.table import BLOCK, Axes, Table, Widths, Writer, begun, matching, points, wanted
from pas.errors import PasError
from pas.progress import Bar

PASSES, PROBES = 3, 7
"""Every point is measured so often, with others between, and the median counts."""
CHUNK = 8
PROBE = Key("conv", (3, 3), (1, 1), (1, 1), (1, 1), (14, 14), "relu")
FILLING = 32
"""So many examples, of four times the sides, fill a GPU: a smaller operator takes as long there as its launch, whatever its width."""
PROBED = range(36, 132, 4)
"""Widths of the probe, on both sides of several edges of blocks."""
REFERENCE = 64
"""The width at which the probe is the operator of reference. It is timed again beside every point, and the point divided by how much slower
it was: processors change their speed, by their clock and by what else runs on them, and all operators with it.
"""
BLOCKS = (64, 32, 16, 8)
FLAT = 0.25
"""Inside of a block a width saves less than this share of what it would in proportion."""


def default_path(conditions: Conditions) -> Path:
    """Where a table lies unless one says otherwise: a file for these conditions below PAS_CACHE, or the user's cache folder."""
    root = os.environ.get("PAS_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pas"
    header = conditions.header()
    words = [header.device, header.runtime, *header.versions.values(), header.dtype, header.layout]
    name = "-".join([*words, f"b{header.batch}", f"t{header.threads}"])
    return Path(root) / "latency" / (re.sub(r"[^\w.-]+", "_", name) + ".jsonl")


def command(path: Path, conditions: Conditions) -> str:
    """The `pas profile` of these conditions that begins a table in a file, or goes on with it."""
    own = Conditions()
    words = [f"--{name} {value}" for name, value in vars(conditions).items() if value != getattr(own, name)]
    return " ".join(["pas profile MODEL --out", str(path), *words])


@dataclass(frozen=True)
class Profiled:
    """A table that holds all that a network needs, where it lies, and the grid of each of its operators."""

    path: Path
    table: Table
    axes: Axes


def summed(table: Table, axes: Axes, signature: Signature) -> Latency:
    """The sum of a table over a network's operators, not calibrated. Raises PasError for what the table doesn't have."""
    return build(signature, table.grids(axes), max(table.block, 1))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Nobody else measures for a table meanwhile; who comes second waits, and finds what the first one wrote."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def opened(path: Path, conditions: Conditions) -> Table:
    """The table in a file, or an empty one where there is none. Raises PasError when it was measured under other conditions."""
    header = conditions.header()
    return matching(path, header) if begun(path) else Table(header)


def profile(signature: Signature, conditions: Conditions, path: Path, console: Console | None, *, measure: bool = True) -> Profiled:
    """The table in a file with whatever it lacked for a network measured and written, point by point.

    `measure`: whether it may; without it, a table that lacks something is an error. Raises PasError for a table of other conditions, an
    operator that can't be timed alone, and a machine that stays too noisy.
    """
    table = opened(path, conditions)
    if not table.block and measure:
        with torch_threads(1):
            alone = replace(conditions, threads=1)
            table.block = _block({width: probe(alone, width) for width in PROBED})
        with torch_threads(conditions.threads):
            reference = probe(conditions)
            table.reference_ms = round(min(reference.ms()[0] for _ in range(PROBES)), 6)
        with closing(Writer(path, table.header)) as writer:
            writer.runtime(table.block, table.reference_ms)
    axes = wanted(operators(signature), signature, max(table.block, BLOCK))
    missing = [(key, widths) for key, widths in points(axes) if not table.has(key, widths)]
    if missing and not measure:
        key, widths = missing[0]
        raise PasError(f"{path} lacks {len(missing)} points, {key} at widths {widths} for one; `{command(path, conditions)}` measures them")
    if missing:
        _fill(table, missing, conditions, path, console)
    return Profiled(path, table, axes)


def _fill(table: Table, missing: list[tuple[Key, Widths]], conditions: Conditions, path: Path, console: Console | None) -> None:
    order = np.random.default_rng(0).permutation(len(missing))  # the large among the small, so that the time left is told well
    bar = Bar("profile", len(missing), 0, console)
    with torch_threads(conditions.threads), closing(Writer(path, table.header)) as writer, bar:
        reference = probe(conditions)
        for first in range(0, len(missing), CHUNK):
            chunk = [missing[i] for i in order[first : first + CHUNK]]
            kernels = [kernel(key, widths, conditions) for key, widths in chunk]
            passes = [[_beside(reference, one, table.reference_ms) for one in kernels] for _ in range(PASSES)]
            for (key, widths), times in zip(chunk, zip(*passes, strict=True), strict=True):
                middle, iqr = sorted(times)[PASSES // 2]
                ms = max(round(middle, 6), 1e-6)  # as the file has it; none is zero
                table.add(key, widths, ms)
                writer.add(key, widths, ms, round(iqr, 6))
            if bar.due() or first + CHUNK >= len(missing):
                bar.update(min(first + CHUNK, len(missing)), {"last": f"{key}, {ms:.3g} ms"})


def _beside(reference: Kernel, kernel: Kernel, reference_ms: float) -> tuple[float, float]:
    """The time of an operator and its range, as they would have been when that of reference took so long."""
    before, _ = reference.ms()
    ms, iqr = kernel.ms()
    speed = 2 * reference_ms / (before + reference.ms()[0])
    return ms * speed, iqr * speed


def probe(conditions: Conditions, width: int = REFERENCE) -> Kernel:
    """The operator of reference, or one like it that makes another width: for one example, or as many as fill the device."""
    if conditions.device == "cpu":
        return kernel(PROBE, (REFERENCE, width), replace(conditions, batch=1))
    large = replace(PROBE, size=tuple(4 * side for side in PROBE.size))
    return kernel(large, (REFERENCE, width), replace(conditions, batch=FILLING))


def _block(probes: Mapping[int, Kernel]) -> int:
    """The channels that a runtime computes at once, from operators that make so many channels: the largest block inside of which a narrower
    convolution saves next to nothing; 1 when every channel counts.
    """
    widths = sorted(probes)
    passes = [[probes[width].ms()[0] / probes[REFERENCE].ms()[0] for width in widths] for _ in range(PROBES)]
    ms = envelope(np.median(passes, axis=0))
    for block in BLOCKS:
        if _saved(widths, ms, block) < FLAT:
            return block
    return 1


def _saved(widths: Sequence[int], ms: np.ndarray, block: int) -> float:
    """What widths inside of blocks save, as a share of what they would in proportion: the median over whole blocks."""
    at = dict(zip(widths, ms, strict=True))
    edges = [width for width in widths if width % block == 0 and width - block >= widths[0] - 1]
    shares = []
    for edge, step in itertools.product(edges, {4, block // 2, block - 4}):
        if edge - step in at:
            shares.append((1 - at[edge - step] / at[edge]) / (step / edge))
    return float(np.median(shares)) if shares else 1.0
