"""Operators that move, make or remove dimensions."""

from __future__ import annotations

import math

import torch
from torch import fx

from pas.axes.capture import shape
from pas.axes.ids import Dim, merge
from pas.axes.rules.shuffle import begins, shuffle
from pas.axes.rules.table import rule
from pas.axes.trace import Trace, Type

aten = torch.ops.aten


SIZED = (aten.view, aten.reshape, aten._unsafe_view, aten.unflatten, aten.reshape_as, aten.view_as)


@rule(aten.flatten, aten.squeeze, aten.unsqueeze, aten.squeeze_, aten.unsqueeze_, *SIZED)
def reshape(trace: Trace, node: fx.Node) -> Type:
    """Merges give products (flatten before a classifier: channels x height x width), splits give factors."""
    x = trace.arguments(node, 1)[0]
    if getattr(node.target, "_overloadname", "") == "dtype":  # a view of the same bytes
        return trace[x]
    if begins(node):
        return (None,) * len(shape(node))  # the reshape that ends the shuffle speaks for all of it
    turned = shuffle(trace, node)
    if turned is not None:
        source = list(trace[turned.source])
        if turned.before is not None:
            source[turned.along] = turned.before[list(turned.order)]
            trace.shuffles.append(turned)
            trace.constant(node, 1, turned.along, turned.before)
        return tuple(source)
    out = trace.reshape(trace[x], shape(x), shape(node), node)
    if getattr(node.target, "overloadpacket", None) in SIZED:
        trace.sized(node, out)
    return out


@rule(aten.permute)
def permute(trace: Trace, node: fx.Node) -> Type:
    """Dimensions change places."""
    x, order = trace.arguments(node, 2)
    return tuple(trace[x][d] for d in order)


@rule(aten.transpose, aten.transpose_, aten.swapaxes, aten.swapdims)
def transpose(trace: Trace, node: fx.Node) -> Type:
    """Two dimensions change places."""
    x, a, b = trace.arguments(node, 3)
    out: list[Dim] = list(trace[x])
    out[a], out[b] = out[b], out[a]
    return tuple(out)


@rule(aten.t, aten.numpy_T, aten.mT, aten.adjoint)
def turn(trace: Trace, node: fx.Node) -> Type:
    """The last two dimensions change places (`.T`: all of them)."""
    source = trace[trace.arguments(node, 1)[0]]
    if getattr(node.target, "overloadpacket", None) is aten.numpy_T:
        return source[::-1]
    return source if len(source) < 2 else (*source[:-2], source[-1], source[-2])


@rule(aten.movedim)
def movedim(trace: Trace, node: fx.Node) -> Type:
    """Dimensions move to given places, the others keep their order."""
    x, origin, to = trace.arguments(node, 3)
    source = trace[x]
    rank = len(source)
    moved = {
        b % rank: a % rank
        for a, b in zip([origin] if isinstance(origin, int) else origin, [to] if isinstance(to, int) else to, strict=True)
    }
    rest = iter(d for d in range(rank) if d not in moved.values())
    return tuple(source[moved[d] if d in moved else next(rest)] for d in range(rank))


@rule(aten.expand)
def expand(trace: Trace, node: fx.Node) -> Type:
    """A dimension of size 1 is repeated: as often as what it meets has channels."""
    x = trace.arguments(node, 1)[0]
    source, sizes, new = trace[x], shape(x), shape(node)
    lead = len(new) - len(sizes)
    out = tuple(trace.fresh(n, node, "expanded", last=True) if n > 1 and d else None for d, n in enumerate(new[:lead])) + tuple(
        dim if size == new[lead + d] else trace.fresh(new[lead + d], node, "expanded", last=True) if lead + d else None
        for d, (dim, size) in enumerate(zip(source, sizes, strict=True))
    )
    for d, dim in enumerate(out):
        trace.constant(node, 1, d, dim)
    return out


@rule(aten.repeat, aten.tile)
def repeat(trace: Trace, node: fx.Node) -> Type:
    """Copies side by side."""
    x = trace.arguments(node, 1)[0]
    source, sizes, new = trace[x], shape(x), shape(node)
    lead = len(new) - len(sizes)
    return (None,) * lead + tuple(
        merge(None, dim, new[lead + d] // size, size) if dim is not None and size else None
        for d, (dim, size) in enumerate(zip(source, sizes, strict=True))
    )


@rule(aten.repeat_interleave)
def repeat_interleave(trace: Trace, node: fx.Node) -> Type:
    """Each element several times; with numbers that are data, the dimension stays whole."""
    x, times, dim = trace.arguments(node, 3)
    if not isinstance(times, int) or dim is None:
        for tensor in trace.tensor_arguments(node):
            trace.freeze(trace[tensor], node, "repeated by numbers that are data")
        return (None,) * len(shape(node))
    source = list(trace[x])
    source[dim] = merge(source[dim], None, shape(x)[dim], times)
    return tuple(source)


@rule(aten.roll, aten.flip, aten.rot90)
def turn_round(trace: Trace, node: fx.Node) -> Type:
    """The order along a dimension changes: it stays whole."""
    x = trace.arguments(node, 1)[0]
    source = list(trace[x])
    dims = trace.arguments(node, 3)[-1 if getattr(node.target, "overloadpacket", None) is not aten.flip else 1]
    for d in range(len(source)) if not dims else [dims] if isinstance(dims, int) else dims:
        trace.freeze([source[d]], node, "another order along it")
        source[d] = None
    return tuple(source)


@rule(aten.pixel_shuffle, aten.pixel_unshuffle)
def pixel_shuffle(trace: Trace, node: fx.Node) -> Type:
    """Channels become space, (N, C r r, H, W) <-> (N, C, H r, W r)."""
    x, factor = trace.arguments(node, 2)
    *lead, channels, height, width = trace[x]
    square = factor * factor
    trace.freeze([height, width], node, "space and channels are mixed")
    if getattr(node.target, "overloadpacket", None) is aten.pixel_unshuffle:
        return (*lead, merge(channels, None, shape(x)[-3], square), None, None)
    kept, inner = trace.split(channels, shape(x)[-3] // square, square, node, ("channels", "shuffle"))
    trace.freeze([inner], node, "space and channels are mixed")
    return (*lead, kept, None, None)


@rule(aten.im2col)
def unfold_image(trace: Trace, node: fx.Node) -> Type:
    """Patches, (N, C, H, W) -> (N, C k k, L)."""
    x, kernel = trace.arguments(node, 2)
    source = trace[x]
    trace.freeze(source[2:], node, "windows along it")
    return (source[0], merge(source[1], None, shape(x)[1], math.prod(kernel)), None)


@rule(aten.col2im)
def fold_image(trace: Trace, node: fx.Node) -> Type:
    """Patches added up again, (N, C k k, L) -> (N, C, H, W)."""
    x, _, kernel = trace.arguments(node, 3)
    source, area = trace[x], math.prod(kernel)
    channels, inner = trace.split(source[1], shape(x)[1] // area, area, node, ("channels", "patch"))
    trace.freeze([inner, source[2]], node, "windows along it")
    return (source[0], channels, None, None)


@rule(aten.unfold)
def unfold(trace: Trace, node: fx.Node) -> Type:
    """Windows over one dimension, which stays whole; a new dimension comes last."""
    x, dim = trace.arguments(node, 2)
    source = list(trace[x])
    trace.freeze([source[dim]], node, "windows along it")
    source[dim] = None
    return (*source, None)


@rule(aten._assert_tensor_metadata)
def nothing(trace: Trace, node: fx.Node) -> Type:
    """A check of the exporter's; it computes nothing."""
    return ()
