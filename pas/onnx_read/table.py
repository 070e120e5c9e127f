"""A node of the file as its operator's function sees it, and the table of these functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper
from torch import Tensor, fx, nn

from pas.errors import PasError
from pas.onnx_read.builder import Builder, Value
from pas.onnx_read.file import array, dense, label
from pas.onnx_read.size import Size

Operator = Callable[["Node"], Any]
OPERATORS: dict[str, Operator] = {}


def operator(*names: str) -> Callable[[Operator], Operator]:
    """Register what reads nodes of these operators: `(node) -> value`, or a tuple of values."""

    def register(function: Operator) -> Operator:
        for name in names:
            OPERATORS[name] = function
        return function

    return register


class Node:
    """One node with the values of its inputs. `follower(operator)` is its only reader, if it is such a one."""

    def __init__(
        self,
        proto: onnx.NodeProto,
        values: Sequence[Value | None],
        version: int,
        builder: Builder,
        follower: Callable[[str], tuple[Value, Callable[[], None]] | None] = lambda _: None,
    ) -> None:
        self.proto, self.values, self.version, self.b, self.follower = proto, values, version, builder, follower
        self.op, self.outputs = proto.op_type, list(proto.output)
        self._unread = {attribute.name: attribute for attribute in proto.attribute}
        self._attributes = dict(self._unread)

    def __len__(self) -> int:
        return len(self.values)

    def error(self, why: str) -> PasError:
        """The one line for a person."""
        return PasError(f"{label(self.proto)} can't be read: {why}")

    # -- attributes

    def attribute(self, name: str, default: Any = None) -> Any:
        """The value of an attribute: text, numbers, lists of them, or a constant tensor."""
        self._unread.pop(name, None)
        if name not in self._attributes:
            return default
        value = helper.get_attribute_value(self._attributes[name])
        if isinstance(value, bytes):
            return value.decode(errors="replace")
        if isinstance(value, onnx.TensorProto):
            return torch.from_numpy(array(value).copy())
        if isinstance(value, onnx.SparseTensorProto):
            return torch.from_numpy(dense(value))
        return [item.decode(errors="replace") if isinstance(item, bytes) else item for item in value] if isinstance(value, list) else value

    def only(self, name: str, *allowed: Any) -> Any:
        """An attribute that may have these values only, the first being its default."""
        value = self.attribute(name, allowed[0])
        if value not in allowed:
            raise self.error(f"{name}={value!r}, but only {', '.join(map(repr, allowed))} is known; rewrite the layer without it")
        return value

    def unread(self) -> list[str]:
        """Attributes that nobody asked for: what they mean is not known."""
        return list(self._unread)

    # -- inputs

    def has(self, index: int) -> bool:
        """Whether an optional input is there."""
        return index < len(self.values) and self.values[index] is not None

    def value(self, index: int) -> Any:
        """An input as an argument of a call; integers that follow from the input's size one by one."""
        value = self.values[index] if self.has(index) else None
        if value is None:
            raise self.error(f"its input {index} is missing")
        if isinstance(value, np.ndarray):
            if value.size != 1:
                raise self.error("it computes with the size of the input; write the file again with fixed sizes")
            return value.item()
        return value

    def tensor(self, index: int) -> fx.Node | Tensor:
        """An input that is a tensor."""
        value = self.value(index)
        if isinstance(value, Size):
            return self.b.call(torch.full, (1,) * np.ndim(self.values[index]), value)  # type: ignore[arg-type]
        return value

    def constant(self, index: int) -> Tensor:
        """An input that the file must fix."""
        value = self.value(index)
        if not isinstance(value, Tensor):
            raise self.error(f"its input {self.proto.input[index]!r} is computed, but must be a constant")
        return value

    def ints(self, index: int) -> list[Any]:
        """A vector of integers, some of which may follow from the size of the input."""
        value = self.values[index]
        if isinstance(value, fx.Node) or value is None:
            raise self.error(f"its sizes {self.proto.input[index]!r} depend on the values of the input; write the file with fixed ones")
        return [int(item) if not isinstance(item, Size) else item for item in value.reshape(-1).tolist()]

    def listed(self, name: str, index: int, default: Any = None) -> Any:
        """A list of integers that was an attribute in older versions and is an input in newer ones."""
        if name in self._attributes:
            return self.attribute(name)
        return self.ints(index) if self.has(index) else default

    def fixed(self, name: str, index: int, default: Any = None) -> list[int]:
        """The same, where sizes of the input make no sense."""
        found = self.listed(name, index, default)
        if found is not None and not all(type(item) is int for item in found):
            raise self.error(f"{name} depends on the size of the input; write the file again with fixed sizes")
        return found

    def weight(self, index: int, form: str = "as it is", change: Callable[[Tensor], Tensor] = lambda t: t) -> nn.Parameter | None:
        """A constant input as a weight of a layer, None where it is absent."""
        return self.b.parameter(self.constant(index), form, change) if self.has(index) else None

    # -- shapes

    def shape(self, index: int = 0) -> list[Any]:
        """The sizes of an input, `Size`s among them."""
        value = self.tensor(index)
        return [self.b.size(value, d) for d in range(self.rank(index))]

    def shapes(self, index: int = 0) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The sizes of an input at both sizes of what the file leaves free."""
        value = self.tensor(index)
        probes = value.meta["probes"] if isinstance(value, fx.Node) else (value, value)
        return tuple(probes[0].shape), tuple(probes[1].shape)

    def rank(self, index: int = 0) -> int:
        return len(self.shapes(index)[0])

    def dtype(self, index: int = 0) -> torch.dtype:
        value = self.tensor(index)
        return value.meta["probes"][0].dtype if isinstance(value, fx.Node) else value.dtype

    # -- making layers

    def layer(self, module: nn.Module, tensors: Mapping[str, Tensor | None] | None = None, *inputs: Any, weight: int | None = None) -> Any:
        """Call a module on `inputs` (the first input of the node, without any). `weight`: the input whose name names the layer."""
        inputs = inputs or (self.tensor(0),)
        if all(isinstance(value, Tensor) for value in inputs) and not tensors:
            return module(*inputs)
        return self.b.module(self._name(weight), module, tensors or {}, *inputs)

    def _name(self, weight: int | None) -> str:
        if weight is not None and self.has(weight):
            name = self.b.names.get(id(self.values[weight]), "")
            path, dot, last = name.rpartition(".")
            if dot and last == "weight":
                return path
        return self.proto.name or next(filter(None, self.outputs), "") or self.op
