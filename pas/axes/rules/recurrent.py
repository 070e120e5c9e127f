"""Recurrent layers: the hidden state is an axis that the layer reads itself."""

from __future__ import annotations

import math
import operator

import numpy as np
import torch
from torch import fx

from pas.axes.capture import place, shape
from pas.axes.ids import Dim
from pas.axes.rules.table import rule
from pas.axes.trace import Trace, Type
from pas.axes.zeros import contract

aten = torch.ops.aten
GATES = {aten.lstm: 4, aten.gru: 3, aten.rnn_tanh: 1, aten.rnn_relu: 1}


@rule(aten.lstm, aten.gru, aten.rnn_tanh, aten.rnn_relu)
def recurrent(trace: Trace, node: fx.Node) -> Type:
    """Each layer and direction has weights (gates x hidden, input), (gates x hidden, hidden) and perhaps two biases: every gate's rows
    are the hidden axis once more. A projected LSTM has a further weight (projection, hidden).

    The states that are handed in and out hold all layers in one tensor, so they tie the layers together where they are used.
    """
    x, states, weights, biases, layers, _, _, both, batch_first = trace.arguments(node, 9)
    gates = GATES[node.target.overloadpacket]  # type: ignore[union-attr]
    states = list(states) if isinstance(states, (list, tuple)) else [states]
    if not isinstance(layers, int):  # packed sequences have other arguments
        for tensor in trace.tensor_arguments(node):
            trace.freeze(trace[tensor], node, "a packed sequence")
        return (None,) * len(shape(node))
    directions = 2 if both else 1
    per = len(weights) // (layers * directions)
    projected = per == 2 + 2 * bool(biases) + 1
    steps = math.prod(shape(x)[:-1])
    source, read = trace[x][-1], [(x, len(shape(x)) - 1)]
    lead = trace[x][:-1]
    hidden: list[Dim] = []
    shown: list[Dim] = []
    for layer in range(layers):
        outs: list[Dim] = []
        for direction in range(directions):
            mine = weights[(layer * directions + direction) * per :][:per]
            cells = shape(mine[0])[0] // gates
            cell = trace.fresh(cells, node, f"l{layer}{'_reverse' if direction else ''}")
            out = trace.fresh(shape(mine[-1])[0], node, f"projection{layer}{'_reverse' if direction else ''}") if projected else cell
            rows = np.tile(cell, (gates, 1)) if cell is not None else None
            trace.constrain(mine[0], (rows, source), node)
            trace.constrain(mine[1], (rows, out), node)
            for bias in mine[2:4] if biases else ():
                trace.constrain(bias, (rows,), node)
            contract(trace, source, [(mine[0], 1), *read], node)
            contract(trace, out, [(mine[1], 1)], node)
            sizes = (gates * cells, shape(mine[0])[1], steps)
            trace.macs(node, 1, (rows, source, None), sizes)
            trace.macs(node, 1, (rows, out, None), (gates * cells, shape(mine[1])[1], steps))
            if projected:
                trace.constrain(mine[-1], (out, cell), node)
                trace.ids.freeze(cell, f"{place(node)}: torch knows a projection by its size differing from the hidden one")
                trace.macs(node, 1, (out, cell, None), (*shape(mine[-1]), steps))
            outs.append(out)
            hidden.append(cell)
            shown.append(out)
        source, read = trace.stack(outs, [0 if one is None else len(one) for one in outs]), []
    used = {user.args[1] for user in node.users if user.target is operator.getitem and user.users}
    for number, group in ((1, shown), (2, hidden)):
        if number in used or len({len(one) for one in group if one is not None}) > 1:
            for one in group[1:]:
                trace.ids.tie(group[0], one, place(node))
    for state, group in zip(states, (shown, hidden), strict=False):
        if isinstance(state, fx.Node):
            trace.freeze(trace[state][:-1], node, "layers and examples")  # a layer and direction each, and an example each
            for one in group:
                trace.ids.tie(trace[state][-1], one, place(node))
    result = (*lead, source)
    trace.many[node] = (result, (None, lead[0 if batch_first else 1], shown[0]), (None, lead[0 if batch_first else 1], hidden[0]))
    return result
