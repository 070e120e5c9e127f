"""Operators that sum, order or normalise along dimensions."""

from __future__ import annotations

import operator as op
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pas.onnx_read.elementwise import cast
from pas.onnx_read.table import Node, operator

REDUCTIONS: dict[str, Callable[..., Tensor]] = {
    "ReduceMean": torch.mean, "ReduceSum": torch.sum, "ReduceMax": torch.amax, "ReduceMin": torch.amin,
    "ReduceLogSumExp": torch.logsumexp,
}  # fmt: skip


@operator("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceLogSumExp", "ReduceProd", "ReduceL1", "ReduceL2",
          "ReduceSumSquare", "ReduceLogSum")  # fmt: skip
def reduction(node: Node) -> Any:
    """Over some dimensions, over all of them without any (or over none, `noop_with_empty_axes=1`)."""
    keep, none = bool(node.attribute("keepdims", 1)), bool(node.attribute("noop_with_empty_axes", 0))
    axes, x = node.fixed("axes", 1, []), node.tensor(0)
    if not axes and none:
        return _outer(node, _inner(node, x))
    dims = [axis % node.rank() for axis in axes] or list(range(node.rank()))
    if node.op == "ReduceProd":
        for dim in sorted(dims, reverse=True):
            x = node.b.call(torch.prod, x, dim, keepdim=keep)
        return cast(node, x, node.dtype())
    function = REDUCTIONS.get(node.op, torch.sum)
    if node.dtype() == torch.bool and node.op in ("ReduceMax", "ReduceMin"):
        function = torch.any if node.op == "ReduceMax" else torch.all
    result = _outer(node, node.b.call(function, _inner(node, x), dims, keepdim=keep)) if dims else x
    return cast(node, result, node.dtype())


def _inner(node: Node, x: Any) -> Any:
    if node.op in ("ReduceL2", "ReduceSumSquare"):
        return node.b.call(torch.mul, x, x)
    return node.b.call(torch.abs, x) if node.op == "ReduceL1" else x


def _outer(node: Node, x: Any) -> Any:
    function = {"ReduceL2": torch.sqrt, "ReduceLogSum": torch.log}.get(node.op)
    return x if function is None else node.b.call(function, x)


@operator("ArgMax", "ArgMin")
def extreme(node: Node) -> Any:
    """Where the largest (smallest) element is."""
    node.only("select_last_index", 0)
    function = torch.argmax if node.op == "ArgMax" else torch.argmin
    return node.b.call(function, node.tensor(0), node.attribute("axis", 0), bool(node.attribute("keepdims", 1)))


@operator("Softmax", "LogSoftmax")
def softmax(node: Node) -> Any:
    """Along one dimension; before version 13, over all from that dimension on."""
    function = torch.softmax if node.op == "Softmax" else torch.log_softmax
    if node.version >= 13:
        return node.b.call(function, node.tensor(0), node.attribute("axis", -1))
    axis, rank = node.attribute("axis", 1) % max(node.rank(), 1), node.rank()
    if axis == rank - 1:
        return node.b.call(function, node.tensor(0), axis)
    flat = node.b.call(function, node.b.call(torch.flatten, node.tensor(0), axis), axis)
    return node.b.call(torch.unflatten, flat, axis, node.shape()[axis:])


@operator("CumSum")
def cumulative(node: Node) -> Any:
    """Sums from the start, or from the end (`reverse=1`), without the element itself where `exclusive=1`."""
    x, (dim,) = node.tensor(0), node.fixed("axis", 1)
    back, without = node.attribute("reverse", 0), node.attribute("exclusive", 0)
    start = node.b.call(torch.flip, x, [dim]) if back else x
    total = node.b.call(torch.cumsum, start, dim, dtype=node.dtype())
    total = node.b.call(torch.sub, total, start) if without else total
    return node.b.call(torch.flip, total, [dim]) if back else total


@operator("TopK")
def top_k(node: Node) -> Any:
    """The k largest (smallest) elements along a dimension, and where they are."""
    node.attribute("sorted", 1)
    (k,), dim, largest = node.ints(1), node.attribute("axis", -1) % node.rank(), bool(node.attribute("largest", 1))
    ordered = node.b.call(torch.sort, node.tensor(0), stable=True, dim=dim, descending=largest)  # of equal ones the first
    return tuple(node.b.call(op.getitem, part, (slice(None),) * dim + (slice(0, k),)) for part in ordered)


@operator("LpNormalization")
def lp_normalize(node: Node) -> Any:
    """x / |x|_p along a dimension."""
    p = node.only("p", 2, 1)
    return node.b.call(F.normalize, node.tensor(0), float(p), node.attribute("axis", -1), 1e-12)


@operator("MeanVarianceNormalization")
def standardise(node: Node) -> Any:
    """(x - mean) / (std + 1e-9)."""
    x, dims = node.tensor(0), node.attribute("axes", [0, 2, 3])
    centred = node.b.call(torch.sub, x, node.b.call(torch.mean, x, dims, keepdim=True))
    power = node.b.call(torch.mean, node.b.call(torch.mul, centred, centred), dims, keepdim=True)
    return node.b.call(torch.div, centred, node.b.call(torch.add, node.b.call(torch.sqrt, power), 1e-9))
