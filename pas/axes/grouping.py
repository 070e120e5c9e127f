"""Which channels are one axis: those that live in the same places, and of which any set may be dropped."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import NamedTuple

import numpy as np

from pas.axes.ids import Dim
from pas.axes.signature import Axis, Slot
from pas.axes.trace import Trace, Type

Resolved = dict[str, tuple[Dim, ...]]


def grouped(trace: Trace, typed: dict[str, Type]) -> tuple[tuple[Axis, ...], np.ndarray, Resolved]:
    """The axes in the order of the network, the position of each id in the vector over all their channels, and the parameters' tables.

    An element that stays only when two channels of one axis stay would let a set of channels mean nothing at all; such channels are tied.
    """
    while True:
        resolved = {name: tuple(None if dim is None else trace.ids.resolve(dim) for dim in dims) for name, dims in typed.items()}
        slots = [Slot(name, d) for name, dims in resolved.items() for d, dim in enumerate(dims) if dim is not None]
        axes, position, owner = _axes(trace, _groups(trace, resolved, slots))
        if not _tie_within(trace, resolved, owner):
            return axes, position, resolved


class Group(NamedTuple):
    """Ids that touch the same: where they live, why they stay whole (or None), whether a slice of them is inexact."""

    lives: tuple[Slot, ...]
    frozen: str | None
    loose: bool
    ids: list[int]


def _groups(trace: Trace, resolved: Resolved, slots: list[Slot]) -> list[Group]:
    """Ids by what they touch: slots, each so many times, and pieces (so that no axis reaches over the end of one).

    All ids begin in class 0. Every slot splits off those that it touches; `steps` says of a class what it was before, and by which slot
    it became another.
    """
    of, steps = np.zeros(len(trace.ids.born), dtype=np.int64), [(0, -1)]

    def refine(index: int, found: np.ndarray, counts: np.ndarray) -> None:
        most = int(counts.max(initial=0)) + 1
        keys, inverse = np.unique(of[found] * most + counts, return_inverse=True)
        of[found] = len(steps) + inverse
        steps.extend((before, index) for before in (keys // most).tolist())

    for index, slot in enumerate(slots):
        table = resolved[slot.parameter][slot.dim]
        assert table is not None  # slots are made of tables
        found, counts = np.unique(table, return_counts=True)
        refine(index, found[found > 0], counts[found > 0])
    for part in trace.pieces:
        if part is not None:
            found = np.unique(trace.ids.resolve(part))
            found = found[of[found] > 0]
            refine(-1, found, np.ones_like(found))
    frozen, inexact = trace.ids.frozen(), trace.ids.not_exact()
    switched = np.zeros(len(of), dtype=bool)
    for name, d in [*trace.readers, *trace.makers]:
        table = resolved[name][d]
        if table is not None:
            switched[table] = True
    members: dict[tuple[int, str | None, bool], list[int]] = defaultdict(list)
    for i in np.flatnonzero(of).tolist():
        unread = None if switched[i] else "no weight reads it, so that a gate would do nothing"
        members[(int(of[i]), frozen.get(i, unread), i in inexact)].append(i)
    return [Group(_lives(steps, one, slots), reason, loose, ids) for (one, reason, loose), ids in members.items()]


def _lives(steps: list[tuple[int, int]], one: int, slots: list[Slot]) -> tuple[Slot, ...]:
    """The slots that a class of ids touches, in their order."""
    indices = []
    while one:
        one, index = steps[one]
        indices.append(index)
    return tuple(slots[index] for index in reversed(indices) if index >= 0)


def _axes(trace: Trace, groups: list[Group]) -> tuple[tuple[Axis, ...], np.ndarray, np.ndarray]:
    """The axes, the position of each id among all channels, and the number of its axis."""
    ids, first_born = trace.ids, trace.ids.eldest()
    ties, roles = ids.ties(), _roles(trace)
    position, owner = np.zeros(len(ids.born), dtype=np.int64), np.full(len(ids.born), -1)
    axes: list[Axis] = []
    names: dict[str, int] = defaultdict(int)
    start = 1
    for lives, reason, loose, group in sorted(groups, key=lambda one: min(first_born[i] for i in one.ids)):
        _, first = min(first_born[i] for i in group)
        if reason is None and len(group) == 1:
            reason = "it has a single channel"
        label = ids.label[first]
        if re.search(r"\.split\d+$", label):  # a reshape made it; what uses it knows a better name
            label = next((roles[i] for i in group if i in roles), label)
        names[label] += 1
        name = label if names[label] == 1 else f"{label}#{names[label]}"
        owner[group], position[group] = len(axes), np.arange(start, start + len(group))
        tied = tuple(dict.fromkeys(words for i in group for words in ties.get(i, ())))
        axes.append(Axis(name, len(group), reason is None, not loose, lives, reason, start, tied))
        start += len(group)
    return tuple(axes), position, owner


def _roles(trace: Trace) -> dict[int, str]:
    """Ids by the first role that they are used in, where a dimension is nothing else."""
    found: dict[int, str] = {}
    for dim, label in trace.roles:
        table = None if dim is None else trace.ids.resolve(dim)
        if table is not None and table.shape[1] == 1:
            for i in table[:, 0].tolist():
                found.setdefault(i, label)
    return found


def _tie_within(trace: Trace, resolved: Resolved, owner: np.ndarray) -> bool:
    """Tie ids of one axis that are asked for by the same element; was there any?"""
    found = False
    for name, dims in resolved.items():
        for dim in dims:
            if dim is None or dim.shape[1] == 1:
                continue
            for a in range(dim.shape[1]):
                for b in range(a + 1, dim.shape[1]):
                    x, y = dim[:, a], dim[:, b]
                    both = (x > 0) & (y > 0) & (owner[x] == owner[y]) & (owner[x] >= 0) & (x != y)
                    if both.any():
                        trace.ids.tie(x[both, None], y[both, None], f"two channels of one axis in {name}")
                        found = True
    return found
