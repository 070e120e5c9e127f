"""One rule per ATen operator: how the types of its inputs become the types of its outputs.

A rule is a function ``(trace, node) -> type`` registered for its operators, where a type is one entry a dimension
(see `pas.axes.ids`). An operator without a rule freezes everything that it reads: nothing is guessed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from pas.axes.capture import owner, shape
from pas.axes.ids import Dim, merge
from pas.axes.trace import Trace, Type

aten = torch.ops.aten
Rule = Callable[[Trace, fx.Node], Type]
RULES: dict[Any, Rule] = {}


def rule(*operators: Any) -> Callable[[Rule], Rule]:
    """Register a rule for operator packets (all overloads alike)."""

    def register(function: Rule) -> Rule:
        for operator in operators:
            RULES[operator] = function
        return function

    return register


def find_rule(node: fx.Node) -> Rule | None:
    """The rule of a call, if there is one: by operator, or by torch's own `pointwise` tag."""
    target = node.target
    packet = getattr(target, "overloadpacket", target)
    if packet in RULES:
        return RULES[packet]
    return pointwise if torch.Tag.pointwise in getattr(target, "tags", ()) else None


# ---- linear operators: the only places where an axis begins or ends ---------------------------------------------------


@rule(aten.conv1d, aten.conv2d, aten.conv3d)
def convolution(trace: Trace, node: fx.Node) -> Type:
    """``y[:, o] = sum_i w[o, i] * x[:, i]``: dimension 0 of the weight is a new axis, dimension 1 the axis that is
    read.

    Groups: the input splits into groups x width; the group index passes from input to output, so a depth-wise
    convolution (width 1) ties its output to its input.
    """
    x, w, bias, *rest = trace.arguments(node, 7)
    groups = rest[3] if len(rest) > 3 and rest[3] is not None else 1
    out, per_group = shape(w)[:2]
    source = trace[x]
    if groups == 1:
        reads, outer = source[1], trace.fresh(out, node)
    else:
        group, reads = trace.split(source[1], groups, per_group, node, ("groups", "inputs"))
        width = trace.fresh(out // groups, node) if out > groups else None
        outer = merge(group, width, groups, out // groups)
        trace.groups[trace.tensor_name(w)] = group
        if trace.tensor_name(w) != f"{owner(node)}.weight" or trace.tensor_name(w) not in trace.program.parameters:
            trace.constant(node, 6, None, group)  # no convolution module holds this number: the code does
    trace.freeze(source[2:], node)
    trace.constrain(w, (outer, reads) + (None,) * (len(shape(w)) - 2), node)
    if bias is not None:
        trace.constrain(bias, (outer,), node)
    trace.reads(w, 1, reads, node)
    trace.macs(math.prod(shape(w)[2:]) * math.prod(shape(node)[2:]) * shape(node)[0], (outer, reads), (out, per_group))
    return (source[0], outer) + (None,) * (len(shape(node)) - 2)


@rule(aten.linear)
def linear(trace: Trace, node: fx.Node) -> Type:
    """``y[..., o] = sum_i w[o, i] x[..., i]``."""
    x, w, bias = trace.arguments(node, 3)
    source = trace[x]
    out, inner = shape(w)
    outer = trace.fresh(out, node)
    trace.constrain(w, (outer, source[-1]), node)
    if bias is not None:
        trace.constrain(bias, (outer,), node)
    trace.reads(w, 1, source[-1], node)
    trace.macs(math.prod(shape(node)[:-1]), (outer, source[-1]), (out, inner))
    return (*source[:-1], outer)


# ---- operators that keep every channel in its place ------------------------------------------------------------------


def pointwise(trace: Trace, node: fx.Node) -> Type:
    """Element by element with broadcasting: dimensions that meet are one; a dimension of size 1 meets nothing."""
    return trace.broadcast(trace.tensor_arguments(node), node)


for _operator in (aten.dropout, aten.hardtanh_, aten.hardswish, aten.hardswish_, aten.hardsigmoid_, aten.clone, aten.contiguous,
                  aten.detach, aten.detach_, aten.dropout_, aten.feature_dropout, aten.relu6, aten.relu6_, aten.to, aten.alias,
                  aten.silu_, aten.mish_, aten.leaky_relu_, aten.elu_):  # fmt: skip
    RULES[_operator] = pointwise


@rule(aten.batch_norm)
def batch_norm(trace: Trace, node: fx.Node) -> Type:
    """Every per-channel vector of the norm lives on the channel axis of the input."""
    x, *vectors = trace.arguments(node, 5)
    for vector in vectors:
        if vector is not None:
            trace.constrain(vector, (trace[x][1],), node)
    return trace[x]


@rule(aten.prelu)
def prelu(trace: Trace, node: fx.Node) -> Type:
    """One slope a channel, or one in all."""
    x, slope = trace.arguments(node, 2)
    if shape(slope)[0] > 1:
        trace.constrain(slope, (trace[x][1],), node)
    return trace[x]


@rule(aten.max_pool2d, aten.avg_pool2d, aten.adaptive_avg_pool2d, aten.adaptive_max_pool2d, aten.max_pool1d, aten.avg_pool1d,
      aten.adaptive_avg_pool1d, aten.upsample_nearest2d, aten.upsample_bilinear2d)  # fmt: skip
def pool(trace: Trace, node: fx.Node) -> Type:
    """Batch and channels pass, space does not."""
    source = trace[trace.arguments(node, 1)[0]]
    trace.freeze(source[2:], node)
    return source[:2] + (None,) * (len(source) - 2)


# ---- operators that move or remove dimensions ------------------------------------------------------------------------


@rule(aten.mean, aten.sum)
def reduce(trace: Trace, node: fx.Node) -> Type:
    """The reduced dimensions go; one that could have been sliced is kept whole, because its size enters the result."""
    x, dims, keep, *_ = trace.arguments(node, 4)
    source = trace[x]
    listed = range(len(source)) if dims is None else ([dims] if isinstance(dims, int) else dims)
    gone = {d % len(source) for d in listed}
    trace.freeze([source[d] for d in gone], node)
    if keep:
        return tuple(None if d in gone else dim for d, dim in enumerate(source))
    return tuple(dim for d, dim in enumerate(source) if d not in gone)


@rule(aten.cat)
def concatenate(trace: Trace, node: fx.Node) -> Type:
    """A sum of axes along one dimension; the others are one."""
    parts, dim = trace.arguments(node, 2)
    dim = (dim or 0) % len(shape(node))
    rest = trace.broadcast(parts, node, skip=dim)
    return (
        *rest[:dim],
        trace.stack([trace[part][dim] for part in parts], [shape(part)[dim] for part in parts]),
        *rest[dim + 1 :],
    )


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
            trace.freeze([out[d]], node)
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


@rule(aten.slice)
def narrow(trace: Trace, node: fx.Node) -> Type:
    """A range of a dimension that is never sliced; of one that could be, it would need new bounds, so it stays
    whole.
    """
    x, dim = trace.arguments(node, 2)
    source = trace[x]
    dim = (dim or 0) % len(source)
    if shape(x) == shape(node):
        return source
    trace.freeze([source[dim]], node)
    return tuple(None if d == dim else t for d, t in enumerate(source))


@rule(aten.flatten, aten.view, aten.reshape, aten._unsafe_view, aten.squeeze, aten.unsqueeze, aten.squeeze_)
def reshape(trace: Trace, node: fx.Node) -> Type:
    """Merges give products (flatten before a classifier: channels x height x width), splits give factors."""
    x = trace.arguments(node, 1)[0]
    out = trace.reshape(trace[x], shape(x), shape(node), node)
    if getattr(node.target, "overloadpacket", None) in (aten.view, aten.reshape, aten._unsafe_view):
        for d, dim in enumerate(out):
            trace.constant(node, 1, d, dim)
    return out


@rule(aten.permute)
def permute(trace: Trace, node: fx.Node) -> Type:
    """Dimensions change places."""
    x, order = trace.arguments(node, 2)
    return tuple(trace[x][d] for d in order)


@rule(aten.transpose)
def transpose(trace: Trace, node: fx.Node) -> Type:
    """Two dimensions change places."""
    x, a, b = trace.arguments(node, 3)
    out: list[Dim] = list(trace[x])
    out[a], out[b] = out[b], out[a]
    return tuple(out)


@rule(aten._assert_tensor_metadata)
def nothing(trace: Trace, node: fx.Node) -> Type:
    """A check of the exporter's; it computes nothing."""
    return ()
