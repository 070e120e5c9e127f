"""Axis inference: capture a network, run one rule per operator, and read off its signature."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.utils.flop_counter import FlopCounterMode

from pas.axes.capture import BATCH, Example, capture, shape
from pas.axes.rules import find_rule
from pas.axes.signature import Axis, Signature, Slot
from pas.axes.trace import Trace, Type, place
from pas.errors import PasError


def infer(model: nn.Module, example: Example, *, dynamic_batch: bool = False) -> Signature:
    """The signature of a network as it stands (`pas.signature` fuses re-parameterised branches first).

    `example` is a tensor, a tuple of inputs or a dict of keyword inputs; its first dimension is the batch, of any size.
    With `dynamic_batch` the graph that the signature holds accepts any number of examples (slower to capture).
    Raises PasError when torch.export can't capture the network, or an operator's multiply-adds can't be counted.
    """
    program = capture(model, example, dynamic_batch=dynamic_batch)
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
    return _signature(trace, model, example)


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
    macs = _counted(node)
    if macs:
        trace.macs(node, macs, (), ())
    value = node.meta.get("val")
    return (None,) * len(shape(node)) if isinstance(value, (torch.Tensor, tuple, list)) else ()


def _counted(node: fx.Node) -> int:
    """Multiply-adds of an operator without a rule, from torch's own counter: on meta tensors or, where it has no meta kernel, on
    zeros.

    Raises PasError when the operator runs on neither: what can't be counted must not count as nothing.
    """
    if not any(_is_tensor(argument) for argument in node.all_input_nodes):
        return 0
    operator: Any = node.target
    for device in ("meta", "cpu"):

        def empty(value: fx.Node, device: str = device) -> Any:
            return torch.zeros(shape(value), dtype=value.meta["val"].dtype, device=device) if _is_tensor(value) else value

        args, kwargs = fx.map_arg(node.args, empty), fx.map_arg(node.kwargs, empty)
        try:
            with FlopCounterMode(display=False) as counter:
                operator(*args, **kwargs)
        except (RuntimeError, NotImplementedError, TypeError, IndexError):
            continue
        return counter.get_total_flops() // 2
    raise PasError(f"the multiply-adds of {place(node)} can't be counted: it runs neither on meta tensors nor on zeros")


def _is_tensor(value: object) -> bool:
    return isinstance(value, fx.Node) and isinstance(value.meta.get("val"), torch.Tensor)


def _signature(trace: Trace, model: nn.Module, example: Example) -> Signature:
    """Group the final ids into axes: ids that touch the same slots equally often are one axis."""
    ids, program = trace.ids, trace.program
    typed: dict[str, Type] = {}
    for node, name in program.tensors.items():  # a shared parameter may come in by several placeholders
        if node in trace.types:
            for have, more in zip(typed.setdefault(name, trace.types[node]), trace.types[node], strict=True):
                ids.tie(have, more, f"{name} is shared")
    resolved = {name: tuple(None if dim is None else ids.resolve(dim) for dim in dims) for name, dims in typed.items()}
    touched: dict[int, list[tuple[int, int]]] = defaultdict(list)
    slots = [Slot(name, d) for name, dims in resolved.items() for d, dim in enumerate(dims) if dim is not None]
    for index, slot in enumerate(slots):
        table = resolved[slot.parameter][slot.dim]
        assert table is not None  # slots are made of tables
        found, counts = np.unique(table, return_counts=True)
        for i, count in zip(found.tolist(), counts.tolist(), strict=True):
            if i:
                touched[i].append((index, count))
    for number, part in enumerate(trace.pieces):  # so that no axis reaches over the end of a piece
        for i in np.unique(ids.resolve(part)).tolist() if part is not None else ():
            touched[i].append((-1 - number, 1))
    frozen, inexact = ids.frozen(), ids.not_exact()
    members: dict[tuple, list[int]] = defaultdict(list)
    for i, touch in touched.items():
        members[(tuple(touch), frozen.get(i), i in inexact)].append(i)
    position = np.zeros(len(ids.born), dtype=np.int64)
    axes: list[Axis] = []
    names: dict[str, int] = defaultdict(int)
    start = 1
    for (touch, reason, loose), group in sorted(
        members.items(), key=lambda item: min((ids.born[i], i) for i in item[1])
    ):
        group.sort()
        first = min(group, key=lambda i: (ids.born[i], i))
        lives = tuple(slots[index] for index, _ in touch if index >= 0)
        if reason is None and len(group) == 1:
            reason = "it has a single channel"
        label = ids.label[first]
        names[label] += 1
        name = label if names[label] == 1 else f"{label}#{names[label]}"
        axes.append(Axis(name, len(group), reason is None, not loose, lives, reason, start))
        position[group] = np.arange(start, start + len(group))
        start += len(group)
    final = lambda dim: None if dim is None else position[ids.resolve(dim)]  # noqa: E731
    return Signature(
        axes=tuple(axes),
        channels=start,
        dims={name: tuple(None if dim is None else position[dim] for dim in dims) for name, dims in resolved.items()},
        shapes={name: tuple(parameter.shape) for name, parameter in model.named_parameters()},
        readers=tuple(
            dict.fromkeys(Slot(*reader) for reader in trace.readers if typed[reader[0]][reader[1]] is not None)
        ),
        makers=tuple(dict.fromkeys(Slot(*maker) for maker in trace.makers)),
        groups={name: final(dim) for name, dim in trace.groups.items()},
        terms=tuple(dataclasses.replace(term, dims=tuple(final(dim) for dim in term.dims)) for term in trace.terms),
        constants=tuple(dataclasses.replace(c, dim=final(c.dim)) for c in trace.constants),
        batch=BATCH,
        program=program,
        example=example,
    )
