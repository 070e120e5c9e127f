"""One operator on a device: built at given widths, and timed as it runs inside a network."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from pas import onnx
from pas.cost.operators import Key
from pas.errors import PasError

RUNS, WARMUP = 15, 3
ROW = 49
"""Elements of a row, where an operator works along one: as many as of a last map of 7 x 7."""
PLAIN: dict[str, tuple[str, int, dict[str, Any]]] = {
    "add": ("Add", 2, {}), "sub": ("Sub", 2, {}), "mul": ("Mul", 2, {}), "div": ("Div", 2, {}), "relu": ("Relu", 1, {}),
    "relu6": ("Clip", 1, {}), "hardtanh": ("Clip", 1, {}), "clamp": ("Clip", 1, {}), "sigmoid": ("Sigmoid", 1, {}),
    "tanh": ("Tanh", 1, {}), "hardswish": ("HardSwish", 1, {}), "hardsigmoid": ("HardSigmoid", 1, {}), "gelu": ("Gelu", 1, {}),
    "elu": ("Elu", 1, {}), "leaky_relu": ("LeakyRelu", 1, {}), "softplus": ("Softplus", 1, {}), "exp": ("Exp", 1, {}),
    "mean": ("ReduceMean", 1, {}), "adaptive_avg_pool2d": ("ReduceMean", 1, {}), "sum": ("ReduceSum", 1, {}),
    "amax": ("ReduceMax", 1, {}), "softmax": ("Softmax", 1, {"axis": -1}), "transpose": ("Transpose", 1, {"perm": [0, 2, 1]}),
    "permute": ("Transpose", 1, {"perm": [0, 2, 1]}), "cat": ("Concat", 2, {"axis": 1}),
}  # fmt: skip
"""Operators whose time goes by their elements: kind -> ONNX's operator, how many inputs, its attributes."""


@dataclass(frozen=True)
class Setting:
    """Where operators are timed: a table is of one of these."""

    runtime: str
    batch: int
    threads: int


def milliseconds(key: Key, widths: tuple[int, ...], setting: Setting) -> float:
    """The time of an operator in ms. Raises PasError for one that nobody has said how to build."""
    if setting.runtime == "onnxruntime":
        model, feeds = _onnx_model(key, widths, setting.batch)
        return sum(map(statistics.median, kernel_times(model, feeds, setting.threads)))
    raise PasError(f"operators are timed in onnxruntime, not in {setting.runtime}")


def _onnx_model(key: Key, widths: tuple[int, ...], batch: int) -> tuple[bytes, dict[str, np.ndarray]]:
    """A network of this operator alone, and its inputs."""
    random = np.random.default_rng(0)

    def draw(*sizes: int) -> np.ndarray:
        return np.asarray(random.standard_normal(sizes, dtype=np.float32))

    feeds, tensors = {}, {"low": np.asarray(np.float32(0)), "high": np.asarray(np.float32(6)), "axes": np.array([2])}
    if key.kind == "linear":
        feeds["x"], tensors["weight"] = draw(batch * key.size[0], widths[0]), draw(widths[1], widths[0])
        nodes = [helper.make_node("Gemm", ["x", "weight", "bias"], ["y"], transB=1)]
    elif key.kind in ("conv", "depthwise", "grouped"):
        groups = 1 if key.kind == "conv" else widths[0]
        reads, makes = {"conv": widths, "depthwise": (1, *widths), "grouped": widths[1:]}[key.kind]
        makes = -(-makes // groups) * groups  # between points a number of outputs may be no multiple
        feeds["x"], tensors["weight"] = draw(batch, groups * reads, *key.size), draw(makes, reads, *key.kernel)
        sides: dict[str, Any] = {"strides": key.stride, "pads": [*key.padding, *key.padding], "dilations": key.dilation, "group": groups}
        nodes = [helper.make_node("Conv", ["x", "weight", "bias"], ["y"], **sides)]
    elif key.kind in PLAIN:
        operator, inputs, sides = PLAIN[key.kind]
        feeds = {name: draw(batch, max(1, widths[0] // ROW), ROW) for name in "xv"[:inputs]}
        nodes = [helper.make_node(operator, [*feeds, *_further(operator)], ["y"], **sides)]
    else:
        raise PasError(f"no way is known to time {key.kind!r} alone: say how in pas.cost.kernels")
    if "weight" in tensors:
        tensors["bias"] = draw(len(tensors["weight"]))
    if key.fused:
        operator, _, sides = PLAIN[key.fused]
        nodes.append(helper.make_node(operator, ["y", *_further(operator)], ["z"], **sides))
    graph = helper.make_graph(
        nodes,
        "operator",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in feeds.items()],
        [helper.make_tensor_value_info("z" if key.fused else "y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return model.SerializeToString(), feeds


def _further(operator: str) -> list[str]:
    """Inputs that are constants."""
    return ["low", "high"] if operator == "Clip" else ["axes"] if operator.startswith("Reduce") else []


def kernel_times(model: bytes, feeds: dict[str, np.ndarray], threads: int) -> list[list[float]]:
    """What ONNX Runtime's profiler says of each kernel in every run, in ms, without those that turn a tensor into the layout of its
    convolutions and back: inside a network they stand at its ends only. On a busy machine most runs are interrupted somewhere, but few at
    one kernel, so that the median of each says more than that of their sum.
    """
    options = onnx.session_options(threads)
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        for _ in range(WARMUP + RUNS):
            session.run(None, feeds)
        events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text())
    kernels: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time") and "Reorder" not in event["args"]["op_name"]:
            kernels[event["name"]].append(event["dur"] / 1e3)
    return [times[WARMUP:] for times in kernels.values()]
