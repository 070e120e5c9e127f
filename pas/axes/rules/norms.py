"""Operators that take statistics, or sums, over dimensions."""

from __future__ import annotations

import operator
from collections.abc import Iterable

import torch
from torch import fx

from pas.axes.capture import shape
from pas.axes.ids import Dim, merge
from pas.axes.rules.table import rule
from pas.axes.trace import Trace, Type
from pas.axes.zeros import contract

aten = torch.ops.aten


@rule(aten.batch_norm)
def batch_norm(trace: Trace, node: fx.Node) -> Type:
    """Every per-channel vector of the norm lives on the channel axis of the input. With statistics of the batch (training, or none kept)
    the other dimensions are normalised over.
    """
    x, weight, bias, mean, variance, training = trace.arguments(node, 6)
    for vector in (weight, bias, mean, variance):
        if vector is not None:
            trace.constrain(vector, (trace[x][1],), node)
    if training or mean is None:
        _over(trace, [dim for d, dim in enumerate(trace[x]) if d != 1])
    return trace[x]


@rule(aten.instance_norm)
def instance_norm(trace: Trace, node: fx.Node) -> Type:
    """A norm of each channel of each example."""
    return batch_norm(trace, node)


@rule(aten.layer_norm, aten.rms_norm)
def layer_norm(trace: Trace, node: fx.Node) -> Type:
    """Statistics over the last dimensions: these may be sliced, which changes the statistics."""
    x, sizes, weight, bias = trace.arguments(node, 4)
    tail = trace[x][-len(sizes) :]
    vectors = (weight, bias) if getattr(node.target, "overloadpacket", None) is aten.layer_norm else (weight,)
    for vector in vectors:
        if vector is not None:
            trace.constrain(vector, tail, node)
    for index, dim in enumerate(tail):
        trace.constant(node, 1, index, dim)
    _over(trace, tail)
    return trace[x]


@rule(aten.group_norm)
def group_norm(trace: Trace, node: fx.Node) -> Type:
    """Statistics over the channels of a group. A whole group may go without changing those of the others."""
    x, groups, weight, bias = trace.arguments(node, 4)
    channels = trace[x][1]
    if groups > 1:
        size = shape(x)[1] // groups
        group, inner = trace.split(channels, groups, size, node, ("groups", "width"))
        trace.constant(node, 1, None, group)
        channels = merge(group, inner, groups, size)
        if weight is not None:
            trace.groups[trace.tensor_name(weight)] = group
    else:
        inner = channels
    for vector in (weight, bias):
        if vector is not None:
            trace.constrain(vector, (channels,), node)
    _over(trace, [inner, *trace[x][2:]])
    return trace[x]


@rule(aten.softmax, aten._softmax, aten.log_softmax, aten.cumsum, aten.logcumsumexp)
def softmax(trace: Trace, node: fx.Node) -> Type:
    """Like a norm over one dimension. (A cumulative sum would need its order, which a slice keeps, but not its terms.)"""
    x, dim = trace.arguments(node, 2)
    packet = getattr(node.target, "overloadpacket", None)
    if packet in (aten.cumsum, aten.logcumsumexp):
        trace.freeze([trace[x][dim]], node, "a sum up to each place")
    else:
        _over(trace, [trace[x][dim]])
    return trace[x]


@rule(aten.linalg_vector_norm, aten.norm, aten.logsumexp)
def vector_norm(trace: Trace, node: fx.Node) -> Type:
    """The length over some dimensions. Channels that are off are zero where their maker is off, else the length changes."""
    x = trace.arguments(node, 1)[0]
    source, gone = _gone(trace[x], trace.named(node, "dim"))
    keep = len(shape(node)) == len(source)
    _over(trace, [source[d] for d in gone])
    return _without(source, gone, bool(keep))


@rule(aten.mean, aten.sum, aten.var, aten.std, aten.amax, aten.amin, aten.prod, aten.any, aten.all)
def reduce(trace: Trace, node: fx.Node) -> Type:
    """The reduced dimensions go. Of one that could be sliced, statistics change and a sum needs zeros; others stay whole."""
    source, gone = _reduced(trace, node)
    packet = getattr(node.target, "overloadpacket", None)
    if packet in (aten.mean, aten.var, aten.std, aten.amax, aten.amin):
        _over(trace, [source[d] for d in gone])
    elif packet is aten.sum:
        _summed(trace, node, source, gone)
    else:
        trace.freeze([source[d] for d in gone], node, "a product or a test over it")
    return _without(source, gone, _keeps(trace, node))


@rule(aten.var_mean, aten.std_mean, aten.aminmax)
def two_statistics(trace: Trace, node: fx.Node) -> Type:
    """Two results of one kind."""
    source, gone = _reduced(trace, node)
    _over(trace, [source[d] for d in gone])
    out = _without(source, gone, _keeps(trace, node))
    trace.many[node] = (out, out)
    return out


@rule(aten.max, aten.min, aten.argmax, aten.argmin, aten.topk, aten.sort, aten.median)
def pick(trace: Trace, node: fx.Node) -> Type:
    """One or some elements of a dimension, which stays whole where it matters which ones; max and min of two tensors are pointwise."""
    tensors = trace.tensor_arguments(node)
    if len(tensors) == 2:
        return trace.broadcast(tensors, node)
    x, packet, dims = trace.arguments(node, 1)[0], getattr(node.target, "overloadpacket", None), trace.named(node, "dim")
    source, gone = _gone(trace[x], -1 if dims is None and packet in (aten.topk, aten.sort) else dims)
    places = [user for user in node.users if user.target is operator.getitem and user.args[1] == 1]
    if packet in (aten.max, aten.min) and not any(user.users for user in places):
        _over(trace, [source[d] for d in gone])
    else:
        trace.freeze([source[d] for d in gone], node, "which channel is largest matters")
    same = len(shape(node)) == len(source)
    out = _without(source, gone, same)
    trace.many[node] = (out, out)
    return out


def _over(trace: Trace, dims: Iterable[Dim]) -> None:
    """These dimensions are normalised over: they may be sliced, but a slice isn't exact."""
    for dim in dims:
        trace.ids.inexact(dim)


def _summed(trace: Trace, node: fx.Node, source: Type, gone: list[int]) -> None:
    """Channels that are added up are off when they are zero."""
    x = trace.arguments(node, 1)[0]
    for d in gone:
        contract(trace, source[d], [(x, d)], node)


def _reduced(trace: Trace, node: fx.Node) -> tuple[Type, list[int]]:
    return _gone(trace[trace.arguments(node, 1)[0]], trace.named(node, "dim"))


def _gone(source: Type, dims: object) -> tuple[Type, list[int]]:
    listed = range(len(source)) if dims is None or dims == [] else ([dims] if isinstance(dims, int) else list(dims))  # type: ignore[call-overload]
    return source, sorted({d % len(source) for d in listed} if source else [])


def _keeps(trace: Trace, node: fx.Node) -> bool:
    return len(shape(node)) == len(trace[trace.arguments(node, 1)[0]])


def _without(source: Type, gone: list[int], keep: bool) -> Type:
    if keep:
        return tuple(None if d in gone else dim for d, dim in enumerate(source))
    return tuple(dim for d, dim in enumerate(source) if d not in gone)

