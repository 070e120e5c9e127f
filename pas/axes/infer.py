"""Axis inference: capture a network, run one rule per operator, and read off its signature."""

from __future__ import annotations

import dataclasses

import torch
from torch import fx, nn

from pas.axes.capture import BATCH, Example, Program, capture, place, shape
from pas.axes.counting import counted
from pas.axes.grouping import grouped
from pas.axes.rules import find_rule
from pas.axes.signature import Signature, Slot
from pas.axes.trace import Trace, Type


def infer(model: nn.Module, example: Example, *, dynamic_batch: bool = False) -> Signature:
    """The signature of a network as it stands (`pas.signature` fuses re-parameterised branches first).

    `example` is a tensor, a tuple of inputs or a dict of keyword inputs; its first dimension is the batch, of any size.
    With `dynamic_batch` the graph that the signature holds accepts any number of examples (slower to capture).
    Raises PasError when torch.export can't capture the network, or an operator's multiply-adds can't be counted.
    """
    return follow(capture(model, example, dynamic_batch=dynamic_batch), model, example)


def follow(program: Program, model: nn.Module, example: Example) -> Signature:
    """One pass over a captured network, in time linear in its nodes."""
    return _signature(_traced(program), model, example)


def typed_nodes(signature: Signature) -> dict[fx.Node, Type]:
    """Every node of the graph that a signature holds, its dimensions written in channels like those of a parameter (the first result, where
    a node has several).
    """
    trace = _traced(signature.program)
    _, position, _ = grouped(trace, _parameters(trace))
    return {node: tuple(None if dim is None else position[trace.ids.resolve(dim)] for dim in dims) for node, dims in trace.types.items()}


def _traced(program: Program) -> Trace:
    trace = Trace(program)
    for node in program.inputs:
        if "val" in node.meta and isinstance(node.meta["val"], torch.Tensor):
            trace.types[node] = _input_type(trace, node)
    for node in program.graph.nodes:
        if node.op == "call_function":
            trace.types[node] = _apply(trace, node)
    for node in program.outputs:
        if node in trace.types:
            for dim in trace[node]:
                trace.ids.freeze(dim, "it is an output of the network")
    return trace


def _input_type(trace: Trace, node: fx.Node) -> Type:
    """Channels of an input are an interface. Integers (tokens) have none."""
    sizes = shape(node)
    if not node.meta["val"].is_floating_point():
        return (None,) * len(sizes)
    dims = tuple(trace.fresh(size, node) if d else None for d, size in enumerate(sizes))
    for dim in dims:
        trace.ids.freeze(dim, "it is an input of the network")
    return dims


def _apply(trace: Trace, node: fx.Node) -> Type:
    rule = find_rule(node)
    if rule is not None:
        return rule(trace, node)
    for argument in trace.tensor_arguments(node):
        for dim in trace[argument]:
            trace.ids.freeze(dim, f"no rule for {place(node)}")
    macs = counted(node)
    if macs:
        trace.macs(node, macs, (), ())
    value = node.meta.get("val")
    return (None,) * len(shape(node)) if isinstance(value, (torch.Tensor, tuple, list)) else ()


def _signature(trace: Trace, model: nn.Module, example: Example) -> Signature:
    """What the trace has found, in terms of axes."""
    ids, program, typed = trace.ids, trace.program, _parameters(trace)
    axes, position, resolved = grouped(trace, typed)
    final = lambda dim: None if dim is None else position[ids.resolve(dim)]  # noqa: E731
    return Signature(
        axes=axes,
        channels=1 + sum(axis.size for axis in axes),
        dims={name: tuple(None if dim is None else position[dim] for dim in dims) for name, dims in resolved.items()},
        shapes={name: tuple(parameter.shape) for name, parameter in model.named_parameters()},
        readers=tuple(
            dict.fromkeys(Slot(*reader) for reader in trace.readers if typed[reader[0]][reader[1]] is not None)
        ),
        makers=tuple(dict.fromkeys(Slot(*maker) for maker in trace.makers)),
        groups={name: final(dim) for name, dim in trace.groups.items()},
        terms=tuple(dataclasses.replace(term, dims=tuple(final(dim) for dim in term.dims)) for term in trace.terms),
        constants=tuple(dataclasses.replace(c, dim=final(c.dim)) for c in trace.constants),
        shuffles=tuple(dataclasses.replace(one, before=final(one.before)) for one in trace.shuffles),
        batch=BATCH,
        program=program,
        example=example,
    )


def _parameters(trace: Trace) -> dict[str, Type]:
    """The types of all parameters and buffers; those of a shared one, which may come in by several placeholders, are tied."""
    typed: dict[str, Type] = {}
    for node, name in trace.program.tensors.items():
        if node in trace.types:
            for have, more in zip(typed.setdefault(name, trace.types[node]), trace.types[node], strict=True):
                trace.ids.tie(have, more, f"{name} is shared")
    return typed
