"""What a run would do, as data and in lines for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from pas.amount import human, time_in_words
from pas.axes.signature import Axis
from pas.cost.macs import KINDS
from pas.report.table import UNITS

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
    """A limit in absolute units: what was asked for, the least that the minimum widths allow, and the dense cost; `under`: the conditions
    of a latency.
    """

    kind: str
    target: float
    smallest: float
    dense: float
    under: str = ""


@dataclass(frozen=True)
class Stage:
    """A training of so many optimiser steps and the seconds that one takes; `instead` says why there is none. Before it, channels
    are judged by so many single examples.
    """

    name: str
    instead: str | None = None
    batch_size: int = 0
    batches: int = 0
    steps: int = 0
    step_seconds: float = 0.0
    examples: int = 0
    example_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        return self.judging + self.steps * self.step_seconds

    @property
    def judging(self) -> float:
        return self.examples * self.example_seconds


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak of the few steps; `exact` is False where the process had needed as much before them."""

    peak: int
    exact: bool
    cuda: bool


@dataclass(frozen=True)
class Plan:
    """What a run would do. `whole`: what the options keep whole. `state`: of the run's folder, in words. `first`: what another
    run would do, which has to come before this one.
    """

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
    first: Plan | None = None

    @property
    def seconds(self) -> float:
        """Of training, with that of the run before."""
        return sum(stage.seconds for stage in self.stages) + (self.first.seconds if self.first is not None else 0.0)


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
        under = f" ({one.under})" if one.under else ""
        lines.append(("budget", f"{human(one.target)} {UNITS[one.kind]}{under}, {share}"))
    lines += [("training", f"{stage.name}: {stage.instead or _length(stage)}{_judging(stage)}") for stage in plan.stages]
    if plan.first is not None:
        lines.append(("", f"before all that: {time_in_words(plan.first.seconds)} for {plan.first.folder.name}"))
    total = time_in_words(plan.seconds)
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
    return f"{size}, {time_in_words(stage.step_seconds)} each: {time_in_words(stage.steps * stage.step_seconds)}"


def _judging(stage: Stage) -> str:
    return f"; before that, {stage.examples} examples judge the channels: {time_in_words(stage.judging)}" if stage.examples else ""


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _memory(memory: Memory) -> str:
    amount = f"{memory.peak / 2**20:.0f} MiB"
    if memory.cuda:
        return f"{amount} of the GPU, torch's peak in these steps; the driver's own comes on top"
    if not memory.exact:
        return f"at most {amount}, this process's peak, which it had reached before these steps"
    return f"{amount}, this process's peak in these steps, Python and libraries included"
