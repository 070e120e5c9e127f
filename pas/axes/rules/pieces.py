"""Operators that join dimensions, take parts of them, or make tensors."""

from __future__ import annotations

import itertools
import operator
from typing import Any

import numpy as np
import torch
from torch import fx

from pas.axes.capture import place, shape, shapes
from pas.axes.ids import Dim
from pas.axes.rules.table import rule
from pas.axes.trace import Trace, Type

aten = torch.ops.aten


@rule(aten.cat)
def concatenate(trace: Trace, node: fx.Node) -> Type:
    """A sum of axes along one dimension; the others are one."""
    parts, dim = trace.arguments(node, 2)
    parts = [part for part in parts if shape(part) != (0,)]
    dim = (dim or 0) % len(shape(node))
    rest = trace.broadcast(parts, node, skip=dim)
    return (
        *rest[:dim],
        trace.stack([trace[part][dim] for part in parts], [shape(part)[dim] for part in parts]),
        *rest[dim + 1 :],
    )


@rule(aten.stack)
def stack(trace: Trace, node: fx.Node) -> Type:
    """Equal tensors along a new dimension, which is never sliced."""
    parts, dim = trace.arguments(node, 2)
    dim = (dim or 0) % len(shape(node))
    rest = trace.broadcast(parts, node)
    return (*rest[:dim], None, *rest[dim:])


@rule(aten.constant_pad_nd, aten.pad)
def pad(trace: Trace, node: fx.Node) -> Type:
    """Padding channels (the option-A shortcut) are new ids that may be sliced; padded space is left alone."""
    x, widths, mode = trace.arguments(node, 3)
    out = list(trace[x])
    copied = isinstance(mode, str) and mode != "constant"  # reflected or wrapped channels are no channels of their own
    for k in range(len(widths) // 2):
        d = len(out) - 1 - k
        left, right = widths[2 * k : 2 * k + 2]
        if out[d] is None or not (left or right):
            continue
        if copied or left < 0 or right < 0:
            trace.freeze([out[d]], node, "padded or cut by copies")
            out[d] = None
            continue
        pieces = [
            trace.fresh(left, node, "padding") if left else None,
            out[d],
            trace.fresh(right, node, "padding") if right else None,
        ]
        out[d] = trace.stack(pieces, [left, shape(x)[d], right])
        trace.constant(node, 1, 2 * k, pieces[0])
        trace.constant(node, 1, 2 * k + 1, pieces[2])
    return tuple(out)


@rule(aten.split, aten.split_with_sizes, aten.chunk, aten.tensor_split)
def split(trace: Trace, node: fx.Node) -> Type:
    """Neighbouring parts of a dimension, none of which may become empty."""
    x, _, dim = trace.arguments(node, 3)
    source = trace[x]
    dim = (dim or 0) % len(source)
    bounds = np.cumsum([0, *(sizes[dim] for sizes in shapes(node))])
    parts = [_part(trace, node, source[dim], int(a), int(b)) for a, b in itertools.pairwise(bounds)]
    for index, part in enumerate(parts):
        trace.constant(node, 1, index, part)
    trace.many[node] = tuple((*source[:dim], part, *source[dim + 1 :]) for part in parts)
    return trace.many[node][0]


@rule(aten.slice, aten.narrow)
def narrow(trace: Trace, node: fx.Node) -> Type:
    """A range of a dimension. With a step, neighbours that fall into one stride stay or go together, so that the stride stays right."""
    x, dim, *bounds = trace.arguments(node, 5)
    source = list(trace[x])
    dim = (dim or 0) % len(source)
    size, table = shape(x)[dim], source[dim]
    packet = getattr(node.target, "overloadpacket", None)
    if table is None or (shape(x) == shape(node) and packet is aten.slice):
        return tuple(source)
    step = 1 if packet is aten.narrow or bounds[2] is None else bounds[2]
    start = 0 if bounds[0] is None else _index(bounds[0], size)
    stop = start + bounds[1] if packet is aten.narrow else size if bounds[1] is None else _index(bounds[1], size)
    if step > 1 and (size % step or stop != size or start >= step):
        trace.freeze([table], node, "a step that leaves a rest")
        source[dim] = None
    elif step > 1:
        for offset in range(1, step):
            trace.ids.tie(table[::step], table[offset::step], place(node))
        source[dim] = table[start::step]
    else:
        source[dim] = _part(trace, node, table, start, stop)
        trace.constant(node, 2, None, table[:start] if start else None)
        trace.constant(node, 3, None, source[dim] if packet is aten.narrow else table[:stop] if stop < size else None)
    return tuple(source)


@rule(aten.select)
def select(trace: Trace, node: fx.Node) -> Type:
    """One place of a dimension, which stays whole."""
    x, dim, _ = trace.arguments(node, 3)
    source = trace[x]
    dim %= len(source)
    trace.freeze([source[dim]], node, "single channels are read")
    return (*source[:dim], *source[dim + 1 :])


@rule(aten.unbind)
def unbind(trace: Trace, node: fx.Node) -> Type:
    """All places of a dimension, which stays whole."""
    x, dim = trace.arguments(node, 2)
    source = trace[x]
    dim = (dim or 0) % len(source)
    trace.freeze([source[dim]], node, "single channels are read")
    trace.many[node] = ((*source[:dim], *source[dim + 1 :]),) * shape(x)[dim]
    return trace.many[node][0]


@rule(operator.getitem)
def one_of_many(trace: Trace, node: fx.Node) -> Type:
    """One of several results."""
    source: Any = node.args[0]
    results = trace.many.get(source)
    index: Any = node.args[1]
    return (None,) * len(shape(node)) if results is None else results[index]


@rule(aten.index)
def index(trace: Trace, node: fx.Node) -> Type:
    """Tables read by index (relative positions): what is indexed stays whole, the other dimensions pass."""
    x, indices = trace.arguments(node, 2)
    source = trace[x]
    places = [d for d, one in enumerate(indices) if one is not None]
    for one in indices:
        if isinstance(one, fx.Node):
            trace.freeze(trace[one], node, "places to read from")
    rank = max(len(shape(indices[d])) for d in places)
    if any(indices[d].meta["val"].dtype is torch.bool for d in places):
        trace.freeze(source, node, "read where a mask holds")
        return (None,) * len(shape(node))
    trace.freeze([source[d] for d in places], node, "read by places")
    new: Type = (None,) * rank
    rest = [dim for d, dim in enumerate(source) if d not in places]
    together = places == list(range(places[0], places[-1] + 1))
    at = places[0] if together else 0
    return (*rest[:at], *new, *rest[at:])


@rule(aten.index_select)
def index_select(trace: Trace, node: fx.Node) -> Type:
    """Places of a dimension, which stays whole."""
    x, dim, places = trace.arguments(node, 3)
    source = list(trace[x])
    trace.freeze([source[dim], *trace[places]], node, "read by places")
    source[dim] = None
    return tuple(source)


@rule(aten.gather)
def gather(trace: Trace, node: fx.Node) -> Type:
    """Places that differ from row to row: the dimension stays whole, the others are those of the index, too."""
    x, dim, places = trace.arguments(node, 3)
    dim %= len(shape(x))
    trace.freeze([trace[x][dim], trace[places][dim]], node, "read by places")
    out: list[Dim] = []
    for d, (a, b) in enumerate(zip(trace[x], trace[places], strict=True)):
        if d != dim and shape(x)[d] == shape(places)[d]:
            trace.ids.tie(a, b, place(node))
        elif d != dim:
            trace.freeze([a, b], node, "read in part")
            a = None
        out.append(None if d == dim else a)
    return tuple(out)


@rule(aten.embedding)
def embedding(trace: Trace, node: fx.Node) -> Type:
    """Rows of a table; its columns are channels."""
    table, places = trace.arguments(node, 2)
    trace.constrain(table, (trace.fresh(shape(table)[0], node, "rows"), trace.fresh(shape(table)[1], node)), node)
    trace.freeze([trace[table][0], *trace[places]], node, "rows read by number")
    return (*trace[places], trace[table][1])


@rule(aten.index_add, aten.index_add_, aten.scatter_add, aten.scatter_add_, aten.scatter_reduce, aten.scatter_reduce_, aten.scatter,
      aten.scatter_, aten.index_copy, aten.index_copy_)  # fmt: skip
def scatter(trace: Trace, node: fx.Node) -> Type:
    """Rows are put, or added, to places along a dimension, which stays whole (messages to nodes of a graph)."""
    x, dim, places, source = trace.arguments(node, 4)
    rank = len(shape(x))
    dim %= rank
    trace.freeze([trace[x][dim]], node, "written by places")
    if len(shape(places)) == rank:  # places of their own for every channel
        trace.freeze([trace[places][dim]], node, "written by places")
        for d in range(rank):
            if d != dim and shape(places)[d] == shape(x)[d]:
                trace.ids.tie(trace[x][d], trace[places][d], place(node))
            elif d != dim:
                trace.freeze([trace[x][d], trace[places][d]], node, "written in part")
    else:
        trace.freeze(trace[places], node, "written by places")
    if isinstance(source, fx.Node) and len(shape(source)) == rank:
        trace.freeze([trace[source][dim]], node, "written by places")
        for d in range(rank):
            if d != dim and shape(source)[d] == shape(x)[d]:
                trace.ids.tie(trace[x][d], trace[source][d], place(node))
            elif d != dim:
                trace.freeze([trace[x][d], trace[source][d]], node, "written in part")
    return tuple(None if d == dim else t for d, t in enumerate(trace[x]))


@rule(aten.zeros, aten.ones, aten.full, aten.empty, aten.new_zeros, aten.new_ones, aten.new_full, aten.new_empty)
def filled(trace: Trace, node: fx.Node) -> Type:
    """A tensor of one value: any part of it is as good as the whole, so its sizes may follow what it meets."""
    sizes = shape(node)
    out = tuple(trace.fresh(n, node, "filled", last=True) if n > 1 and (d or len(sizes) == 1) else None for d, n in enumerate(sizes))
    argument = 1 if "new_" in str(node.target) else 0
    for d, dim in enumerate(out):
        trace.constant(node, argument, d, dim)
    return out


@rule(aten.arange, aten.linspace, aten.eye, aten.scalar_tensor, aten.tensor, aten.meshgrid, aten.tril, aten.triu, aten.randn, aten.rand)
def made(trace: Trace, node: fx.Node) -> Type:
    """Made by the code, with a value for every place: nothing of it can be sliced."""
    for tensor in trace.tensor_arguments(node):
        trace.freeze(trace[tensor], node, "its values depend on the size")
    several = shapes(node)
    trace.many[node] = tuple((None,) * len(sizes) for sizes in several)
    return trace.many[node][0]


def _part(trace: Trace, node: fx.Node, table: Dim, start: int, stop: int) -> Dim:
    """A range of a dimension, of which at least one element must stay."""
    if table is None:
        return None
    part = table[start:stop]
    if len(part) == 1:
        trace.freeze([part], node, "a part of one channel")
    else:
        trace.pieces.append(part)
    return part


def _index(value: Any, size: int) -> int:
    return size if not isinstance(value, int) else max(0, min(size, value + size if value < 0 else value))

