"""The captured graph of a network as a module that trains, with the numbers of channels in it rewritten."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection, Mapping
from itertools import chain, count
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.utils._pytree import tree_unflatten

from pas.architecture import Architecture
from pas.axes.capture import owner, packet, shape, shapes
from pas.axes.infer import infer
from pas.axes.rules.movement import SIZED
from pas.axes.signature import Signature, rows
from pas.axes.trace import Shuffle
from pas.surgery.noise import Attention, attention_dropout, dropout_of, is_recurrent, marked, recurrent

aten = torch.ops.aten
_LEAVES = {
    nn.Conv1d: aten.conv1d, nn.Conv2d: aten.conv2d, nn.Conv3d: aten.conv3d, nn.Linear: aten.linear,
    nn.BatchNorm1d: aten.batch_norm, nn.BatchNorm2d: aten.batch_norm, nn.BatchNorm3d: aten.batch_norm,
    nn.InstanceNorm1d: aten.instance_norm, nn.InstanceNorm2d: aten.instance_norm, nn.InstanceNorm3d: aten.instance_norm,
    nn.Dropout: aten.dropout, nn.Dropout1d: aten.feature_dropout, nn.Dropout2d: aten.feature_dropout,
    nn.AlphaDropout: aten.alpha_dropout, nn.ReLU: aten.relu,
}  # fmt: skip
_CHECKS = (
    aten._assert_tensor_metadata,
    aten._assert_scalar,
    aten.sym_constrain_range_for_size,
    aten.sym_constrain_range,
)
Counts = dict[tuple[fx.Node, int, int | None], int]
"""(node, argument, index) -> how many channels stay there; see `Constant`."""
_ATTENTION = aten.scaled_dot_product_attention
_SPLIT = (aten.split, aten.split_with_sizes, aten.chunk, aten.tensor_split)


def rebuild(model: nn.Module, small: nn.Module, signature: Signature, architecture: Architecture) -> fx.GraphModule:
    """The graph of `model` over the tensors of `small` (the same modules, already cut), for any number of examples.

    Leaf modules become calls of modules under their old names, so that `train()` and `eval()` switch norms and dropout,
    and state-dict keys stay; stochastic depth, and dropout inside attention and between recurrent layers, come back in training.
    Integers that count channels become the counts that stay.
    """
    marks, vanishing = marked(model, signature.example)
    dynamic = infer(marks, signature.example, dynamic_batch=True)
    dropouts = attention_dropout(model, signature.example, dynamic.program.graph)
    return assemble(model, small, dynamic, dynamic.mask(architecture), vanishing, dropouts)


def assemble(
    model: nn.Module,
    small: nn.Module,
    captured: Signature,
    keep: np.ndarray,
    vanishing: Collection[str] = (),
    dropouts: Mapping[fx.Node, float] = MappingProxyType({}),
) -> fx.GraphModule:
    """The graph that a signature of `model` holds, for the number of examples that it was captured with, over the tensors of `small`.

    `vanishing`: modules that drop whole paths in training. `dropouts`: the probabilities inside attentions.
    """
    root = copy.deepcopy(small)
    modules = dict(root.named_modules())
    graph, values = fx.Graph(), {}
    for name, tensor in captured.program.constants.items():
        _hold(root, name, tensor.detach().clone())
    constants = {(c.node, c.argument, c.index): int(rows(c.dim, keep, 0).sum()) for c in captured.constants}
    orders = {turned.node: (number, turned) for number, turned in enumerate(captured.shuffles)}
    inside = {node for turned in captured.shuffles for node in _steps(turned)}
    names = list(inspect.signature(model.forward).parameters)  # an example of keywords may have another order
    for node in sorted(captured.program.inputs, key=lambda one: names.index(one.name) if one.name in names else len(names)):
        values[node] = graph.placeholder(node.name)
    for node in captured.program.graph.nodes:
        if node in values or node in inside or node in captured.program.tensors or packet(node) in _CHECKS:
            continue
        load = lambda n: values[n] if n in values else _load(graph, values, n, captured)  # noqa: E731
        if node.op == "output":
            results: Any = fx.map_arg(tuple(node.args[0]), load)
            graph.output(tree_unflatten(results, captured.program.tree) if captured.program.tree is not None else results)
            continue
        path = owner(node)
        if node in orders:
            number, turned = orders[node]
            name = _free(root, f"order{number}")
            root.register_buffer(name, _order(turned, keep), persistent=False)
            index = graph.get_attr(name)
            values[node] = graph.call_function(aten.index_select.default, (load(turned.source), turned.along, index))
        elif path in vanishing or _is_leaf(node, modules.get(path)):
            values[node] = graph.call_module(path, (load(node.args[0]),))
        elif packet(node) is aten.batch_norm and _has_statistics(modules.get(path)):
            _lift_norm(root, modules[path], path, len(shape(node)))
            values[node] = graph.call_module(path, (load(node.args[0]),))
        elif (dropout := dropout_of(node)) is not None:
            values[node] = graph.call_module(_added(root, path, "dropout", dropout), (load(node.args[0]),))
        else:
            target, args, kwargs = _rewrite(node, constants)
            args, kwargs = fx.map_arg(args, load), fx.map_arg(kwargs, load)
            if node in dropouts:
                causal, grouped = args[5:6] == (True,), bool(kwargs.get("enable_gqa"))
                attention = Attention(dropouts[node], kwargs["scale"], causal or bool(kwargs.get("is_causal")), grouped)
                values[node] = graph.call_module(_added(root, path, "attention", attention), args[:4])
            elif is_recurrent(node, modules.get(path)):
                values.update(recurrent(graph, path, node, args))
            else:
                values[node] = graph.call_function(target, args, kwargs)
    modes = {path: module.training for path, module in root.named_modules()}
    built = fx.GraphModule(root, graph, class_name=f"Sliced{type(model).__name__}")
    _carry(root, built)
    for path, module in built.named_modules():
        module.training = modes.get(path, small.training)  # a norm that was frozen in eval mode stays so
    return built


def _free(holder: nn.Module, name: str) -> str:
    """This name, or the first of `name_2`, `name_3`, ... that the module doesn't have."""
    return next(one for one in chain([name], (f"{name}_{i}" for i in count(2))) if not hasattr(holder, one))


def _added(root: nn.Module, owner: str, name: str, module: nn.Module) -> str:
    """The path of a module that is put beside what calls it, and has its mode."""
    holder = root.get_submodule(owner)
    name = _free(holder, name)
    holder.add_module(name, module.train(holder.training))
    return f"{owner}.{name}" if owner else name


def _hold(root: nn.Module, path: str, tensor: torch.Tensor) -> None:
    """A tensor that the code made, or that a module has as a plain attribute, as a buffer that is not saved."""
    parent, _, name = path.rpartition(".")
    module = root.get_submodule(parent)
    module.__dict__.pop(name, None)
    module.register_buffer(name, tensor, persistent=False)


def _carry(root: nn.Module, built: nn.Module) -> None:
    """Weights that the graph doesn't use belong to the network all the same: what was saved can be loaded."""
    for path, module in root.named_modules(remove_duplicate=False):
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            holder = built
            for atom in path.split(".") if path else ():
                if not hasattr(holder, atom):
                    holder.add_module(atom, nn.Module())
                holder = getattr(holder, atom)
            if tensor is None or hasattr(holder, name):
                continue
            if isinstance(tensor, nn.Parameter):
                holder.register_parameter(name, tensor)
            else:
                holder.register_buffer(name, tensor, persistent=name not in module._non_persistent_buffers_set)


def _steps(turned: Shuffle) -> list[fx.Node]:
    """The reshape, the turn and the copies before the node that ends a shuffle."""
    found, node = [], turned.node.all_input_nodes[0]
    while node is not turned.source:
        found.append(node)
        node = node.all_input_nodes[0]
    return found


def _order(turned: Shuffle, keep: np.ndarray) -> torch.Tensor:
    """Where the kept channels, in their new order, stand among the kept ones in their old order."""
    kept = rows(turned.before, keep, len(turned.order))
    place = np.cumsum(kept) - 1
    return torch.from_numpy(np.array([place[i] for i in turned.order if kept[i]], dtype=np.int64))


def _is_leaf(node: fx.Node, module: nn.Module | None) -> bool:
    if getattr(module, "padding_mode", "zeros") != "zeros":  # the graph pads before it
        return False
    if isinstance(module, nn.modules.instancenorm._InstanceNorm) and not module.affine and not module.track_running_stats:
        return False  # it only remembers a number of channels, and would warn
    return type(module) in _LEAVES and packet(node) in (
        _LEAVES[type(module)],
        aten.relu_ if type(module) is nn.ReLU else None,
    )


def _has_statistics(module: Any) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None


def _lift_norm(root: nn.Module, module: Any, path: str, rank: int) -> None:
    """A norm whose module does more (activation, dropout) as an ordinary norm: the rest of it is in the graph."""
    kind = {4: nn.BatchNorm2d, 5: nn.BatchNorm3d}.get(rank, nn.BatchNorm1d)
    norm = kind(len(module.running_mean), module.eps, module.momentum)
    for name in ("weight", "bias"):
        norm.register_parameter(name, getattr(module, name))
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        norm.register_buffer(name, getattr(module, name))
    for name, child in module.named_children():  # the graph may call its activation by name
        norm.add_module(name, child)
    root.set_submodule(path, norm.train(module.training))


def _rewrite(node: fx.Node, constants: Counts) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """The operator and arguments of a node with the counts that stay."""
    target: Any = node.target
    args: tuple[Any, ...] = tuple(node.args)
    called, kwargs = packet(node), {**node.kwargs}
    viewed = getattr(target, "_overloadname", "") == "dtype"  # as another dtype
    if called in SIZED and not viewed:  # every static size written out, so that the one that depends on the batch is left to torch
        sizes = [constants.get((node, 1, d), size) for d, size in enumerate(_static(node))]
        return aten.reshape.default, (args[0], sizes), {}
    if called in _SPLIT and any((node, 1, i) in constants for i in range(len(shapes(node)))):
        along: Any = args[2] if len(args) > 2 else kwargs.get("dim", 0)
        dim = along % len(shape(node))
        sizes = [constants.get((node, 1, i), one[dim]) for i, one in enumerate(shapes(node))]
        return aten.split_with_sizes.default, (args[0], sizes, dim), {}
    if called is aten.expand:  # -1: as it was
        lead = len(args[1]) - len(shape(args[0]))
        same = {d for d in range(lead, len(args[1])) if shape(args[0])[d - lead] == shape(node)[d]}
        counts = _counted(node, 1, args[1], constants)
        return target, (args[0], [-1 if d in same and (node, 1, d) in constants else size for d, size in enumerate(counts)]), kwargs
    kwargs.pop("output_size", None)  # of a repetition; it follows
    if called is _ATTENTION:
        kwargs["scale"] = kwargs.get("scale") or shape(args[0])[-1] ** -0.5
    if called in (aten.slice, aten.narrow):
        args = args + (None,) * (4 - len(args))
    args = tuple(_counted(node, i, argument, constants) for i, argument in enumerate(args))
    return target, args, kwargs


def _static(node: fx.Node) -> list[int]:
    """The sizes of a node, -1 where one depends on the batch."""
    return [size if isinstance(size, int) else -1 for size in node.meta["val"].shape]


def _counted(node: fx.Node, position: int, argument: Any, constants: Counts) -> Any:
    if not isinstance(argument, (list, tuple)):
        return constants.get((node, position, None), argument)
    return [constants.get((node, position, i), value) if isinstance(value, int) else value for i, value in enumerate(argument)]


def _load(graph: fx.Graph, values: dict[fx.Node, fx.Node], node: fx.Node, signature: Signature) -> fx.Node:
    values[node] = graph.get_attr(signature.program.tensors[node])
    return values[node]
