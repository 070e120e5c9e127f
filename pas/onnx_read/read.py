"""ONNX in: a file as a plain torch network that can be trained, pruned and written again.

Written here, a small function an operator, because onnx2torch 1.5 stops short of today's files: it has no reductions with
axes as input (opset 18) and no Shape of opset 19, so that not even a ResNet from torch's exporter can be read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from pas.errors import PasError
from pas.onnx_read import constants, dimensions, elementwise, layers, norms, pieces, pools, recurrent, reductions, sizes
from pas.onnx_read.builder import BATCH, Builder, Value
from pas.onnx_read.file import array, dense, load, opset
from pas.onnx_read.table import OPERATORS, Node

# importing them fills the table of operators
__all__ = ["constants", "dimensions", "elementwise", "from_onnx", "layers", "norms", "pieces", "pools", "recurrent", "reductions"]

Shapes = dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
"""The sizes of every input for two sizes of what the file leaves free."""


def from_onnx(source: str | Path | bytes, *, shape: Sequence[int] | None = None) -> fx.GraphModule:
    """The network in an ONNX file (opset 11 and newer), in eval mode, with its weights as parameters: layers of `torch.nn` under
    the file's names in an fx graph, for any number of examples.

    Floating-point tensors of the file with more than one element become parameters; statistics of norms, integers and single
    numbers don't. Nothing in the file is executed.

    Args:
        source: the path of the file, or its bytes.
        shape: one example of the (first) input without the batch, where the file leaves sizes free and a layer needs them.

    Raises:
        PasError: the file can't be read, or holds something that torch's layers don't; the message names the node.
    """
    model = load(source)
    name = "these bytes" if isinstance(source, bytes) else str(source)
    try:
        shapes, batch = _shapes(model, shape), _fixed_batch(model)
        network = build(model, shapes=shapes, batch=batch)
        if batch is not None:
            _check_batch(network, model, shapes, batch)
        return network
    except PasError as error:
        raise PasError(f"{name}: {error}") from error


def build(model: onnx.ModelProto, *, shapes: Shapes, batch: int | None) -> fx.GraphModule:
    """The network of a checked model. `shapes`: every input at two sizes; `batch`: the fixed one that the file was written for."""
    graph, builder = model.graph, Builder(batch)
    values: dict[str, Value | None] = {"": None}
    for tensor in graph.initializer:
        values[tensor.name] = builder.constant(_tensor(array(tensor), tensor.name), tensor.name)
    for sparse in graph.sparse_initializer:
        values[sparse.values.name] = builder.constant(_tensor(dense(sparse), sparse.values.name), sparse.values.name)
    for entry in _inputs(graph):
        values[entry.name] = builder.input(entry.name, _dtype(entry), shapes[entry.name])
    readers = Counter(name for node in graph.node for name in node.input) + Counter(entry.name for entry in graph.output)
    users = {name: node for node in graph.node for name in node.input}
    aliases: dict[str, str] = {}

    def follower(proto: onnx.NodeProto, operator: str) -> tuple[Value, Callable[[], None]] | None:
        """The other operand of the only reader, if it is such a binary operator, and a way to leave that reader out."""
        made = proto.output[0]
        user = users.get(made)
        if user is None or readers[made] != 1 or user.op_type != operator:
            return None
        other = values.get(user.input[1] if user.input[0] == made else user.input[0])
        return None if other is None else (other, lambda: aliases.update({user.output[0]: made}))

    version = opset(model)
    for proto in graph.node:
        if proto.output[0] in aliases:
            values[proto.output[0]] = values[aliases[proto.output[0]]]
            continue
        node = Node(proto, [values[name] for name in proto.input], version, builder, partial(follower, proto))
        results = _results(node, readers)
        for name, result in zip(proto.output, results, strict=False):
            values[name] = builder.constant(result, name) if isinstance(result, Tensor) else result
    outputs = [_output(builder, values[entry.name], entry.name) for entry in graph.output]
    builder.graph.output(outputs[0] if len(outputs) == 1 else tuple(outputs))
    builder.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    network = fx.GraphModule(builder.root, builder.graph, class_name="OnnxNetwork")
    for node in network.graph.nodes:
        node.meta.clear()
    return network.eval()


def _check_batch(network: fx.GraphModule, model: onnx.ModelProto, shapes: Shapes, batch: int) -> None:
    """A file for a fixed batch may have places among its examples written down: two batches at once must give what each gives alone."""
    generator, several = torch.Generator().manual_seed(0), []
    for entry in _inputs(model.graph):
        one, other = shapes[entry.name]
        size = tuple(batch if n != m and d == 0 else n for d, (n, m) in enumerate(zip(one, other, strict=True)))
        draws = [torch.randn(size, generator=generator).to(_dtype(entry)) for _ in range(2)]
        several.append((*draws, torch.cat(draws) if one[:1] != other[:1] else draws[0]))
    with torch.no_grad():
        first, second, both = (tree_leaves(network(*(values[i] for values in several))) for i in range(3))
    for a, b, found in zip(first, second, both, strict=True):
        expected = torch.cat([a, b]) if a.dim() else found
        tolerance = 1e-3 * float(expected.abs().max()) if expected.numel() else 0.0
        if expected.shape != found.shape or not torch.allclose(found.double(), expected.double(), 1e-3, tolerance):
            raise PasError(f"it computes across the examples of its fixed batch of {batch}; write it again with a free batch dimension")


def _results(node: Node, readers: Counter[str]) -> tuple[Any, ...]:
    """The values that a node makes. Raises PasError, naming the node, when it can't be read."""
    try:
        if node.op in ("Shape", "Size") and isinstance(node.values[0], fx.Node):
            found = sizes.shape(node)
        else:
            found = sizes.arithmetic(node) if any(isinstance(value, np.ndarray) for value in node.values) else None
            if found is None and node.op not in OPERATORS:
                raise node.error("this operator is not known; write the network with others")
            found = OPERATORS[node.op](node) if found is None else found
    except PasError as error:
        raise error if str(error).startswith("node ") else node.error(str(error)) from error
    except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError, NotImplementedError) as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        fixed = " for any batch; the file is written for a fixed one, so write it again with a free batch" if node.b.batch else ""
        raise node.error(f"its inputs don't fit{fixed} ({type(error).__name__}: {line})") from error
    if node.unread():
        raise node.error(f"its attribute {node.unread()[0]!r} is not known; write the network without it")
    results = found if isinstance(found, tuple) else (found,)
    if any(readers[name] for name in node.outputs[len(results) :] if name):
        raise node.error(f"its output {node.outputs[len(results)]!r} is used, but can't be had; write the network without it")
    return tuple(sizes.as_value(node.b, result) for result in results)


def _output(builder: Builder, value: Any, name: str) -> fx.Node:
    if isinstance(value, np.ndarray):
        raise PasError(f"output {name!r} is a size and no tensor; write the file without it")
    return value if isinstance(value, fx.Node) else builder.call("clone", builder.load(value))


# ---- what the file says of its inputs --------------------------------------------------------------------------------


def _inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Inputs proper: older files list their weights too."""
    weights = {tensor.name for tensor in graph.initializer} | {tensor.values.name for tensor in graph.sparse_initializer}
    return [entry for entry in graph.input if entry.name not in weights]


def input_sizes(source: str | Path | bytes) -> dict[str, list[int | str] | None]:
    """What a file says of its inputs' sizes, free ones by a name. Raises PasError when it can't be read."""
    return {entry.name: _declared(entry) for entry in _inputs(load(source).graph)}


def _declared(entry: onnx.ValueInfoProto) -> list[int | str] | None:
    """The sizes of an input, free ones by their names; None when the file doesn't say how many there are."""
    if not entry.type.tensor_type.HasField("shape"):
        return None
    dims = entry.type.tensor_type.shape.dim
    free = [dim.dim_param or f"{entry.name}.{d}" for d, dim in enumerate(dims)]
    return [dim.dim_value if dim.dim_value > 0 else name for dim, name in zip(dims, free, strict=True)]


def _fixed_batch(model: onnx.ModelProto) -> int | None:
    sizes = _declared(_inputs(model.graph)[0])
    return sizes[0] if sizes and isinstance(sizes[0], int) else None


def _shapes(model: onnx.ModelProto, shape: Sequence[int] | None) -> Shapes:
    """Every input at two sizes of what is free: the batch always, whatever the file says, and what it leaves free besides."""
    free: dict[str, tuple[int, int]] = {}
    found: Shapes = {}
    first = None
    for entry in _inputs(model.graph):
        sizes = _declared(entry)
        if first is None:
            sizes = _with(entry.name, sizes, shape)
            first = sizes[0] if sizes else None
        if sizes is None:
            raise PasError(f"the file says nothing of the shape of input {entry.name!r}; write it again with shapes")
        pairs = []
        for d, size in enumerate(sizes):
            if d == 0 and (isinstance(size, str) or size == first):
                pairs.append(BATCH)
            else:
                pairs.append((size, size) if isinstance(size, int) else free.setdefault(size, (224 + 32 * len(free), 288 + 64 * len(free))))
        found[entry.name] = (tuple(a for a, _ in pairs), tuple(b for _, b in pairs))
    if not found:
        raise PasError("the file has no input; write it again with one")
    return found


def _with(name: str, sizes: list[int | str] | None, shape: Sequence[int] | None) -> list[int | str]:
    """The sizes of the first input, those of an example put in."""
    if shape is None:
        if sizes is None:
            raise PasError(f"the file says nothing of the shape of input {name!r}: give it (shape=)")
        return sizes
    if sizes is None:
        return ["batch", *shape]
    if len(sizes) != len(shape) + 1 or any(isinstance(n, int) and n != m for n, m in zip(sizes[1:], shape, strict=True)):
        said = ", ".join(map(str, sizes[1:]))
        raise PasError(f"its input {name!r} takes examples of shape ({said}), not ({', '.join(map(str, shape))})")
    return [sizes[0], *shape]


def _dtype(entry: onnx.ValueInfoProto) -> torch.dtype:
    code = entry.type.tensor_type.elem_type
    try:
        return torch.from_numpy(np.zeros(1, helper.tensor_dtype_to_np_dtype(code))).dtype
    except (TypeError, KeyError) as error:
        raise PasError(f"input {entry.name!r} is no tensor of numbers that torch has; write it as float32") from error


def _tensor(values: np.ndarray, name: str) -> Tensor:
    try:
        return torch.from_numpy(np.array(values))
    except TypeError as error:
        raise PasError(f"tensor {name!r} is of {values.dtype}, which torch doesn't have; write it as float32") from error
