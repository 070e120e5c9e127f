"""What a search would do and what it would take, before it starts: `pas search ... dry_run=true`.

Nothing is guessed from counts: every stage runs for a few steps with its own network, batches, loss and optimiser. A search
of a few steps goes through all of its phases, so its steps cost what those of the whole search cost on average, and the
fine-tuning runs on the slice that it lands on.
"""

from __future__ import annotations

import copy
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from timm.utils import random_seed
from torch import Tensor, nn

from pas import distributed
from pas.architecture import Architecture
from pas.axes.signature import Axis, Signature
from pas.config import Config, MethodConfig
from pas.cost.macs import KINDS, build
from pas.criteria import Batch
from pas.data import Loader
from pas.inspection import share
from pas.keys import dense_key
from pas.methods import DEFAULTS, named
from pas.report.plan import Held, Memory, Plan, Range, Stage
from pas.result import read_result
from pas.runs import Run, read_metrics
from pas.search import Search
from pas.setting import Setting
from pas.stages import find, finetune, last_recipe, train_dense
from pas.start import make, refuse_early, search_of
from pas.train.checkpoint import Checkpoint
from pas.train.recipe import Recipe

T = TypeVar("T")

FEWEST, MOST, SECONDS = 4, 12, 12.0
"""Steps of a stage that are run: as many as fit into so many seconds, within these bounds."""
EXAMPLES = 32
"""So many examples are shown to a method that judges by single ones."""


@dataclass
class Notes:
    """What a rehearsal learns of a stage: its real length, when each batch of the few steps was at hand, and how long the
    method looked at an example before the first step.
    """

    batch_size: int = 0
    batches: int = 0
    steps: int = 0
    accumulate: int = 1
    ready: list[float] = field(default_factory=list)
    example_seconds: float = 0.0


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

    def examples(self, batch_size: int) -> Iterator[Batch]:
        """A few, to see how long one takes."""
        plain = Setting(self.config, self.tracker, self.data, self.device, self.console)  # whose loader notes no time
        x, y = next(plain.examples(min(batch_size, EXAMPLES)))
        began = time.perf_counter()
        for number in range(1, len(y) + 1):
            try:
                yield x[number - 1 : number], y[number - 1 : number]
            finally:  # a method that has seen enough asks for no more
                self.notes.example_seconds = (time.perf_counter() - began) / number

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


def plan(setting: Setting, start: Architecture | None, first: Plan | None = None) -> Plan:
    """Rehearse the stages of a run. Raises PasError for what the run would refuse, such as a budget out of reach.

    `start`: what the search starts from. `first`: a run that has to come before it, for its widths; uniform ones stand in for them.
    """
    config = setting.config
    before = _peak(setting.device)
    random_seed(config.seed)
    network = make(config, setting.data)
    if first is not None:
        start = stand_in(setting, network)
    refuse_early(setting, network, start)
    if named(config.method.name).learns:
        (search, _), searching = _rehearse("search", setting, lambda few: find(few, network, start))
    else:
        once = Rehearsal(**vars(setting), few=1)
        search, _ = find(once, network, start)
        searching = Stage("search", "none: this method decides before the first step", example_seconds=once.notes.example_seconds)
    searching = replace(searching, examples=min(search.method.samples, len(setting.data.train)))
    recipe = last_recipe(config, search)
    if recipe.epochs:
        _, tuning = _rehearse("finetune", setting, lambda few: finetune(few, search.slice(), recipe, network))
    else:
        tuning = Stage("finetune", "none: the cut network stays as it is")
    instead = _instead(config, first)
    if instead is None:
        _, dense = _rehearse("dense", setting, lambda few: train_dense(few, copy.deepcopy(network), few.tracker.run))
    else:
        dense = Stage("dense", instead)
    after = _peak(setting.device)

    signature = search.signature
    searched = {axis.name for axis in search.widths.axes}
    everything = np.ones(signature.channels, dtype=bool)
    return Plan(
        title=f"{config.model.label} on {config.data.name}, method {config.method.name}, seed {config.seed}",
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
        state=_state(setting.tracker.run.folder) if first is None else f"after {first.folder.name}, whose widths it takes",
        first=first,
    )


def stand_in(setting: Setting, network: nn.Module) -> Architecture:
    """Uniform widths under the same budget, for those of a run that isn't finished."""
    uniform = MethodConfig(name="uniform", options=dict(DEFAULTS["uniform"]))
    return search_of(replace(setting, config=replace(setting.config, method=uniform)), network, 1, None).architecture


def _rehearse(name: str, setting: Setting, stage: Callable[[Rehearsal], T]) -> tuple[T, Stage]:
    """Run a stage for a moment to see how fast it is, then for as many steps as there is time for; what it returned."""
    first = Rehearsal(**vars(setting), few=3)
    stage(first)
    # the leader's: each process measures a time of its own, and all have to take as many steps
    few = distributed.from_leader(lambda: max(FEWEST, min(MOST, round(SECONDS / first.step_seconds()))))
    rehearsal = Rehearsal(**vars(setting), few=few)
    found, notes = stage(rehearsal), rehearsal.notes
    return found, Stage(name, None, notes.batch_size, notes.batches, notes.steps, rehearsal.step_seconds(),
                        example_seconds=notes.example_seconds)  # fmt: skip


def _instead(config: Config, first: Plan | None) -> str | None:
    if first is not None:
        return f"that of {first.folder.name}"
    if config.given:
        named = config.model.weights or config.model.path or config.model.pretrained
        return "weights given" if named else "not trained: train.dense.epochs=0"
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
    under = "" if search.timing is None else search.timing.conditions.brief
    return tuple(
        Range(limit.kind, limit.told(limit.target), limit.told(limit.cost.at(smallest)), limit.told(limit.dense),
              under if limit.kind == "latency" else "")
        for limit in search.limits.each
    )  # fmt: skip


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
