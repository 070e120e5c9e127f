"""Linear operators: the only places where an axis begins or ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from pas.axes.capture import count, owner, place, shape
from pas.axes.counting import counted
from pas.axes.ids import Dim, merge
from pas.axes.rules.table import rule
from pas.axes.trace import Trace, Type
from pas.axes.zeros import contract

aten = torch.ops.aten


@rule(aten.conv1d, aten.conv2d, aten.conv3d)
def convolution(trace: Trace, node: fx.Node) -> Type:
    """``y[:, o] = sum_i w[o, i] * x[:, i]``: dimension 0 of the weight is a new axis, dimension 1 the axis that is
    read.

    Groups: the input splits into groups x width; the group index passes from input to output, so a depth-wise
    convolution (width 1) ties its output to its input. The batch may be typed too (heads merged into it).
    """
    x, w, bias, *rest = trace.arguments(node, 7)
    groups = count(rest[3]) if rest[3] is not None else 1  # as many as examples, where each has weights of its own
    out, per_group = shape(w)[:2]
    source = trace[x]
    if len(shape(x)) == len(shape(w)) - 1:  # a single image without a batch
        trace.freeze(source, node, "one image without a batch")
        source = (None, *source)
    if groups == 1:
        reads, outer = source[1], trace.fresh(out, node)
    else:
        group, reads = trace.split(source[1], groups, per_group, node, ("groups", "inputs"))
        width = trace.fresh(out // groups, node) if out > groups else None
        outer = merge(group, width, groups, out // groups)
        trace.groups[trace.tensor_name(w)] = group
        if trace.tensor_name(w) != f"{owner(node)}.weight" or trace.tensor_name(w) not in trace.program.parameters:
            trace.constant(node, 6, None, group)  # no convolution module holds this number: the code does
    space = tuple(dim if one else None for dim, one in zip(source[2:], _untouched(shape(w)[2:], *rest[:2]), strict=True))
    trace.freeze([dim for dim, stays in zip(source[2:], space, strict=True) if stays is None], node, "a convolution along it")
    trace.constrain(w, (outer, reads) + (None,) * len(space), node)
    if bias is not None:
        trace.constrain(bias, (outer,), node)
    contract(trace, reads, [(w, 1), (x, 1)], node)
    batch = shape(node)[0] if len(shape(node)) == len(shape(w)) else 1
    kernel = math.prod(shape(w)[2:])
    trace.macs(node, kernel, (outer, reads, source[0], *space), (out, per_group, batch, *shape(node)[-len(space) :]))
    return (source[0], outer, *space)[-len(shape(node)) :]


def _untouched(kernel: Sequence[int], stride: Any, padding: Any) -> list[bool]:
    """The dimensions of space that a convolution does nothing along: one element at a time, each once."""
    rank = len(kernel)
    strides, paddings = (list(v) * (rank // len(v)) if isinstance(v, (list, tuple)) else [default] * rank
                         for v, default in ((stride, 1), (padding, 0)))  # fmt: skip
    return [size == 1 and step == 1 and pad == 0 for size, step, pad in zip(kernel, strides, paddings, strict=True)]


@rule(aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d)
def transposed_convolution(trace: Trace, node: fx.Node) -> Type:
    """``y[:, o] = sum_i w[i, o] * x[:, i]``: the weight has its input first."""
    x, w, bias, _, _, _, groups, *_ = trace.arguments(node, 8)
    groups = 1 if groups is None else groups
    source, (_, per_group) = trace[x], shape(w)[:2]
    if groups == 1:
        outer = trace.fresh(per_group, node)
        made: Dim = outer
    else:  # groups of outputs side by side, as many as there are of inputs
        group, _ = trace.split(source[1], groups, shape(x)[1] // groups, node, ("groups", "inputs"))
        made = trace.fresh(per_group, node) if per_group > 1 else None
        outer = merge(group, made, groups, per_group)
        trace.groups[trace.tensor_name(w)] = group
        if trace.tensor_name(w) != f"{owner(node)}.weight" or trace.tensor_name(w) not in trace.program.parameters:
            trace.constant(node, 6, None, group)
    trace.freeze(source[2:], node, "a convolution along it")
    trace.constrain(w, (source[1], made) + (None,) * (len(shape(w)) - 2), node)
    if bias is not None:
        trace.constrain(bias, (outer,), node)
    contract(trace, source[1], [(w, 0), (x, 1)], node)
    kernel, space = math.prod(shape(w)[2:]), math.prod(shape(x)[2:])
    trace.macs(node, kernel * space, (made, source[1], source[0]), (per_group, shape(x)[1], shape(x)[0]))
    return (source[0], outer) + (None,) * (len(shape(node)) - 2)


@rule(aten.linear)
def linear(trace: Trace, node: fx.Node) -> Type:
    """``y[..., o] = sum_i w[o, i] x[..., i]``."""
    x, w, bias = trace.arguments(node, 3)
    source = trace[x]
    if len(shape(w)) == 1:  # a single result, without a dimension of its own
        trace.freeze([source[-1], *trace[w]], node, "a product with a vector")
        return source[:-1]
    out, inner = shape(w)
    outer = trace.fresh(out, node)
    trace.constrain(w, (outer, source[-1]), node)
    if bias is not None:
        trace.constrain(bias, (outer,), node)
    contract(trace, source[-1], [(w, 1), (x, len(source) - 1)], node)
    trace.macs(node, 1, (outer, source[-1], *source[:-1]), (out, inner, *shape(x)[:-1]))
    return (*source[:-1], outer)


@rule(aten.addmm)
def addmm(trace: Trace, node: fx.Node) -> Type:
    """``bias + a @ b``."""
    bias, a, b = trace.arguments(node, 3)
    out = _matmul(trace, node, a, b)
    if len(shape(bias)) == 1:
        trace.constrain(bias, out[-1:], node)
    else:
        trace.broadcast([bias], node)
        for have, want in zip(trace[bias], out, strict=True):
            trace.ids.tie(have, want, place(node))
    return out


@rule(aten.matmul, aten.bmm, aten.mm)
def matmul(trace: Trace, node: fx.Node) -> Type:
    """``y[..., n, m] = sum_k a[..., n, k] b[..., k, m]``; leading dimensions broadcast."""
    a, b = trace.arguments(node, 2)
    return _matmul(trace, node, a, b)


def _matmul(trace: Trace, node: fx.Node, a: fx.Node, b: fx.Node) -> Type:
    rank_a, rank_b = len(shape(a)), len(shape(b))
    inner = max(rank_b - 2, 0)
    left, right = trace[a], trace[b]
    trace.ids.tie(left[-1], right[inner], place(node))
    shared = left[-1] if left[-1] is not None else right[inner]
    contract(trace, shared, [(b, inner), (a, rank_a - 1)], node)
    lead = trace.broadcast_dims([(left[:-2], shape(a)[:-2]), (right[:-2], shape(b)[:-2])], node)
    rows = (left[-2],) if rank_a > 1 else ()
    columns = (right[-1],) if rank_b > 1 else ()
    if lead:
        for dim, name in ((lead[-1], "heads"), (shared, "size"), *((row, "size") for row in rows), *((one, "values") for one in columns)):
            trace.role(dim, node, name)
    sizes = shape(node)
    if min(rank_a, rank_b) > 1 or (rank_a, rank_b) == (1, 2):  # torch's counter counts no other products with a vector
        height = sizes[-2:-1] if rows else ()
        trace.macs(node, 1, (*columns, shared, *rows, *lead), (sizes[-1], shape(a)[-1], *height, *sizes[: len(lead)]))
    return (*lead, *rows, *columns)


@rule(aten.einsum)
def einsum(trace: Trace, node: fx.Node) -> Type:
    """Letters name dimensions: the same letter is the same axis, a letter that is missing in the result is summed over."""
    equation, tensors = trace.arguments(node, 2)
    left, _, result = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    sizes: dict[str, int] = {}
    dims: dict[str, Dim] = {}
    held: dict[str, list[tuple[fx.Node, int]]] = {}
    plain = "..." not in equation and "->" in equation and len(terms) == 2 and all(len(set(term)) == len(term) for term in terms)
    full = {letter: max(shape(t)[term.index(letter)] for term, t in zip(terms, tensors, strict=True) if letter in term)
            for letter in (set("".join(terms)) if plain else ())}  # fmt: skip
    macs = counted(node)
    if not plain or macs != math.prod(full.values()):  # what torch does with them isn't one matrix product
        for tensor in tensors:
            trace.freeze(trace[tensor], node, "more than one matrix product")
        if macs:
            trace.macs(node, macs, (), ())
        return (None,) * len(shape(node))
    for term, tensor in zip(terms, tensors, strict=True):
        for d, letter in enumerate(term):
            size, dim = shape(tensor)[d], trace[tensor][d]
            if letter in sizes and size > 1 and sizes[letter] > 1:
                trace.ids.tie(dims[letter], dim, place(node))
                dims[letter] = dim if dims[letter] is None else dims[letter]
            elif sizes.get(letter, 1) == 1:
                dims[letter] = dim
            sizes[letter] = max(size, sizes.get(letter, 1))
            if size == full[letter]:
                held.setdefault(letter, []).append((tensor, d))
    for letter in sizes:
        if letter not in result:
            contract(trace, dims[letter], sorted(held[letter], key=lambda one: one[0] in trace.batched), node)
    trace.macs(node, 1, tuple(dims.values()), tuple(sizes.values()))
    return tuple(dims[letter] for letter in result)


@rule(aten.scaled_dot_product_attention)
def attention(trace: Trace, node: fx.Node) -> Type:
    """``softmax(scale q k' + mask) v`` over (..., heads, tokens, size). Its default scale depends on the size of a head, so the graph
    of a slice writes the scale down.
    """
    q, k, v, mask = trace.arguments(node, 4)
    rank = len(shape(node))
    (*lead, rows, size), (_, columns, _) = trace[q], trace[k][-3:] if rank > 2 else (None, *trace[k])
    for d in range(rank):
        if d != rank - 2 and shape(k)[d] == shape(q)[d]:
            trace.ids.tie(trace[q][d], trace[k][d], place(node))
        elif d != rank - 2 and shape(k)[d] > 1:  # fewer heads for keys and values than for queries, and not one for all
            trace.freeze([trace[q][d], trace[k][d]], node, "several heads share a key")
        if d != rank - 1 and shape(v)[d] == shape(k)[d]:
            trace.ids.tie(trace[k][d], trace[v][d], place(node))
        elif d != rank - 1 and shape(v)[d] == shape(q)[d] > 1:  # a value for each head, one key for all
            trace.ids.tie(trace[q][d], trace[v][d], place(node))
        elif d != rank - 1 and shape(v)[d] > 1:
            trace.freeze([trace[v][d]], node, "several heads share a value")
    for dim, name in ((lead[-1] if lead else None, "heads"), (size, "size"), (trace[v][-1], "values")):
        trace.role(dim, node, name)
    contract(trace, size, [(k, rank - 1), (q, rank - 1)], node)
    trace.freeze([columns], node, "what is attended to")
    if isinstance(mask, fx.Node):
        have = [((*lead, rows, columns), (*shape(q)[:-1], shape(k)[-2])), (trace[mask], shape(mask))]
        trace.broadcast_dims(have, node)
    lead_sizes = shape(q)[:-1]
    trace.macs(node, shape(k)[-2], (size, *lead, rows), (shape(q)[-1], *lead_sizes))
    trace.macs(node, shape(k)[-2], (trace[v][-1], *lead, rows), (shape(v)[-1], *lead_sizes))
    return (*lead, rows, trace[v][-1])
