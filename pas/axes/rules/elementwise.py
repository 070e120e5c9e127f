"""Operators that keep every channel in its place."""

from __future__ import annotations

import torch
from torch import fx

from pas.axes.capture import shape
from pas.axes.rules.table import RULES, rule
from pas.axes.trace import Trace, Type

aten = torch.ops.aten


def pointwise(trace: Trace, node: fx.Node) -> Type:
    """Element by element with broadcasting: dimensions that meet are one; a dimension of size 1 meets nothing."""
    tensors = trace.tensor_arguments(node)
    if not tensors:
        return (None,) * len(shape(node))
    return trace.broadcast(tensors, node)


for _operator in (
    aten.dropout, aten.dropout_, aten.feature_dropout, aten.feature_dropout_, aten.alpha_dropout, aten.feature_alpha_dropout,
    aten.clone, aten.contiguous,
    aten.detach, aten.detach_, aten.alias, aten.relu6, aten.relu6_, aten.relu_, aten.silu_,
    aten.mish_, aten.elu_, aten.celu, aten.celu_, aten.selu, aten.selu_, aten.leaky_relu_, aten.rrelu, aten.hardtanh,
    aten.hardtanh_, aten.hardswish, aten.hardswish_, aten.hardsigmoid_, aten.threshold_, aten.zeros_like, aten.ones_like,
    aten.full_like, aten.empty_like, aten.rand_like, aten.randn_like, aten.fill_, aten.zero_, aten.lift_fresh_copy,
    aten.lift_fresh, aten.expand_as, aten.clamp_min_, aten.clamp_, aten.bernoulli, aten.bernoulli_, aten.nan_to_num,
    aten.masked_fill, aten.masked_fill_, aten.copy_,
):  # fmt: skip
    RULES[_operator] = pointwise


@rule(aten.to, aten._to_copy, aten.type_as)
def convert(trace: Trace, node: fx.Node) -> Type:
    """Another dtype, perhaps that of another tensor, which gives nothing else."""
    return trace[trace.arguments(node, 1)[0]]


@rule(aten.prelu)
def prelu(trace: Trace, node: fx.Node) -> Type:
    """One slope a channel, or one in all."""
    x, slope = trace.arguments(node, 2)
    if shape(slope) and shape(slope)[0] > 1:
        trace.constrain(slope, (trace[x][1],), node)
    return trace[x]


@rule(aten.glu)
def gated_linear_unit(trace: Trace, node: fx.Node) -> Type:
    """``a * sigmoid(b)`` for the halves a and b of a dimension, which become one axis."""
    x, dim = trace.arguments(node, 2)
    source = list(trace[x])
    dim = (-1 if dim is None else dim) % len(source)
    table = source[dim]
    if table is not None:
        half = len(table) // 2
        trace.ids.tie(table[:half], table[half:], "glu")
        source[dim] = table[:half]
    return tuple(source)


@rule(aten.max_pool1d, aten.max_pool2d, aten.max_pool3d, aten.avg_pool1d, aten.avg_pool2d, aten.avg_pool3d, aten.adaptive_avg_pool1d,
      aten.adaptive_avg_pool2d, aten.adaptive_avg_pool3d, aten.upsample_nearest1d, aten.upsample_nearest2d, aten._upsample_nearest_exact2d,
      aten.upsample_bilinear2d, aten.upsample_bicubic2d, aten._upsample_bilinear2d_aa, aten._upsample_bicubic2d_aa, aten.upsample_linear1d,
      aten.upsample_nearest3d, aten.upsample_trilinear3d, aten.grid_sampler)  # fmt: skip
def pool(trace: Trace, node: fx.Node) -> Type:
    """Batch and channels pass, space does not."""
    source = trace[trace.arguments(node, 1)[0]]
    packet = getattr(node.target, "overloadpacket", None)
    space = len(source) - 2 if packet is aten.grid_sampler else _space(node)
    lead = len(source) - space
    trace.freeze(source[lead:], node, "it is pooled or resized along it")
    for extra in trace.tensor_arguments(node)[1:]:
        trace.freeze(trace[extra], node, "places to read from")
    return source[:lead] + (None,) * space


@rule(aten.adaptive_max_pool1d, aten.adaptive_max_pool2d, aten.adaptive_max_pool3d, aten.max_pool2d_with_indices,
      aten.max_pool1d_with_indices)  # fmt: skip
def pool_with_indices(trace: Trace, node: fx.Node) -> Type:
    """Values and the places that they come from."""
    out = pool(trace, node)
    trace.many[node] = (out, out)
    return out


def _space(node: fx.Node) -> int:
    """How many trailing dimensions an operator works over, from its name."""
    name = str(getattr(node.target, "overloadpacket", node.target))
    return next((n for n in (1, 2, 3) if f"{n}d" in name), 2)
