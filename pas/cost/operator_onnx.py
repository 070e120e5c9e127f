"""One operator as an ONNX network of its own, at given widths."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from pas.cost.operators import Key
from pas.errors import PasError

ROW = 49
"""Elements of a row, where an operator works along one: as many as of a last map of 7 x 7."""
UNARY: dict[str, tuple[str, ...]] = {
    "relu": ("Relu",), "relu6": ("Clip",), "hardtanh": ("Clip",), "clamp": ("Clip",), "sigmoid": ("Sigmoid",), "tanh": ("Tanh",),
    "hardswish": ("HardSwish",), "hardsigmoid": ("HardSigmoid",), "gelu": ("Gelu",), "elu": ("Elu",), "leaky_relu": ("LeakyRelu",),
    "softplus": ("Softplus",), "exp": ("Exp",), "sqrt": ("Sqrt",), "abs": ("Abs",), "neg": ("Neg",), "silu": ("Sigmoid", "Mul"),
    "mish": ("Softplus", "Tanh", "Mul"), "pow": ("Mul",), "square": ("Mul",), "mean": ("ReduceMean",),
    "adaptive_avg_pool2d": ("ReduceMean",), "sum": ("ReduceSum",), "amax": ("ReduceMax",), "softmax": ("Softmax",),
    "transpose": ("Transpose",), "permute": ("Transpose",), "pixel_shuffle": ("Transpose",), "pixel_unshuffle": ("Transpose",),
    "roll": ("Transpose",), "repeat": ("Transpose",), "stack": ("Transpose",), "upsample_nearest2d": ("Transpose",),
    "upsample_bilinear2d": ("Transpose",), "linalg_vector_norm": ("ReduceL2",), "clamp_min": ("Relu",), "rsqrt": ("Sqrt",),
    "batch_norm": ("BatchNormalization",),
    "group_norm": ("InstanceNormalization",), "instance_norm": ("InstanceNormalization",), "constant_pad_nd": ("Pad",), "pad": ("Pad",),
}  # fmt: skip
"""Operators of one tensor whose time goes by its elements, as ONNX's, one after the other; "Mul" multiplies by the tensor itself.
What only moves elements is timed as a transposition."""
BINARY = {"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "maximum": "Max", "minimum": "Min", "cat": "Concat"}
ATTRIBUTES: dict[str, dict[str, Any]] = {"Softmax": {"axis": -1}, "Transpose": {"perm": [0, 2, 1]}, "Concat": {"axis": 1}}
CONSTANTS = {"Clip": ["low", "high"], "ReduceMean": ["last"], "ReduceSum": ["last"], "ReduceMax": ["last"],
             "ReduceL2": ["last"], "Pad": ["borders"],
             "BatchNormalization": ["one", "zero", "zero", "one"], "InstanceNormalization": ["one", "zero"]}  # fmt: skip
POOLS = {"max_pool2d": "MaxPool", "avg_pool2d": "AveragePool"}
Feeds = dict[str, np.ndarray]


def onnx_model(key: Key, widths: tuple[int, ...], batch: int) -> tuple[bytes, Feeds]:
    """A network of this operator alone, and its inputs. Raises PasError for one that nobody has said how to build."""
    draw = _draw(np.random.default_rng(0))
    low, high, zeros = np.float32(0), np.float32(6), [0, 0, 0, 0, 0, 1]
    tensors: Feeds = {"low": np.asarray(low), "high": np.asarray(high), "last": np.array([2]), "borders": np.array(zeros)}
    node = helper.make_node
    if key.kind == "linear":
        feeds, tensors["weight"] = {"x": draw(batch * key.size[0], widths[0])}, draw(widths[1], widths[0])
        nodes = [node("Gemm", ["x", "weight", "bias"], ["y"], transB=1)]
    elif key.kind in ("conv", "depthwise", "grouped"):
        groups, reads, makes = convolution(key, widths)
        feeds, tensors["weight"] = {"x": draw(batch, groups * reads, *key.size)}, draw(makes, reads, *key.kernel)
        sides: dict[str, Any] = {"strides": key.stride, "pads": [*key.padding, *key.padding], "dilations": key.dilation, "group": groups}
        nodes = [node("Conv", ["x", "weight", "bias"], ["y"], **sides)]
    elif key.kind in POOLS:
        feeds = {"x": draw(batch, widths[0], *key.size)}
        nodes = [node(POOLS[key.kind], ["x"], ["y"], kernel_shape=key.kernel, strides=key.stride, pads=[*key.padding, *key.padding])]
    elif key.kind == "matmul":
        number, m, k, n = widths
        feeds = {"x": draw(batch * number, m, k), "v": draw(batch * number, k, n)}
        nodes = [node("MatMul", ["x", "v"], ["y"])]
    elif key.kind == "scaled_dot_product_attention":
        (heads, size), (queries, keys) = widths, key.size
        feeds = {"x": draw(batch, heads, queries, size), "k": draw(batch, heads, size, keys), "v": draw(batch, heads, keys, size)}
        nodes = [node("MatMul", ["x", "k"], ["a"]), node("Softmax", ["a"], ["s"], axis=-1), node("MatMul", ["s", "v"], ["y"])]
    elif key.kind == "layer_norm":
        feeds, tensors["weight"] = {"x": draw(batch * widths[0], widths[1])}, draw(widths[1])
        nodes = [node("LayerNormalization", ["x", "weight", "bias"], ["y"])]
    else:
        rows = max(1, widths[0] // (2 * ROW if key.kind == "cat" else ROW))  # of what is put together half comes from each
        feeds = {name: draw(batch, rows, ROW) for name in ("xv" if key.kind in BINARY else "x")}
        tensors |= {"one": np.ones(rows, dtype=np.float32), "zero": np.zeros(rows, dtype=np.float32)}
        nodes = _by_elements(key.kind)
    if "weight" in tensors:
        tensors["bias"] = draw(len(tensors["weight"]))
    if key.fused:
        (operator,) = UNARY[key.fused]
        nodes.append(node(operator, ["y", *CONSTANTS.get(operator, [])], ["z"]))
    used = {name for one in nodes for name in one.input}
    graph = helper.make_graph(
        nodes,
        "operator",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in feeds.items()],
        [helper.make_tensor_value_info("z" if key.fused else "y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in tensors.items() if name in used],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return model.SerializeToString(), feeds


def convolution(key: Key, widths: tuple[int, ...]) -> tuple[int, int, int]:
    """Its groups, what each of them reads, and what all make (between points of a grid that may be no multiple: the next one)."""
    groups = 1 if key.kind == "conv" else widths[0]
    reads, makes = {"conv": widths, "depthwise": (1, *widths), "grouped": widths[1:]}[key.kind]
    return groups, reads, -(-makes // groups) * groups


def _by_elements(kind: str) -> list[Any]:
    """The nodes of an operator on (N, rows, ROW)."""
    if kind in BINARY:
        return [helper.make_node(BINARY[kind], ["x", "v"], ["y"], **ATTRIBUTES.get(BINARY[kind], {}))]
    if kind not in UNARY:
        raise PasError(f"no way is known to time {kind!r} alone: say how in pas.cost.operator_onnx")
    nodes, steps = [], UNARY[kind]
    for number, operator in enumerate(steps):
        inputs = [f"x{number}" if number else "x", *(["x"] if operator == "Mul" else CONSTANTS.get(operator, []))]
        output = "y" if number == len(steps) - 1 else f"x{number + 1}"
        nodes.append(helper.make_node(operator, inputs, [output], **ATTRIBUTES.get(operator, {})))
    return nodes


def _draw(random: np.random.Generator) -> Any:
    return lambda *sizes: np.asarray(random.standard_normal(sizes, dtype=np.float32))
