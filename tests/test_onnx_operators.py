"""Every operator of ONNX files that can be read, against the cases that come with ONNX."""

from __future__ import annotations

import copy
import warnings
from functools import lru_cache

import numpy as np
import pytest
import torch
from networks import run
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.case.node import collect_testcases

from pas.errors import PasError
from pas.onnx_read.file import opset
from pas.onnx_read.read import build
from pas.onnx_read.table import OPERATORS

WITHOUT_CASES = ("GRU",)  # theirs are of another kind of GRU
CONSTANT = ("Constant", "ConstantOfShape", "Range")  # they read nothing that is computed
LOGIC = ("And", "Or", "Xor", "Not")  # theirs are of an old version, when they were what they are
NUMBERS = ("bool", "int8", "uint8", "int16", "int32", "int64", "float16", "float32", "float64")  # that torch computes with


@lru_cache
def node_cases() -> dict[str, list]:
    """ONNX's own cases of one node, by operator."""
    found: dict[str, list] = {}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for case in collect_testcases(None):
            nodes = case.model.graph.node
            if len(nodes) == 1 and nodes[0].op_type in OPERATORS and (opset(case.model) >= 11 or nodes[0].op_type in LOGIC):
                found.setdefault(nodes[0].op_type, []).append(case)
    return found


def as_array(value: object) -> object:
    """Numbers and tensors of a case as arrays."""
    if isinstance(value, TensorProto):
        return numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.generic) else value


def outcome(case) -> str | None:
    """None where the first floating-point input stays one, the others are constants, and the first result is the expected one; else
    why there is nothing to compare. Raises AssertionError when it is another.
    """
    model = copy.deepcopy(case.model)
    inputs, outputs = ([as_array(a) for a in part] for part in case.data_sets[0])
    arrays = all(isinstance(a, np.ndarray) and a.dtype.name in NUMBERS for a in [*inputs, *outputs])
    if not arrays:
        return "no tensors of numbers"
    if model.graph.node[0].op_type in CONSTANT:
        inputs.append(np.zeros(1, np.float64))
        model.graph.input.append(helper.make_tensor_value_info("unused", TensorProto.DOUBLE, [1]))
        chosen = len(inputs) - 1
    else:
        chosen = next((i for i, a in enumerate(inputs) if a.dtype.kind == "f"), 0)
    entries = list(model.graph.input)
    for i, (entry, value) in enumerate(zip(entries, inputs, strict=True)):
        if i != chosen:
            model.graph.initializer.append(numpy_helper.from_array(value, entry.name))
            model.graph.input.remove(entry)
    del model.graph.output[1:]
    x = inputs[chosen]
    try:
        network = build(model, shapes={entries[chosen].name: (x.shape, x.shape)}, batch=None)
    except PasError as refused:
        return str(refused)
    found = run(network, torch.from_numpy(np.array(x))).numpy()
    assert (found.shape, found.dtype) == (outputs[0].shape, outputs[0].dtype), case.name
    np.testing.assert_allclose(found.astype(np.float64), outputs[0].astype(np.float64), 1e-3, 1e-4, err_msg=case.name)
    return None


@pytest.mark.parametrize("operator", sorted(set(OPERATORS) - set(WITHOUT_CASES)))
def test_operator_computes_what_onnx_says(operator: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ceil_mode without an effect, and the like
        outcomes = [outcome(case) for case in node_cases()[operator]]
    assert outcomes.count(None) > 0, outcomes
    assert [why for why in outcomes if why and not why.startswith(("node '", "no tensors"))] == []
