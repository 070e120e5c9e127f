"""Operators that work element by element, and those that sum, order or normalise along dimensions."""

from __future__ import annotations

import math
import operator as op
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import torch
import torch.nn.functional as F
from onnx import TensorProto, helper
from torch import Tensor, fx, nn

from pas.onnx_read.builder import Size
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
REDUCTIONS: dict[str, Callable[..., Tensor]] = {
    "ReduceMean": torch.mean, "ReduceSum": torch.sum, "ReduceMax": torch.amax, "ReduceMin": torch.amin,
    "ReduceLogSumExp": torch.logsumexp,
}  # fmt: skip


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


# ---- along dimensions ------------------------------------------------------------------------------------------------


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
