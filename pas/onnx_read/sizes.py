"""Arithmetic on shapes: what a file computes from the sizes of its input, on arrays of integers and `Size`s."""

from __future__ import annotations

import math
import operator as op
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from pas.onnx_read.builder import Builder
from pas.onnx_read.size import Size
from pas.onnx_read.table import Node

Array = np.ndarray
RULES: dict[str, Callable[[Node, list[Any]], Any]] = {
    "Identity": lambda node, v: v[0],
    "Shape": lambda node, v: np.array(v[0].shape[node.attribute("start", 0) : node.attribute("end")], dtype=object),
    "Add": lambda node, v: v[0] + v[1],
    "Sub": lambda node, v: v[0] - v[1],
    "Mul": lambda node, v: v[0] * v[1],
    "Div": lambda node, v: v[0] // v[1],
    "Mod": lambda node, v: v[0] % v[1],
    "Equal": lambda node, v: v[0] == v[1],
    "Greater": lambda node, v: v[0] > v[1],
    "Less": lambda node, v: v[0] < v[1],
    "GreaterOrEqual": lambda node, v: v[0] >= v[1],
    "LessOrEqual": lambda node, v: v[0] <= v[1],
    "Where": lambda node, v: np.where(v[0].astype(bool), v[1], v[2]),
    "Max": lambda node, v: reduce(np.maximum, v),
    "Min": lambda node, v: reduce(np.minimum, v),
    "Concat": lambda node, v: np.concatenate(v, axis=node.attribute("axis")),
    "Gather": lambda node, v: np.take(v[0], v[1].astype(np.int64), axis=node.attribute("axis", 0)),
    "Unsqueeze": lambda node, v: np.expand_dims(v[0], tuple(node.fixed("axes", 1))),
    "Squeeze": lambda node, v: np.squeeze(v[0], tuple(node.fixed("axes", 1)) if len(v) > 1 or node.attribute("axes") else None),
    "Reshape": lambda node, v: v[0].reshape([int(n) for n in v[1]]) if node.attribute("allowzero", 0) in (0, 1) else None,
    "Expand": lambda node, v: np.broadcast_to(v[0], np.broadcast_shapes(v[0].shape, tuple(int(n) for n in v[1]))),
    "Slice": lambda node, v: _slice(*v),
    "ReduceProd": lambda node, v: _reduce(node, v[0], op.mul),
    "ReduceSum": lambda node, v: _reduce(node, v[0], op.add),
}

MOVES = ("Reshape", "Expand", "Slice", "Gather")  # of a tensor, to where sizes say


def shape(node: Node) -> Any:
    """Shape and Size of a computed tensor."""
    found = node.shape()
    if node.op == "Size":
        return settle(np.array(reduce(op.mul, found, 1), dtype=object))
    return settle(_objects(found[node.attribute("start", 0) : node.attribute("end")]))


def arithmetic(node: Node) -> Any:
    """A node that has an array with `Size`s among its inputs; None where that isn't one of these operators."""
    if node.op == "Cast":
        return _cast(node)
    foreign = any(isinstance(value, fx.Node) or (isinstance(value, Tensor) and value.is_floating_point()) for value in node.values)
    if node.op not in RULES or foreign or (node.op in MOVES and not isinstance(node.values[0], np.ndarray)):
        return None
    arrays = [_objects_of(value) if isinstance(value, Tensor) else value for value in node.values if value is not None]
    return settle(np.asarray(RULES[node.op](node, arrays), dtype=object))


def settle(found: Array) -> Array | Tensor:
    """An array of integers alone is an ordinary constant."""
    items = found.reshape(-1).tolist()
    if any(isinstance(item, Size) for item in items):
        return found
    dtype = torch.bool if items and all(isinstance(item, (bool, np.bool_)) for item in items) else torch.int64
    return torch.tensor(items, dtype=dtype).reshape(found.shape)


def as_value(builder: Builder, found: Any) -> Any:
    """A result as a value: a number that a call gave is an array."""
    return settle(np.array(found, dtype=object)) if isinstance(found, (Size, int)) else found


def _cast(node: Node) -> Any:
    """Integers of another length stay what they are."""
    if node.attribute("to") in (6, 7):  # int32, int64
        return node.values[0]
    raise node.error("it computes with the size of the input; write the file again with fixed sizes")


def _objects(items: list[Any]) -> Array:
    found = np.empty(len(items), dtype=object)
    found[:] = items
    return found


def _objects_of(tensor: Tensor) -> Array:
    return _objects(tensor.reshape(-1).tolist()).reshape(tuple(tensor.shape))


def _slice(x: Array, starts: Array, ends: Array, axes: Array | None = None, steps: Array | None = None) -> Array:
    where = [slice(None)] * x.ndim
    for i in range(len(starts)):
        axis, step = 0 if axes is None else int(axes[i]), 1 if steps is None else int(steps[i])
        where[axis] = slice(int(starts[i]), int(ends[i]), step)
    return x[tuple(where)]


def _reduce(node: Node, x: Array, function: Callable[[Any, Any], Any]) -> Array:
    node.fixed("axes", 1)
    total = reduce(function, x.reshape(-1).tolist(), math.prod(()) if function is op.mul else 0)
    return np.array([total] if node.attribute("keepdims", 1) else total, dtype=object)
