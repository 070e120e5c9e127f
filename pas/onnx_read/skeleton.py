"""The structure of an ONNX file without its weights, small enough to lie beside a searched network, and networks with new weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from torch import nn

from pas.onnx_read.file import load

KEPT = 256
"""Tensors of up to so many elements stay: they may be sizes and scales that the graph computes with."""


def skeleton(path: str | Path) -> bytes:
    """The file as a model of the same graph whose weights are sparse tensors without an element: all zeros.

    Raises PasError when the file can't be read.
    """
    model = load(path)
    graph = model.graph
    heavy = [tensor for tensor in graph.initializer if _heavy(tensor)]
    light = [tensor for tensor in graph.initializer if not _heavy(tensor)]
    del graph.initializer[:]
    graph.initializer.extend(light)
    graph.sparse_initializer.extend(map(_zeros, heavy))
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]  # the exporter's notes, such as lines of somebody's code
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value" and _heavy(attribute.t):
                zeros = helper.make_attribute("sparse_value", _zeros(attribute.t))
                attribute.CopyFrom(zeros)
    graph.doc_string = model.doc_string = ""
    for notes in (graph.value_info, graph.metadata_props, model.metadata_props):
        del notes[:]
    return model.SerializeToString()


def renew(network: nn.Module) -> nn.Module:
    """Give a network weights as if it had never been trained: layers theirs, and other tensors their own values in random order
    (noise, where they have none).
    """
    with torch.no_grad():
        inside: set[int] = set()
        for module in network.modules():
            reset: Any = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()
                inside.update(map(id, module.parameters()))
        for parameter in network.parameters():
            if id(parameter) not in inside and parameter.is_floating_point():
                mixed = parameter.reshape(-1)[torch.randperm(parameter.numel())]
                parameter.copy_(mixed.reshape(parameter.shape) if mixed.any() else torch.randn_like(parameter))
    return network


def _heavy(tensor: TensorProto) -> bool:
    return math.prod(tensor.dims) > KEPT and tensor.data_type in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)


def _zeros(tensor: TensorProto) -> onnx.SparseTensorProto:
    values = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=[0])
    indices = TensorProto(data_type=TensorProto.INT64, dims=[0])
    return onnx.SparseTensorProto(values=values, indices=indices, dims=tensor.dims)
