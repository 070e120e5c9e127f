"""An ONNX file as a checked protobuf: what can't be read is refused here, before anything is built."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import inliner, numpy_helper

from pas.errors import PasError

OLDEST = 11
CONTROL = ("If", "Loop", "Scan", "SequenceMap")
QUANTISED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul")
DOMAINS = ("", "ai.onnx")


def load(source: str | Path | bytes) -> onnx.ModelProto:
    """The model in a file (or in its bytes), functions inlined and external data read.

    Raises PasError, one line, when it can't be read or holds what no plain network of layers can.
    """
    name = "these bytes" if isinstance(source, bytes) else str(source)
    model = _parse(source, name)
    shapeless = [value.type.tensor_type for value in model.graph.output if not value.type.tensor_type.HasField("shape")]
    try:
        for kind in shapeless:  # runtimes don't ask for it, the checker does
            kind.shape.SetInParent()
        onnx.checker.check_model(model)
        for kind in shapeless:
            kind.ClearField("shape")
        model = inliner.inline_local_functions(model) if model.functions else model
    except Exception as error:  # the checker and the inliner, in C++, answer damage with several kinds
        raise PasError(f"{name} is no valid ONNX model: {_line(error)}; take an intact copy or write it again") from error
    version = opset(model)
    if version < OLDEST:
        raise PasError(
            f"{name} has opset {version}; {OLDEST} and newer can be read: convert it with onnx.version_converter.convert_version(model, 17)"
        )
    for node in model.graph.node:
        _refuse(node, name)
    return model


def opset(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that the model was written for."""
    return max((entry.version for entry in model.opset_import if entry.domain in DOMAINS), default=0)


def beside(path: Path) -> list[Path]:
    """The files in which a model keeps its weights, itself aside; none where it isn't there or can't be read, which is refused later."""
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (OSError, DecodeError):
        return []
    names = {entry.value for tensor in _tensors(model.graph) for entry in tensor.external_data if entry.key == "location"}
    return [path.parent / name for name in sorted(names)]


def label(node: onnx.NodeProto) -> str:
    """A node for a person: its name, or that of what it makes, and its operator."""
    name = node.name or next(filter(None, node.output), "?")
    return f"node {name!r} ({node.domain + '.' if node.domain else ''}{node.op_type})"


def array(tensor: onnx.TensorProto) -> np.ndarray:
    """The values of a tensor; bfloat16 comes as float32."""
    found = numpy_helper.to_array(tensor)
    if found.dtype.kind not in "biuf" or found.dtype.itemsize > 8:  # numpy has no bfloat16 of its own
        found = found.astype(np.float32)
    return found


def dense(tensor: onnx.SparseTensorProto) -> np.ndarray:
    """A sparse tensor with its zeros written out."""
    values = array(tensor.values)
    found = np.zeros(tuple(tensor.dims), values.dtype)
    indices = array(tensor.indices) if values.size else np.zeros(0, np.int64)
    places = np.unravel_index(indices, found.shape) if indices.ndim == 1 else tuple(indices.T)
    found[places] = values
    return found


def _parse(source: str | Path | bytes, name: str) -> onnx.ModelProto:
    try:
        if isinstance(source, bytes):
            model = onnx.load_model_from_string(source)
        elif not isinstance(source, str | Path):
            raise PasError(f"give the path of an ONNX file, or its bytes (model.SerializeToString()), not a {type(source).__name__}")
        elif not Path(source).is_file():
            raise PasError(f"no ONNX file at {name}: give the path of a .onnx file")
        else:
            model = onnx.load(str(source), load_external_data=False)
            outside = [tensor for tensor in _tensors(model.graph) if tensor.data_location == onnx.TensorProto.EXTERNAL]
            _external(model, Path(source), outside)
    except DecodeError as error:
        raise PasError(f"{name} is no ONNX file, or only a part of one: take an intact copy or write it again") from error
    if not model.graph.node or not model.graph.input or not model.graph.output:
        raise PasError(f"{name} holds no network: an ONNX model with an input, nodes and an output is needed")
    return model


def _external(model: onnx.ModelProto, path: Path, outside: list[onnx.TensorProto]) -> None:
    """Read the weights that lie beside the file."""
    for tensor in outside:
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        if not location or not (path.parent / location).is_file():
            raise PasError(f"{path} keeps its weights in {location!r}, which isn't beside it: copy that file to {path.parent}")
    try:
        if outside:
            onnx.load_external_data_for_model(model, str(path.parent))
    except (onnx.checker.ValidationError, ValueError, OSError) as error:
        raise PasError(f"{path}: its weights can't be read: {_line(error)}; copy the files again") from error


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t


def _refuse(node: onnx.NodeProto, name: str) -> None:
    if node.op_type in CONTROL:
        raise PasError(f"{name}: {label(node)} is control flow; write the file again from a network without branches or loops")
    if node.op_type in QUANTISED:
        raise PasError(f"{name}: {label(node)} belongs to a quantised model; prune the floating-point model and quantise afterwards")
    if node.domain not in DOMAINS:
        raise PasError(
            f"{name}: {label(node)} is no operator of ONNX but one of {node.domain}; write the file without that runtime's optimisations"
        )


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].strip().rstrip(".")
