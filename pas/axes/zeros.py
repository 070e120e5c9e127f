"""Where a zero comes from: the parameters and buffers that switch a channel off where no parameter reads it.

Attention multiplies queries by keys, so no weight sums over their channels. A channel of such a product is off when it is zero in
one of the two, and it is zero there when the weights and biases that make it are zero and everything in between keeps zeros.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import fx

from pas.axes.capture import place, shape
from pas.axes.ids import Dim
from pas.axes.reshape import regroup
from pas.axes.trace import Trace

aten = torch.ops.aten
Origin = frozenset[tuple[str, int]] | None
"""Slices of parameters and buffers, (name, dimension), that have to be zero; None: no zeros of parameters are enough."""
Walk = Callable[[Trace, fx.Node, int], Origin]
WALKS: dict[Any, Walk] = {}


def contract(trace: Trace, table: Dim, operands: Sequence[tuple[fx.Node, int]], node: fx.Node) -> None:
    """A node multiplies two tensors along an axis and sums over it. To switch a channel off it is enough that either of them is zero
    there: a parameter by its slice (it reads the axis), else whatever makes the tensor zero. Where nothing does, the axis stays whole.
    """
    if table is None:
        return
    for tensor, dim in operands:
        name = trace.program.tensors.get(tensor)
        if name in trace.program.parameters and trace[tensor][dim] is not None:
            trace.readers.append((name, dim))
            return
    for tensor, dim in operands:
        slots = zeros(trace, tensor, dim)
        if slots is not None:
            trace.makers += sorted(slots)
            return
    trace.ids.freeze(table, f"{place(node)}: no weight alone switches its channels off")


def zeros(trace: Trace, node: Any, dim: int) -> Origin:
    """What has to be zero so that the elements of a node that are off along `dim` are zero."""
    if not isinstance(node, fx.Node):
        return None
    key = (node, dim)
    if key not in trace.origins:
        trace.origins[key] = None  # a loop would prove nothing
        name = trace.program.tensors.get(node)
        walk = WALKS.get(getattr(node.target, "overloadpacket", node.target))
        if node in trace.written:
            pass  # nobody knows what was written
        elif name in trace.program.parameters:
            trace.origins[key] = None if trace[node][dim] is None else frozenset([(name, dim)])
        elif walk is not None and node.op == "call_function":
            trace.origins[key] = walk(trace, node, dim)
    return trace.origins[key]


def _walk(*operators: Any) -> Callable[[Walk], Walk]:
    def register(function: Walk) -> Walk:
        for one in operators:
            WALKS[one] = function
        return function

    return register


def _all(origins: Iterable[Origin]) -> Origin:
    """Every one of them has to be zero."""
    found: frozenset[tuple[str, int]] = frozenset()
    for origin in origins:
        if origin is None:
            return None
        found |= origin
    return found


def _at(trace: Trace, node: fx.Node, value: Any, dim: int) -> Origin:
    """The origin of an operand of a node that broadcasts, at the dimension `dim` of its result."""
    if not isinstance(value, fx.Node):
        return None
    d = dim - (len(shape(node)) - len(shape(value)))
    return zeros(trace, value, d) if d >= 0 and (shape(value)[d] > 1 or shape(node)[dim] == 1) else None


@_walk(aten.relu, aten.relu_, aten.gelu, aten.silu, aten.silu_, aten.tanh, aten.neg, aten.abs, aten.clone, aten.contiguous,
       aten.dropout, aten.dropout_, aten.hardswish, aten.hardswish_, aten.leaky_relu, aten.relu6, aten.elu, aten.celu, aten.mish, aten.to,
       aten._to_copy, aten.alias, aten.detach, aten.square, aten.avg_pool2d,
       aten.max_pool2d, aten.adaptive_avg_pool2d, aten.upsample_nearest2d, aten.upsample_bilinear2d, aten.upsample_bicubic2d,
       aten.type_as, aten.real, aten.imag, aten.feature_alpha_dropout)  # fmt: skip
def _keeps(trace: Trace, node: fx.Node, dim: int) -> Origin:
    """f(0) = 0, element by element or over other dimensions."""
    return _at(trace, node, node.args[0], dim)


@_walk(aten.hardtanh, aten.hardtanh_)
def _clipped(trace: Trace, node: fx.Node, dim: int) -> Origin:
    _, low, high = trace.arguments(node, 3)
    return _keeps(trace, node, dim) if (-1 if low is None else low) <= 0 <= (1 if high is None else high) else None


@_walk(aten.constant_pad_nd, aten.pad)
def _padded(trace: Trace, node: fx.Node, dim: int) -> Origin:
    mode, value = trace.named(node, "mode") or "constant", trace.named(node, "value")
    return _keeps(trace, node, dim) if mode == "constant" and not value else None


@_walk(aten.div, aten.div_)
def _quotient(trace: Trace, node: fx.Node, dim: int) -> Origin:
    """When what is divided is zero and what it is divided by is not."""
    below: Any = node.args[1]
    if isinstance(below, fx.Node):
        d = dim - (len(shape(node)) - len(shape(below)))
        while getattr(below.target, "overloadpacket", None) in (aten.expand, aten.expand_as):
            below = below.args[0]
            d = dim - (len(shape(node)) - len(shape(below)))
        positive = getattr(below.target, "overloadpacket", None) in (aten.clamp_min, aten.exp) or below in trace.program.tensors
        if d >= 0 and shape(below)[d] > 1 and not positive:
            return None
    return _keeps(trace, node, dim)


@_walk(aten.mul, aten.mul_)
def _product(trace: Trace, node: fx.Node, dim: int) -> Origin:
    """Either factor is enough."""
    found = (_at(trace, node, value, dim) for value in node.args[:2])
    return next((origin for origin in found if origin is not None), None)


@_walk(aten.add, aten.add_, aten.sub, aten.sub_)
def _sum(trace: Trace, node: fx.Node, dim: int) -> Origin:
    return _all(_at(trace, node, value, dim) for value in node.args[:2])


@_walk(aten.cat, aten.stack)
def _joined(trace: Trace, node: fx.Node, dim: int) -> Origin:
    parts: Any = node.args[0]
    stacked = getattr(node.target, "overloadpacket", None) is aten.stack
    along = (trace.arguments(node, 2)[1] or 0) % len(shape(node))
    if stacked and dim == along:
        return None
    return _all(_piece(trace, part, dim - 1 if stacked and dim > along else dim) for part in parts)


def _piece(trace: Trace, part: fx.Node, dim: int) -> Origin:
    """What is put beside parameters may be a buffer that stays zero (the bias of keys in BEiT). Elsewhere a buffer may be a statistic,
    which its module has to go on writing to.
    """
    name = trace.program.tensors.get(part)
    if name is None or name in trace.program.parameters or name in trace.program.constants:
        return zeros(trace, part, dim)
    return None if trace[part][dim] is None else frozenset([(name, dim)])


@_walk(aten.linear)
def _linear(trace: Trace, node: fx.Node, dim: int) -> Origin:
    x, weight, bias = trace.arguments(node, 3)
    if dim != len(shape(node)) - 1:
        return zeros(trace, x, dim) if bias is None else None
    return _all([zeros(trace, weight, 0), frozenset() if bias is None else zeros(trace, bias, 0)])


@_walk(aten.conv1d, aten.conv2d, aten.conv3d)
def _convolution(trace: Trace, node: fx.Node, dim: int) -> Origin:
    _, weight, bias = trace.arguments(node, 3)
    if dim != 1:
        return None
    return _all([zeros(trace, weight, 0), frozenset() if bias is None else zeros(trace, bias, 0)])


@_walk(aten.batch_norm, aten.layer_norm, aten.group_norm, aten.rms_norm, aten.instance_norm)
def _norm(trace: Trace, node: fx.Node, dim: int) -> Origin:
    """A norm ends with scale and shift."""
    packet, rank = getattr(node.target, "overloadpacket", None), len(shape(node))
    tail = packet in (aten.layer_norm, aten.rms_norm)
    _, second, third, fourth = trace.arguments(node, 4)
    scale, shift = (third, None if packet is aten.rms_norm else fourth) if tail or packet is aten.group_norm else (second, third)
    d = dim - (rank - len(shape(scale))) if tail and scale is not None else (0 if dim == 1 else -1)
    if scale is None or d < 0:
        return None
    return _all([zeros(trace, scale, d), frozenset() if shift is None else zeros(trace, shift, d)])


@_walk(aten.permute)
def _permute(trace: Trace, node: fx.Node, dim: int) -> Origin:
    x, order = trace.arguments(node, 2)
    return zeros(trace, x, order[dim] % len(order))


@_walk(aten.transpose, aten.transpose_, aten.swapaxes, aten.swapdims)
def _transpose(trace: Trace, node: fx.Node, dim: int) -> Origin:
    x, a, b = trace.arguments(node, 3)
    rank = len(shape(node))
    return zeros(trace, x, {a % rank: b % rank, b % rank: a % rank}.get(dim, dim))


@_walk(aten.t, aten.numpy_T, aten.mT, aten.adjoint)
def _turned(trace: Trace, node: fx.Node, dim: int) -> Origin:
    rank = len(shape(node))
    return zeros(trace, node.args[0], {rank - 1: rank - 2, rank - 2: rank - 1}.get(dim, dim))


@_walk(aten.view, aten.reshape, aten._unsafe_view, aten.flatten, aten.unflatten, aten.squeeze, aten.unsqueeze, aten.squeeze_,
       aten.unsqueeze_, aten.reshape_as, aten.view_as)  # fmt: skip
def _reshape(trace: Trace, node: fx.Node, dim: int) -> Origin:
    """What is zero in a product is zero where any of its factors is off."""
    x: Any = node.args[0]
    for turned in trace.shuffles:
        if turned.node is node:
            return zeros(trace, turned.source, dim)
    for olds, news in regroup(shape(x), shape(node)):
        if dim in news:
            return _all(zeros(trace, x, d) for d in olds if trace[x][d] is not None) if olds else None
    return None


@_walk(aten.expand, aten.expand_as)
def _expand(trace: Trace, node: fx.Node, dim: int) -> Origin:
    return _at(trace, node, node.args[0], dim)


@_walk(aten.slice, aten.narrow, aten.index_select, aten.view_as_complex, aten.fft_fft, aten.fft_ifft, aten.fft_rfft, aten.fft_irfft,
       aten.fft_fft2, aten.fft_ifft2, aten.fft_rfft2, aten.fft_irfft2, aten.fft_fftn, aten.fft_ifftn, aten.fft_rfftn,
       aten.fft_irfftn)  # fmt: skip
def _part(trace: Trace, node: fx.Node, dim: int) -> Origin:
    return zeros(trace, node.args[0], dim)


@_walk(aten.view_as_real)
def _parts(trace: Trace, node: fx.Node, dim: int) -> Origin:
    return zeros(trace, node.args[0], dim) if dim < len(shape(node)) - 1 else None


@_walk(aten.select)
def _select(trace: Trace, node: fx.Node, dim: int) -> Origin:
    x, along, _ = trace.arguments(node, 3)
    return zeros(trace, x, dim + (dim >= along % (len(shape(node)) + 1)))


@_walk(operator.getitem)
def _one_of_many(trace: Trace, node: fx.Node, dim: int) -> Origin:
    source: Any = node.args[0]
    packet = getattr(source.target, "overloadpacket", None)
    if packet in (aten.split, aten.split_with_sizes, aten.chunk, aten.tensor_split):
        return zeros(trace, source.args[0], dim)
    if packet is aten.unbind:
        along = trace.arguments(source, 2)[1] or 0
        return zeros(trace, source.args[0], dim + (dim >= along % (len(shape(node)) + 1)))
    return None


@_walk(aten.matmul, aten.bmm)
def _matmul(trace: Trace, node: fx.Node, dim: int) -> Origin:
    a, b = trace.arguments(node, 2)
    rank = len(shape(node))
    if len(shape(a)) < 2 or len(shape(b)) < 2:
        return None
    sides = [a] if dim == rank - 2 else [b] if dim == rank - 1 else [a, b]
    found = (_at(trace, node, side, dim) if dim < rank - 2 else zeros(trace, side, dim - (rank - len(shape(side)))) for side in sides)
    return next((origin for origin in found if origin is not None), None)


@_walk(aten.scaled_dot_product_attention)
def _attention(trace: Trace, node: fx.Node, dim: int) -> Origin:
    """The values, over their channels and heads."""
    rank = len(shape(node))
    return zeros(trace, node.args[2], dim) if dim != rank - 2 else None


@_walk(aten.mean, aten.sum)
def _reduced(trace: Trace, node: fx.Node, dim: int) -> Origin:
    x, dims, keep = trace.arguments(node, 3)
    rank = len(shape(x))
    if dims is None:
        return None
    gone = {d % rank for d in ([dims] if isinstance(dims, int) else dims)}
    if keep:
        return zeros(trace, x, dim) if dim not in gone else None
    return zeros(trace, x, [d for d in range(rank) if d not in gone][dim])
