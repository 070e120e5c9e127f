"""Which nodes of a graph depend on the number of examples: what the others cost is paid once for all of these."""

from __future__ import annotations

import torch
from torch import fx

from pas.axes.capture import BATCH, Program, packet, shape

_REPEATS = (torch.ops.aten.expand, torch.ops.aten.repeat, torch.ops.aten.tile)


def batched(program: Program) -> set[fx.Node]:
    """Whatever is made of the network's inputs, and whatever else there is one of for each example."""
    found = set(program.inputs)
    for node in program.graph.nodes:
        if not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    for node in program.graph.nodes:
        if node not in found and _as_many_as_examples(node):
            found |= _made_of(node, found)
    return found


def _made_of(node: fx.Node, found: set[fx.Node]) -> set[fx.Node]:
    """A tensor of as many rows as there are examples, and what is made of it, if that ever meets the examples row by row: else these are as
    many by chance.
    """
    made, front, meets = {node}, [node], False
    while front:
        one = front.pop()
        for user in one.users:
            if user in found:
                others = [other for other in user.all_input_nodes if other in found]
                meets |= any(_rows(other) == _rows(one) and _rows(one) % BATCH == 0 for other in others)
            elif user.op == "call_function" and user not in made:
                made.add(user)
                front.append(user)
    return made if meets else set()


def _as_many_as_examples(node: fx.Node) -> bool:
    """Such as a class token or a table of positions that is repeated for each example, or a state of zeros."""
    if node.op != "call_function" or not isinstance(node.meta.get("val"), torch.Tensor) or shape(node)[:1] != (BATCH,):
        return False
    source = node.all_input_nodes
    repeats = packet(node) in _REPEATS
    return not source or (repeats and (len(shape(source[0])) < len(shape(node)) or shape(source[0])[0] == 1))


def _rows(node: fx.Node) -> int:
    """The size of the first dimension; 1 for what isn't a tensor, or a single number."""
    return (*shape(node), 1)[0] if isinstance(node.meta.get("val"), torch.Tensor) else 1
