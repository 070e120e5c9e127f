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

from pas.cost.operators import Key
from pas.errors import PasError

RUNS, WARMUP = 15, 3


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
    random = np.random.default_rng(0)
    if key.kind not in ("conv", "depthwise", "grouped", "linear"):
        raise PasError(f"no way is known to time {key.kind!r} alone")

    def draw(*sizes: int) -> np.ndarray:
        return np.asarray(random.standard_normal(sizes, dtype=np.float32))

    if key.kind == "linear":
        x, weight = draw(batch * key.size[0], widths[0]), draw(widths[1], widths[0])
        nodes = [helper.make_node("Gemm", ["x", "weight", "bias"], ["y"], transB=1)]
    else:
        groups = widths[0] if key.kind == "depthwise" else widths[2] if key.kind == "grouped" else 1
        out = widths[0] if key.kind == "depthwise" else widths[1]
        x, weight = draw(batch, widths[0], *key.size), draw(out, widths[0] // groups, *key.kernel)
        sides: dict[str, Any] = {"strides": key.stride, "pads": [*key.padding, *key.padding], "dilations": key.dilation, "group": groups}
        nodes = [helper.make_node("Conv", ["x", "weight", "bias"], ["y"], **sides)]
    operator = {"relu": "Relu", "relu6": "Clip", "sigmoid": "Sigmoid", "tanh": "Tanh"}.get(key.fused)
    if operator:
        nodes.append(helper.make_node(operator, ["y", "low", "high"] if operator == "Clip" else ["y"], ["z"]))
    tensors = {"weight": weight, "bias": draw(len(weight)), "low": np.float32(0), "high": np.float32(6)}
    graph = helper.make_graph(
        nodes,
        "operator",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("z" if operator else "y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return model.SerializeToString(), {"x": x}


def kernel_times(model: bytes, feeds: dict[str, np.ndarray], threads: int) -> list[list[float]]:
    """What ONNX Runtime's profiler says of each kernel in every run, in ms, without those that turn a tensor into the layout of its
    convolutions and back: inside a network they stand at its ends only. On a busy machine most runs are interrupted somewhere, but few at
    one kernel, so that the median of each says more than that of their sum.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
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
