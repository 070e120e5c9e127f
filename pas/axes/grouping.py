"""Which channels are one axis: those that live in the same places, and of which any set may be dropped."""

from __future__ import annotations

import re
from collections import defaultdict

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
        members = _members(trace, resolved, slots)
        axes, position, owner = _axes(trace, members, slots)
        if not _tie_within(trace, resolved, owner):
            return axes, position, resolved


def _members(trace: Trace, resolved: Resolved, slots: list[Slot]) -> dict[tuple, list[int]]:
    """Ids by what they touch: slots, each so many times, and pieces (so that no axis reaches over the end of one)."""
    touched: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for index, slot in enumerate(slots):
        table = resolved[slot.parameter][slot.dim]
        assert table is not None  # slots are made of tables
        found, counts = np.unique(table, return_counts=True)
        for i, count in zip(found.tolist(), counts.tolist(), strict=True):
            if i:
                touched[i].append((index, count))
    for number, part in enumerate(trace.pieces):
        for i in np.unique(trace.ids.resolve(part)).tolist() if part is not None else ():
            if i in touched:
                touched[i].append((-1 - number, 1))
    frozen, inexact = trace.ids.frozen(), trace.ids.not_exact()
    switched: set[int] = set()
    for name, d in [*trace.readers, *trace.makers]:
        table = resolved[name][d]
        switched |= set() if table is None else set(np.unique(table).tolist())
    for i in touched.keys() - switched:
        frozen.setdefault(i, "nothing reads it")
    members: dict[tuple, list[int]] = defaultdict(list)
    for i, touch in touched.items():
        members[(tuple(touch), frozen.get(i), i in inexact)].append(i)
    return members


def _axes(trace: Trace, members: dict[tuple, list[int]], slots: list[Slot]) -> tuple[tuple[Axis, ...], np.ndarray, np.ndarray]:
    """The axes, the position of each id among all channels, and the number of its axis."""
    ids, first_born = trace.ids, trace.ids.eldest()
    ties, roles = ids.ties(), _roles(trace)
    position, owner = np.zeros(len(ids.born), dtype=np.int64), np.full(len(ids.born), -1)
    axes: list[Axis] = []
    names: dict[str, int] = defaultdict(int)
    start = 1
    for (touch, reason, loose), group in sorted(members.items(), key=lambda item: min(first_born[i] for i in item[1])):
        group.sort()
        _, first = min(first_born[i] for i in group)
        lives = tuple(slots[index] for index, _ in touch if index >= 0)
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
