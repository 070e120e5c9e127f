"""Run a captured network layer by layer: an operator sees all batches before the next one runs, so that a layer's weights may be changed
when its inputs are known, and everything behind it sees what they give.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves, tree_map

from pas.axes.capture import Example, Program, as_arguments, capture

Visit = Callable[[list[Tensor]], None]
"""Called with a node's first operand, of each batch, before the node runs."""


def captured(model: nn.Module, example: Example) -> Program:
    """The graph of a network in eval mode for any number of examples, in the number format and on the device of its weights."""
    return capture(model, like(model, example), dynamic_batch=True)


def run_layers(model: nn.Module, program: Program, batches: Iterable[Example], visits: Mapping[fx.Node, Visit]) -> None:
    """Run `program`, the graph of `model`, over the model's tensors as they are at that moment, up to the last node of `visits`.

    Each activation is kept from the operator that makes it to the last one that reads it: memory grows with the widest place of the network
    and the number of examples, not with the depth. Without gradients.
    """
    nodes = list(program.graph.nodes)
    nodes = nodes[: 1 + max((nodes.index(node) for node in visits), default=-1)]
    last = {source: node for node in nodes for source in node.all_input_nodes}
    tensors = {**program.constants, **dict(model.named_buffers()), **dict(model.named_parameters())}
    values = _placed(model, program, list(batches))
    with torch.no_grad():
        for node in nodes:
            if node in visits:
                visits[node](list(values[node.all_input_nodes[0]]))
            if node.op != "call_function" or node is nodes[-1]:
                continue
            values[node] = _run(node, tensors, program, values, [source for source in node.all_input_nodes if last[source] is node])
            if node not in last:
                del values[node]


def _run(
    node: fx.Node, tensors: Mapping[str, Tensor], program: Program, values: dict[fx.Node, list[Any]], over: Sequence[fx.Node]
) -> list[Any]:
    """A node's results, one a batch. Operands in `over` are let go, batch by batch."""
    target: Any = node.target
    results = []
    for number in range(len(values[program.inputs[0]])):
        operand = lambda n, i=number: tensors[program.tensors[n]] if n in program.tensors else values[n][i]  # noqa: E731
        results.append(target(*fx.map_arg(node.args, operand), **fx.map_arg(node.kwargs, operand)))
        for source in over:
            if source in values:
                values[source][number] = None
    return results


def _placed(model: nn.Module, program: Program, batches: Sequence[Example]) -> dict[fx.Node, list[Any]]:
    """What each input of the graph is, one a batch; copies, which the graph may write to."""
    rows = [[_copied(leaf) for leaf in tree_leaves(as_arguments(like(model, batch)))] for batch in batches]
    return {node: list(column) for node, column in zip(program.inputs, zip(*rows, strict=True), strict=True)}


def _copied(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def like(model: nn.Module, example: Example) -> Example:
    """Inputs in the format and on the device of a network's weights; whole numbers stay such."""
    weight = next(parameter for parameter in model.parameters() if parameter.is_floating_point())

    def one(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to(weight.device, weight.dtype) if value.is_floating_point() else value.to(weight.device)

    moved: Example = tree_map(one, example)
    return moved
