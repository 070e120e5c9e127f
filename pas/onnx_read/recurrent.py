"""Recurrent layers. ONNX stacks their gates in another order than torch."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pas.onnx_read.table import Node, operator

GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}  # torch's gates by their place in the file
ACTIVATIONS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}


@operator("LSTM", "GRU", "RNN")
def recurrent(node: Node) -> Any:
    """nn.LSTM, nn.GRU or nn.RNN, (L, N, C) -> (L, directions, N, hidden) and the last states."""
    kind, hidden = node.op, node.attribute("hidden_size")
    direction = node.only("direction", "forward", "bidirectional", "reverse")
    node.only("layout", 0)
    node.only("input_forget", 0)
    count = 2 if direction == "bidirectional" else 1
    node.only("activations", ACTIVATIONS[kind] * count)
    if kind == "GRU" and not node.attribute("linear_before_reset", 0):
        raise node.error("linear_before_reset=0, but torch's GRU resets after its matrix product; write it with reset_after=True")
    node.attribute("linear_before_reset", 0)
    if node.has(4) or node.has(7):
        raise node.error("sequences of different lengths and peepholes have no counterpart in torch's layers")
    w, bias = node.constant(1), node.has(3)
    make: Any = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}[kind]
    module = make(w.shape[2], hidden, 1, bias=bias, bidirectional=count == 2, device="meta", dtype=w.dtype)
    tensors: dict[str, Tensor | None] = {}
    for d in range(count):
        end = "l0_reverse" if d else "l0"
        for name, index in (("weight_ih", 1), ("weight_hh", 2)):
            tensors[f"{name}_{end}"] = node.weight(index, f"{kind} {d}", partial(_gates, kind, d, None))
        for half, name in enumerate(("bias_ih", "bias_hh") if bias else ()):
            tensors[f"{name}_{end}"] = node.weight(3, f"{kind} {d} {half}", partial(_gates, kind, d, half))
    states = [node.tensor(i) for i in (5, 6) if node.has(i)]
    if kind == "LSTM" and len(states) == 1:
        raise node.error("it has one of two initial states; give both or none")
    still = all(isinstance(state, Tensor) and not state.any() for state in states)  # zeros are what torch starts with
    start = [] if still else [tuple(states) if kind == "LSTM" else states[0]]
    back = (lambda v: node.b.call(torch.flip, v, [0])) if direction == "reverse" else (lambda v: v)
    y, last = node.layer(module, tensors, back(node.tensor(0)), *start, weight=1)
    apart = node.b.call(torch.unflatten, back(y), 2, (count, hidden))
    return (node.b.call(torch.permute, apart, (0, 2, 1, 3)), *(last if kind == "LSTM" else (last,)))


def _gates(kind: str, direction: int, half: int | None, tensor: Tensor) -> Tensor:
    """The weights (or that half of the biases) of one direction with their gates in torch's order."""
    one = tensor[direction]
    parts = (one if half is None else one.chunk(2)[half]).chunk(len(GATES[kind]))
    return torch.cat([parts[place] for place in GATES[kind]])
