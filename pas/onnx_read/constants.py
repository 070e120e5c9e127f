"""Operators that make tensors of numbers known beforehand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from pas.onnx_read.table import Node, operator


@operator("Identity")
def identity(node: Node) -> Any:
    """Nothing."""
    return node.values[0]


@operator("Constant")
def constant(node: Node) -> Any:
    """A tensor, or numbers, in the file."""
    for name in ("value", "sparse_value"):
        found = node.attribute(name)
        if found is not None:
            return found
    for name in ("value_float", "value_floats", "value_int", "value_ints"):
        found = node.attribute(name)
        if found is not None:
            return torch.tensor(found, dtype=torch.float32 if "float" in name else torch.int64)
    raise node.error("its value is text; only numbers can be read")


@operator("ConstantOfShape")
def filled(node: Node) -> Any:
    """One number everywhere."""
    value = node.attribute("value", torch.zeros(1))
    return node.b.call(torch.full, tuple(node.ints(0)), value.item(), dtype=value.dtype)


@operator("Range")
def counted(node: Node) -> Any:
    """start, start + delta, ... below limit."""
    if any(isinstance(value, fx.Node) for value in node.values):
        raise node.error("how long it is depends on the values of the input; write the file with fixed sizes")
    values = [node.value(i) for i in range(3)]
    dtype = next((value.dtype for value in values if isinstance(value, Tensor)), torch.int64)
    return node.b.call(torch.arange, *(value.item() if isinstance(value, Tensor) else value for value in values), dtype=dtype)


@operator("Shape", "Size")
def unknown(node: Node) -> Any:
    """Of a constant; of a computed tensor they are read elsewhere."""
    value = node.tensor(0)
    assert not isinstance(value, fx.Node)
    return torch.tensor(value.numel() if node.op == "Size" else list(value.shape)[node.attribute("start", 0) : node.attribute("end")])
