"""Channel shuffles: (N, g w, ...) -> (N, g, w, ...) -> (N, w, g, ...) -> (N, w g, ...), a change of order and nothing else.

Read operator by operator, the first reshape would tie the channels into groups x width, since a reshape can only split a rectangle. Read as
one change of order, every channel stays free; the sliced graph then picks the channels that are left in their new order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx

from pas.axes.capture import shape
from pas.axes.trace import Shuffle, Trace

aten = torch.ops.aten
_RESHAPES = (aten.view, aten.reshape, aten._unsafe_view, aten.flatten)
_COPIES = (aten.clone, aten.contiguous)


def begins(node: fx.Node) -> bool:
    """Is this reshape the first step of a shuffle?"""
    return any(_start(last) is node for last in _reshapes_after(node))


def shuffle(trace: Trace, node: fx.Node) -> Shuffle | None:
    """The shuffle that this reshape ends, if it ends one."""
    first = _start(node)
    if first is None:
        return None
    source: Any = first.args[0]
    along = _split(first)
    assert along is not None  # `_start` has looked
    groups, width = shape(first)[along : along + 2]
    order = np.arange(groups * width).reshape(groups, width).T.ravel()
    return Shuffle(node, source, along, tuple(order.tolist()), trace[source][along])


def _reshapes_after(node: fx.Node) -> list[fx.Node]:
    found, front = [], list(node.users)
    while front:
        user = front.pop()
        packet = getattr(user.target, "overloadpacket", None)
        if packet in _RESHAPES:
            found.append(user)
        elif packet in (aten.transpose, aten.permute, *_COPIES):
            front += list(user.users)
    return found


def _start(last: Any) -> Any:
    """The reshape that splits a dimension which is turned and put together again by `last`, all of them used by nothing else."""
    node = _argument(last, 0)
    if getattr(last.target, "overloadpacket", None) not in _RESHAPES:
        return None
    while isinstance(node, fx.Node) and getattr(node.target, "overloadpacket", None) in _COPIES and len(node.users) == 1:
        node = _argument(node, 0)
    if not isinstance(node, fx.Node) or len(node.users) != 1:
        return None
    rank = len(shape(node))
    packet = getattr(node.target, "overloadpacket", None)
    if packet is aten.transpose:
        a, b = sorted((_argument(node, 1) % rank, _argument(node, 2) % rank))
        order = list(range(rank))
        order[a], order[b] = b, a
    elif packet is aten.permute:
        order = [d % rank for d in _argument(node, 1)]
    else:
        return None
    first = _argument(node, 0)
    if not isinstance(first, fx.Node) or getattr(first.target, "overloadpacket", None) not in _RESHAPES or len(first.users) != 1:
        return None
    along = _split(first)
    if along is None or shape(last) != shape(_argument(first, 0)):
        return None
    swapped = list(range(rank))
    swapped[along], swapped[along + 1] = along + 1, along
    return first if order == swapped else None


def _split(first: Any) -> int | None:
    """The one dimension that a reshape splits in two, all others being as they were."""
    old, new = shape(first.args[0]), shape(first)
    if len(new) != len(old) + 1:
        return None
    for d in range(1, len(old)):
        if old[:d] == new[:d] and old[d] == new[d] * new[d + 1] and old[d + 1 :] == new[d + 2 :]:
            return d
    return None


def _argument(node: fx.Node, index: int) -> Any:
    return node.args[index]
