"""Operators that work element by element."""

from __future__ import annotations

import math
import operator as op
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import torch
from onnx import TensorProto, helper
from torch import Tensor, fx, nn

from pas.onnx_read.size import Size
from pas.onnx_read.table import OPERATORS, Node, operator

UNARY: dict[str, Callable[..., Tensor]] = {
    "Abs": torch.abs, "Neg": torch.neg, "Exp": torch.exp, "Log": torch.log, "Sqrt": torch.sqrt, "Reciprocal": torch.reciprocal,
    "Floor": torch.floor, "Ceil": torch.ceil, "Round": torch.round, "Sign": torch.sign, "Sin": torch.sin, "Cos": torch.cos,
    "Tan": torch.tan, "Asin": torch.asin, "Acos": torch.acos, "Atan": torch.atan, "Sinh": torch.sinh, "Cosh": torch.cosh,
    "Asinh": torch.asinh, "Acosh": torch.acosh, "Atanh": torch.atanh, "Erf": torch.erf, "Not": torch.logical_not,
    "IsNaN": torch.isnan, "BitwiseNot": torch.bitwise_not,
}  # fmt: skip
BINARY: dict[str, Callable[..., Any]] = {
    "Add": op.add, "Sub": op.sub, "Mul": op.mul, "Pow": op.pow, "Equal": op.eq, "Greater": op.gt, "Less": op.lt,
    "GreaterOrEqual": op.ge, "LessOrEqual": op.le, "And": op.and_, "Or": op.or_, "Xor": op.xor,
    "BitwiseAnd": op.and_, "BitwiseOr": op.or_, "BitwiseXor": op.xor,
}  # fmt: skip
ACTIVATIONS: dict[str, Callable[[Node], nn.Module]] = {
    "Relu": lambda node: nn.ReLU(),
    "Sigmoid": lambda node: nn.Sigmoid(),
    "Tanh": lambda node: nn.Tanh(),
    "HardSwish": lambda node: nn.Hardswish(),
    "Softsign": lambda node: nn.Softsign(),
    "Softplus": lambda node: nn.Softplus(threshold=math.inf),
    "Mish": lambda node: nn.Mish(),
    "Gelu": lambda node: nn.GELU(node.only("approximate", "none", "tanh")),
    "LeakyRelu": lambda node: nn.LeakyReLU(node.attribute("alpha", 0.01)),
    "Elu": lambda node: nn.ELU(node.attribute("alpha", 1.0)),
    "Celu": lambda node: nn.CELU(node.attribute("alpha", 1.0)),
    "ThresholdedRelu": lambda node: nn.Threshold(node.attribute("alpha", 1.0), 0.0),
}


def unary(node: Node) -> Any:
    """One tensor in, one out."""
    return node.b.call(UNARY[node.op], node.tensor(0))


def binary(node: Node) -> Any:
    """Two tensors, broadcast as numpy would; a constant of one element becomes a number."""
    return combine(node, BINARY[node.op], node.value(0), node.value(1))


def activation(node: Node) -> Any:
    """A function with a module of its own."""
    return node.layer(ACTIVATIONS[node.op](node))


for _names, _function in ((UNARY, unary), (BINARY, binary), (ACTIVATIONS, activation)):
    OPERATORS.update(dict.fromkeys(_names, _function))


def combine(node: Node, function: Callable[..., Any], first: Any, second: Any) -> Any:
    """`function` of two values, one of which may be a number in the end."""
    return node.b.call(function, _number(first, second), _number(second, first))


def _number(value: Any, other: Any) -> Any:
    """A constant of one element that doesn't add a dimension to the other operand, without its own."""
    if isinstance(value, Tensor) and value.numel() == 1 and isinstance(other, fx.Node):
        return value.reshape(()) if value.dim() <= other.meta["probes"][0].dim() else value
    return value


@operator("Div")
def divide(node: Node) -> Any:
    """Integers are divided towards zero."""
    a, b = node.value(0), node.value(1)
    if isinstance(a, Size) or isinstance(b, Size) or node.dtype().is_floating_point:
        return combine(node, op.truediv, a, b)
    return node.b.call(torch.div, a, _number(b, a), rounding_mode="trunc")


@operator("Pow")
def power(node: Node) -> Any:
    """The result has the type of the base."""
    return cast(node, combine(node, op.pow, node.value(0), node.value(1)), node.dtype())


@operator("Mod")
def modulo(node: Node) -> Any:
    """With the sign of the divisor, or of the dividend (`fmod=1`)."""
    return combine(node, torch.fmod if node.attribute("fmod", 0) else op.mod, node.value(0), node.value(1))


@operator("Max", "Min", "Sum", "Mean")
def many(node: Node) -> Any:
    """Any number of tensors."""
    function = {"Max": partial(_bound, node, "min"), "Min": partial(_bound, node, "max")}.get(node.op, partial(combine, node, op.add))
    result = reduce(function, [node.tensor(i) for i in range(len(node))])
    return node.b.call(op.truediv, result, len(node)) if node.op == "Mean" else result


def _bound(node: Node, side: str, a: Any, b: Any) -> Any:
    """The larger of two where `side` is min, the smaller where it is max; one of them may be a number in the end."""
    a, b = (b, a) if isinstance(a, Tensor) and not isinstance(b, Tensor) else (a, b)
    number = _number(b, a)
    if isinstance(number, Tensor) and number.dim() == 0:
        return node.b.call(torch.clamp, a, **{side: number})
    return node.b.call(torch.maximum if side == "min" else torch.minimum, a, b)


@operator("Where")
def where(node: Node) -> Any:
    """The second input where the first is true, else the third."""
    condition = node.tensor(0)
    if isinstance(condition, Tensor) and condition.dim() == 0:  # a number is no condition
        condition = condition.reshape(1)
    return node.b.call(torch.where, condition, node.value(1), node.value(2))


@operator("Clip")
def clip(node: Node) -> Any:
    """Between two numbers; between 0 and 6 it is ReLU6."""
    low, high = (node.constant(i).item() if node.has(i) else None for i in (1, 2))
    if (low, high) == (0, 6) and node.dtype().is_floating_point:
        return node.layer(nn.ReLU6())
    return node.tensor(0) if low is None and high is None else node.b.call(torch.clamp, node.tensor(0), low, high)


@operator("HardSigmoid")
def hard_sigmoid(node: Node) -> Any:
    """max(0, min(1, alpha x + beta)); torch has a module for a slope of a sixth."""
    alpha, beta = node.attribute("alpha", 0.2), node.attribute("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return node.layer(nn.Hardsigmoid())
    line = node.b.call(torch.add, node.b.call(torch.mul, node.tensor(0), alpha), beta)
    return node.b.call(torch.clamp, line, 0.0, 1.0)


@operator("Selu")
def selu(node: Node) -> Any:
    """gamma (alpha (exp(x) - 1)) below zero, gamma x above."""
    alpha, gamma = node.attribute("alpha", 1.67326319217681884765625), node.attribute("gamma", 1.05070102214813232421875)
    return node.b.call(torch.mul, node.layer(nn.ELU(alpha)), gamma)


@operator("Swish")
def swish(node: Node) -> Any:
    """x sigmoid(alpha x)."""
    alpha = node.attribute("alpha", 1.0)
    if alpha == 1:
        return node.layer(nn.SiLU())
    return node.b.call(torch.mul, node.tensor(0), node.b.call(torch.sigmoid, node.b.call(torch.mul, node.tensor(0), alpha)))


@operator("PRelu")
def prelu(node: Node) -> Any:
    """A slope for all, or one a channel, as a layer; slopes of any other shape in the graph."""
    slope, rank = node.tensor(1), node.rank()
    if isinstance(slope, Tensor) and isinstance(node.tensor(0), fx.Node) and (slope.numel() == 1 or _per_channel(tuple(slope.shape), rank)):
        module = nn.PReLU(slope.numel(), device="meta", dtype=slope.dtype)
        return node.layer(module, {"weight": node.weight(1, "flat", lambda t: t.reshape(-1))}, weight=1)
    x = node.tensor(0)
    return node.b.call(torch.where, node.b.call(torch.ge, x, 0), x, node.b.call(torch.mul, x, slope))


def _per_channel(shape: tuple[int, ...], rank: int) -> bool:
    """Whether a shape broadcasts along dimension 1 of a tensor of so many dimensions."""
    full = (1,) * (rank - len(shape)) + shape
    return rank > 1 and len(full) == rank and all(n == 1 for d, n in enumerate(full) if d != 1)


@operator("Cast")
def convert(node: Node) -> Any:
    """Another type of number."""
    node.only("saturate", 1)
    node.only("round_mode", "up")
    return cast(node, node.tensor(0), _torch_dtype(node, node.attribute("to")))


@operator("CastLike")
def convert_like(node: Node) -> Any:
    """The type of another tensor."""
    node.only("saturate", 1)
    node.only("round_mode", "up")
    return cast(node, node.tensor(0), node.dtype(1))


def cast(node: Node, value: Any, dtype: torch.dtype) -> Any:
    """A value in a type; untouched where it has it."""
    have = value.meta["probes"][0].dtype if isinstance(value, fx.Node) else value.dtype
    return value if have == dtype else node.b.call("to", value, dtype)


def _torch_dtype(node: Node, code: int) -> torch.dtype:
    if code == TensorProto.BFLOAT16:
        return torch.bfloat16
    try:
        return torch.from_numpy(helper.tensor_dtype_to_np_dtype(code).type([0])).dtype
    except (TypeError, KeyError, ValueError) as error:
        raise node.error(f"torch has no type for {TensorProto.DataType.Name(code)}; use float32") from error
