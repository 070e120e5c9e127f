"""What a search would do and what it would take, before it starts: `pas search ... dry_run=true`.

Nothing is guessed from counts: every stage runs for a few steps with its own network, batches, loss and optimiser. A search
of a few steps goes through all of its phases, so its steps cost what those of the whole search cost on average, and the
fine-tuning runs on the slice that it lands on.
"""

from __future__ import annotations

import copy
import resource
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from rich.console import Console
from timm.utils import random_seed
from torch import Tensor

from pas.amount import human
from pas.architecture import Architecture
from pas.axes.signature import Axis, Signature
from pas.config import Config, MethodConfig, dense_key
from pas.cost.macs import KINDS, build
from pas.data import Loader
from pas.inspection import share
from pas.methods import DEFAULTS, METHODS
from pas.report.table import UNITS
from pas.result import read_result
from pas.runs import Run, read_metrics
from pas.search import Search
from pas.stages import Setting, find, finetune, given, last_recipe, make, search_of, train_dense
from pas.train.checkpoint import Checkpoint
from pas.train.recipe import Recipe

T = TypeVar("T")

FEWEST, MOST, SECONDS = 4, 12, 12.0
"""Steps of a stage that are run: as many as fit into so many seconds, within these bounds."""
REASONS = 6
"""So many reasons for frozen axes are shown."""
WIDTH, INDENT = 100, 12


@dataclass(frozen=True)
class Held:
    """Axes that aren't searched, and the shares of the network's channels and costs that they take part in."""

    axes: tuple[Axis, ...]
    channels: float
    costs: dict[str, float]


@dataclass(frozen=True)
class Range:
    """A limit in absolute units: what was asked for, the least that the minimum widths allow, and the dense cost."""

    kind: str
    target: float
    smallest: int
    dense: int


@dataclass(frozen=True)
class Stage:
    """A training of so many optimiser steps and the seconds that one takes; `instead` says why there is none."""

    name: str
    instead: str | None = None
    batch_size: int = 0
    batches: int = 0
    steps: int = 0
    step_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        return self.steps * self.step_seconds


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak of the few steps; `exact` is False where the process had needed as much before them."""

    peak: int
    exact: bool
    cuda: bool


@dataclass(frozen=True)
class Plan:
    """What a run would do. `whole`: what the options keep whole. `state`: of the run's folder, in words."""

    title: str
    images: int
    shape: tuple[int, ...]
    axes: int
    frozen: Held
    whole: Held
    dense: dict[str, int]
    ranges: tuple[Range, ...]
    stages: tuple[Stage, ...]
    memory: Memory
    folder: Path
    state: str


@dataclass
class Notes:
    """What a rehearsal learns of a stage: its real length, and when each batch of the few steps was at hand."""

    batch_size: int = 0
    batches: int = 0
    steps: int = 0
    accumulate: int = 1
    ready: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Timed:
    """A loader that notes when each batch is at hand."""

    loader: Loader
    device: torch.device
    notes: Notes

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.loader.epoch(epoch, start):
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.notes.ready.append(time.perf_counter())
            yield batch


@dataclass(frozen=True)
class Rehearsal(Setting):
    """A setting whose stages take `few` steps and save nothing."""

    few: int
    notes: Notes = field(default_factory=Notes)

    def loader(self, split: str, batch_size: int, *, train: bool, shared: bool = True) -> Loader:
        return Timed(super().loader(split, batch_size, train=train, shared=shared), self.device, self.notes)

    def steps(self, recipe: Recipe, loader: Loader) -> int:
        notes = self.notes
        notes.batch_size, notes.batches, notes.accumulate = recipe.batch_size, len(loader), recipe.accumulate
        notes.steps = super().steps(recipe, loader)
        return self.few

    def checkpoint(self, run: Run, stage: str) -> Checkpoint | None:
        return None

    def step_seconds(self) -> float:
        """The mean time of a step. The first one warms up, and nothing tells when the last one ended."""
        ready = self.notes.ready[:: self.notes.accumulate]
        return (ready[-1] - ready[1]) / (len(ready) - 2)


def plan(setting: Setting, start: Architecture | None, source: Path | None = None) -> Plan:
    """Rehearse the stages of a run. Raises PasError for what the run would refuse, such as a budget out of reach.

    `start`: what the search starts from. `source`: the folder of a run that has to come first, for its widths; uniform ones
    stand in for them.
    """
    config = setting.config
    before = _peak(setting.device)
    random_seed(config.seed)
    network = make(config, setting.data)
    if source is not None:
        uniform = MethodConfig(name="uniform", options=dict(DEFAULTS["uniform"]))
        start = search_of(replace(setting, config=replace(config, method=uniform)), network, 1, None).architecture
    if METHODS[config.method.name].learns:
        (search, _), searching = _rehearse("search", setting, lambda few: find(few, network, start))
    else:
        search, _ = find(Rehearsal(**vars(setting), few=1), network, start)
        searching = Stage("search", "none: this method decides before the first step")
    recipe = last_recipe(config, search)
    _, tuning = _rehearse("finetune", setting, lambda few: finetune(few, search.slice(), recipe, network))
    instead = _instead(config)
    if instead is None:
        _, dense = _rehearse("dense", setting, lambda few: train_dense(few, copy.deepcopy(network), few.tracker.run))
    else:
        dense = Stage("dense", instead)
    after = _peak(setting.device)

    signature = search.signature
    searched = {axis.name for axis in search.widths.axes}
    everything = np.ones(signature.channels, dtype=bool)
    return Plan(
        title=f"{config.model.entry or config.model.name} on {config.data.name}, method {config.method.name}, seed {config.seed}",
        images=len(setting.data.train),
        shape=tuple(setting.example().shape[1:]),
        axes=len(signature.axes),
        frozen=_held(signature, (axis for axis in signature.axes if not axis.prunable)),
        whole=_held(signature, (axis for axis in signature.prunable if axis.name not in searched)),
        dense={kind: build(signature, kind).at(everything) for kind in KINDS},
        ranges=_ranges(search),
        stages=(dense, searching, tuning),
        memory=Memory(after, after > before, setting.device.type == "cuda"),
        folder=setting.tracker.run.folder,
        state=_state(setting.tracker.run.folder) if source is None else f"after {source.name}, whose widths it takes",
    )


def _rehearse(name: str, setting: Setting, stage: Callable[[Rehearsal], T]) -> tuple[T, Stage]:
    """Run a stage for a moment to see how fast it is, then for as many steps as there is time for; what it returned."""
    first = Rehearsal(**vars(setting), few=3)
    stage(first)
    few = max(FEWEST, min(MOST, round(SECONDS / first.step_seconds())))
    rehearsal = Rehearsal(**vars(setting), few=few)
    found, notes = stage(rehearsal), rehearsal.notes
    return found, Stage(name, None, notes.batch_size, notes.batches, notes.steps, rehearsal.step_seconds())


def _instead(config: Config) -> str | None:
    if given(config):
        return "weights given" if config.model.weights or config.model.pretrained else "not trained: train.dense.epochs=0"
    folder = Path(config.paths.runs) / dense_key(config)
    return f"trained already ({folder.name})" if (folder / "dense.json").exists() else None


def _held(signature: Signature, axes: Iterable[Axis]) -> Held:
    axes = tuple(axes)
    total = sum(axis.size for axis in signature.axes)
    costs = {kind: share(build(signature, kind), axes, signature.channels) for kind in KINDS}
    return Held(axes, sum(axis.size for axis in axes) / total, costs)


def _ranges(search: Search) -> tuple[Range, ...]:
    widths = search.widths
    order = [np.arange(axis.size) for axis in widths.axes]
    smallest = widths.mask(order, [widths.ladder(a)[0] for a in range(len(order))])
    return tuple(Range(limit.kind, limit.target, limit.cost.at(smallest), limit.dense) for limit in search.limits.each)


def _peak(device: torch.device) -> int:
    """Bytes: on a GPU what torch has had allocated at once, else the largest resident size of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _state(folder: Path) -> str:
    if read_result(folder) is not None:
        return "finished: it would only be shown"
    rows = read_metrics(folder)
    if rows:
        return f"begun: {rows[-1]['stage']}, step {rows[-1]['step']}; it would go on from its last checkpoint"
    return "new"


def show(plan: Plan, console: Console) -> None:
    """Print it in lines of at most 100 columns (80 where the output is no terminal)."""
    searched = plan.axes - len(plan.frozen.axes) - len(plan.whole.axes)
    lines = [("data", f"{plan.images} training images, {' x '.join(map(str, plan.shape))} each")]
    lines.append(("axes", f"{plan.axes}, of which {searched + len(plan.whole.axes)} are prunable and {searched} are searched"))
    lines += _held_lines("frozen", plan.frozen, _reasons(plan.frozen.axes))
    lines += _held_lines("kept whole", plan.whole, [_few([axis.name for axis in plan.whole.axes])])
    lines.append(("dense", ", ".join(f"{human(plan.dense[kind])} {UNITS[kind]}" for kind in KINDS)))
    for one in plan.ranges:
        share = f"{_percent(one.target / one.dense)} of dense; possible: {human(one.smallest)} to {human(one.dense)}"
        lines.append(("budget", f"{human(one.target)} {UNITS[one.kind]}, {share}"))
    lines += [("training", f"{stage.name}: {stage.instead or _length(stage)}") for stage in plan.stages]
    total = _time(sum(stage.seconds for stage in plan.stages))
    lines.append(("time", f"{total} of training, at the speed of the few steps taken just now"))
    lines.append(("", "(reading the data, measuring at the end and the bundle come on top)"))
    lines.append(("memory", _memory(plan.memory)))
    console.print(plan.title, style="bold", highlight=False, soft_wrap=True)
    wrap = textwrap.TextWrapper(
        min(WIDTH, console.width) - INDENT, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False
    )
    for name, words in lines:
        for part in wrap.wrap(words):
            console.print(f"{name:{INDENT}}{part}", highlight=False, markup=False, soft_wrap=True)
            name = ""
    # not wrapped: a path must stay one word for whoever copies it
    console.print(f"{'folder':{INDENT}}{plan.folder}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"{'':{INDENT}}{plan.state}", highlight=False, soft_wrap=True)


def _held_lines(name: str, held: Held, words: Iterable[str]) -> list[tuple[str, str]]:
    if not held.axes:
        return []
    costs = ", ".join(f"{_percent(held.costs[kind])} of {UNITS[kind]}" for kind in KINDS)
    axes = "1 axis holds" if len(held.axes) == 1 else f"{len(held.axes)} axes hold"
    return [(name, f"{axes} {_percent(held.channels)} of channels, {costs}"), *(("", line) for line in words)]


def _reasons(axes: Iterable[Axis]) -> list[str]:
    """Frozen axes gathered by why they are."""
    names: dict[str, list[str]] = {}
    for axis in axes:
        names.setdefault(axis.frozen or "", []).append(axis.name)
    lines = [f"{_few(found)}: {reason}" for reason, found in names.items()]
    more = [f"... and {len(lines) - REASONS} more reasons; `pas inspect` lists all"] if len(lines) > REASONS else []
    return lines[:REASONS] + more


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f", ... ({len(names)} axes)" if len(names) > 4 else "")


def _length(stage: Stage) -> str:
    size = f"{stage.steps} steps of {stage.batch_size} images, {stage.batches} an epoch"
    return f"{size}, {_time(stage.step_seconds)} each: {_time(stage.seconds)}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _time(seconds: float) -> str:
    for unit, scale, least in (("h", 3600.0, 2.0), ("min", 60.0, 2.0), ("s", 1.0, 1.0)):
        if seconds >= least * scale:
            return f"{seconds / scale:.1f} {unit}"
    return f"{1000 * seconds:.0f} ms"


def _memory(memory: Memory) -> str:
    amount = f"{memory.peak / 2**20:.0f} MiB"
    if memory.cuda:
        return f"{amount} of the GPU, torch's peak in these steps; the driver's own comes on top"
    if not memory.exact:
        return f"at most {amount}, this process's peak, which it had reached before these steps"
    return f"{amount}, this process's peak in these steps, Python and libraries included"
