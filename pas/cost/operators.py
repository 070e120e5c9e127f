"""What a device runs: the fused operators of a network, with the channels that each reads and makes."""

from __future__ import annotations

import math
import operator as python
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx

from pas.axes.batched import batched
from pas.axes.capture import BATCH, arguments, owner, packet, shape
from pas.axes.ids import Dim
from pas.axes.infer import typed_nodes
from pas.axes.signature import Signature, rows
from pas.axes.trace import Type

aten = torch.ops.aten
FUSED = {
    aten.relu: "relu", aten.relu_: "relu", aten.relu6: "relu6", aten.relu6_: "relu6", aten.sigmoid: "sigmoid", aten.sigmoid_: "sigmoid",
    aten.tanh: "tanh", aten.tanh_: "tanh", aten.hardswish: "hardswish", aten.hardswish_: "hardswish", aten.hardsigmoid: "hardsigmoid",
    aten.hardsigmoid_: "hardsigmoid", aten.leaky_relu: "leaky_relu", aten.leaky_relu_: "leaky_relu",
}  # fmt: skip
"""Activations that runtimes compute with the convolution before them (a `hardtanh` from 0 to 6 is relu6)."""
_CONVOLUTIONS = (aten.conv1d, aten.conv2d, aten.conv3d)
_PRODUCTS = (aten.matmul, aten.bmm, aten.mm)
_POOLS = {aten.max_pool2d: "max_pool2d", aten.max_pool2d_with_indices: "max_pool2d", aten.avg_pool2d: "avg_pool2d"}
_NOTHING = (aten.dropout, aten.dropout_, aten.feature_dropout, aten.clone, aten.contiguous, aten.detach, aten.alias, aten.to, aten._to_copy)
"""Operators that do nothing in eval mode."""
_FREE = (
    *_NOTHING, aten.view, aten.reshape, aten._unsafe_view, aten.flatten, aten.squeeze, aten.unsqueeze, aten.expand, aten.unflatten,
    aten.expand_as, aten.reshape_as, aten.view_as,
    aten.slice, aten.narrow, aten.select, aten.split, aten.split_with_sizes, aten.chunk, aten.unbind, aten._assert_tensor_metadata,
    python.getitem,
)  # fmt: skip
"""Operators that only look at a tensor in another way."""


@dataclass(frozen=True)
class Key:
    """An operator but for its widths: equal keys cost the same at equal widths.

    `kind`: "conv", "depthwise", "grouped" (a convolution), "linear", or the name of the operator that it is. `size`: the dimensions of
    space (or rows) of its input. `fused`: the activation that is computed with it.
    """

    kind: str
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    size: tuple[int, ...] = ()
    fused: str = ""

    def __str__(self) -> str:
        """All of it in words, such as "conv 3x3 p1x1 /2 at 56x56, relu"."""
        by = lambda values: "x".join(map(str, values))  # noqa: E731
        words = [self.kind, by(self.kernel), f"p{by(self.padding)}" if self.padding else ""]
        if set(self.stride) - {1}:
            words.append(f"/{by(self.stride) if len(set(self.stride)) > 1 else self.stride[0]}")
        words += [f"dilated {by(self.dilation)}" if set(self.dilation) - {1} else "", f"at {by(self.size)}" if self.size else ""]
        return " ".join(filter(None, words)) + (f", {self.fused}" if self.fused else "")


Factor = tuple[Dim, int]
"""A dimension and its dense size; None is never sliced."""


@dataclass(frozen=True)
class Operator:
    """One call in the network: what is run, where, and its widths, each a product of dimensions.

    A convolution reads a width and makes one, as a linear layer does. One of groups has their number, what each reads, and what all make; a
    depth-wise one and a pool have their channels. Products of activations (..., M, K) and (..., K, N) have their number, M, K and N,
    attention its heads and the size of each, a layer norm its lines and their length. The width of any other operator are the elements of
    its largest tensor of one example.
    """

    key: Key
    place: str
    widths: tuple[tuple[Factor, ...], ...]

    def kept(self, mask: np.ndarray) -> tuple[int, ...]:
        """Its widths under a mask over all channels (C,)."""
        return tuple(math.prod(int(rows(dim, mask, size).sum()) for dim, size in width) for width in self.widths)

    def dense(self) -> tuple[int, ...]:
        """Its widths in the whole network."""
        return tuple(math.prod(size for _, size in width) for width in self.widths)


def operators(signature: Signature) -> list[Operator]:
    """The operators of a network in its fused form, in the order in which they run.

    A norm behind a convolution is folded into it, as all runtimes do, and a cheap activation computed with it. What only looks at a tensor
    in another way costs nothing, and what doesn't depend on the inputs is computed once.
    """
    typed, live = typed_nodes(signature), batched(signature.program)
    found: list[Operator] = []
    done: set[fx.Node] = set()
    for node in signature.program.graph.nodes:
        if node.op != "call_function" or node in done or node not in live or packet(node) in _FREE:
            continue
        if packet(node) in _CONVOLUTIONS:
            followers, fused = _followers(node)
            done.update(followers)
            found.append(_convolution(signature, typed, node, fused))
        elif packet(node) in (aten.linear, aten.addmm):
            found.append(_linear(typed, node))
        else:
            found.append(_other(typed, node))
    return found


def _followers(node: fx.Node) -> tuple[list[fx.Node], str]:
    """The norm and the activation that are computed with a convolution, and the name of the activation."""
    found: list[fx.Node] = []
    fused = ""
    while len(node.users) == 1 and not fused:
        node = next(iter(node.users))
        called = packet(node)
        if called in FUSED or (called in (aten.hardtanh, aten.hardtanh_) and tuple(node.args[1:]) == (0, 6)):
            fused = FUSED.get(called, "relu6")
        elif called is not aten.batch_norm and called not in _NOTHING:
            break
        found.append(node)
    return found, fused


def _convolution(signature: Signature, typed: Mapping[fx.Node, Type], node: fx.Node, fused: str) -> Operator:
    x, w, _, stride, padding, dilation, groups = arguments(node, 7)
    kernel = shape(w)[2:]
    each = lambda value, default: tuple(value) * (len(kernel) // len(value)) if value else (default,) * len(kernel)  # noqa: E731
    reads, makes, groups = (typed[x][1], shape(x)[1]), (typed[node][1], shape(node)[1]), groups or 1
    kind, widths = "conv", [(reads,), (makes,)]
    if groups == reads[1] == makes[1]:
        kind, widths = "depthwise", [(makes,)]
    elif groups > 1:
        group = signature.groups.get(signature.program.tensors.get(w, w.name))
        kind, widths = "grouped", [((group, groups),), ((typed[w][1], shape(w)[1]),), (makes,)]
    key = Key(kind, kernel, each(stride, 1), each(padding, 0), each(dilation, 1), shape(x)[2:], fused)
    return Operator(key, _place(node), tuple(widths))


def _linear(typed: Mapping[fx.Node, Type], node: fx.Node) -> Operator:
    x: Any = node.args[1 if packet(node) is aten.addmm else 0]
    lines = math.prod(shape(x)[:-1]) // BATCH
    return Operator(Key("linear", size=(lines,)), _place(node), (((typed[x][-1], shape(x)[-1]),), ((typed[node][-1], shape(node)[-1]),)))


def _other(typed: Mapping[fx.Node, Type], node: fx.Node) -> Operator:
    called, name = packet(node), str(packet(node)).removeprefix("aten.").rstrip("_")
    inputs = [one for one in node.all_input_nodes if one in typed]
    of = lambda one: _factors(typed, one)  # noqa: E731
    if called in _PRODUCTS and len(inputs) > 1 and min(len(shape(one)) for one in inputs[:2]) > 1:
        *lead, m, n = of(node)
        return Operator(Key("matmul"), _place(node), (tuple(lead), (m,), (of(inputs[0])[-1],), (n,)))
    if called is aten.scaled_dot_product_attention:
        query, keys = inputs[:2]
        *heads, _, size = of(query)
        return Operator(Key(name, size=(shape(query)[-2], shape(keys)[-2])), _place(node), (tuple(heads), (size,)))
    if called is aten.layer_norm:
        rows = len(shape(node)) - len(arguments(node, 2)[1])
        return Operator(Key(name), _place(node), (of(node)[:rows], of(node)[rows:]))
    if called in _POOLS:
        _, kernel, stride, padding, *_ = arguments(node, 4)
        pair = lambda value: tuple(value) * (2 // len(value))  # noqa: E731
        key = Key(_POOLS[called], pair(kernel), pair(stride or kernel), pair(padding or (0,)), (1, 1), shape(inputs[0])[2:])
        return Operator(key, _place(node), ((of(inputs[0])[1],),))
    tensors = [*inputs, node] if node in typed else inputs
    return Operator(Key(name), _place(node), (of(max(tensors, key=lambda one: math.prod(shape(one)))),))


def _factors(typed: Mapping[fx.Node, Type], node: fx.Node) -> tuple[Factor, ...]:
    """All dimensions of a tensor, of one example."""
    sizes = list(shape(node))
    if sizes and sizes[0] % BATCH == 0:
        sizes[0] //= BATCH
    dims = typed.get(node, (None,) * len(sizes))
    return tuple((dim if dim is None or len(dim) == size else None, size) for dim, size in zip(dims, sizes, strict=True))


def _place(node: fx.Node) -> str:
    return owner(node) or node.name
