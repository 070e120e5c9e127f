"""Capture a network as one graph of ATen operators (`torch.export`, non-strict)."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from io import StringIO
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import TreeSpec

from pas.axes.uncapturable import open_ended, refused
from pas.errors import PasError

BATCH = 3
"""Examples in the captured batch: 1 would be confused with a dimension that broadcasts, 2 with halves and pairs."""


@dataclass(frozen=True)
class Program:
    """A captured network: its graph and what each placeholder stands for.

    `tensors` maps a placeholder to the name of the parameter or buffer, `inputs` lists the placeholders of the
    network's own inputs, `outputs` the nodes that it returns, `tree` how these are nested. `tied` maps every further
    name of a shared parameter to its first one.
    """

    graph: fx.Graph
    tensors: dict[fx.Node, str]
    inputs: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]
    parameters: frozenset[str]
    tree: TreeSpec | None = None
    tied: dict[str, str] = field(default_factory=dict)
    constants: dict[str, Tensor] = field(default_factory=dict)

    def uses(self) -> Counter[str]:
        """How many operators take each parameter or buffer, by name."""
        return Counter(self.tensors[source] for node in self.graph.nodes for source in node.all_input_nodes if source in self.tensors)


Example = Tensor | tuple[Any, ...] | Mapping[str, Any]


def as_arguments(example: Example) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """An example as the positional and keyword arguments of a call."""
    if isinstance(example, Mapping):
        return (), dict(example)
    return (tuple(example) if isinstance(example, (tuple, list)) else (example,)), {}


def rebatch(example: Example, batch: int) -> Example:
    """The first example of every tensor, repeated `batch` times, so that nothing depends on the batch size that was
    handed in.
    """

    def one(value: Any) -> Any:
        return (
            value[:1].expand(batch, *value.shape[1:]).contiguous()
            if isinstance(value, Tensor) and value.dim()
            else value
        )

    if isinstance(example, Mapping):
        return {key: one(value) for key, value in example.items()}
    if isinstance(example, (tuple, list)):
        return tuple(one(value) for value in example)
    return one(example)


def capture(model: nn.Module, example: Example, *, dynamic_batch: bool = False) -> Program:
    """Export `model` in eval mode. With `dynamic_batch` the graph accepts any number of examples.

    Raises PasError when the network's Python code can't be captured, or a tensor's size depends on what is in another one; it names the
    line and says what to do.
    """
    args, kwargs = as_arguments(rebatch(example, BATCH))
    shapes = None
    if dynamic_batch:
        spec = lambda v: {0: torch.export.Dim.DYNAMIC} if isinstance(v, Tensor) and v.dim() else None  # noqa: E731
        shapes = {
            **dict(zip(_argument_names(model), map(spec, args), strict=False)),
            **{k: spec(v) for k, v in kwargs.items()},
        }
    forget(model)  # what it remembers would be constants of the graph
    try:
        with in_mode(model, training=False), silent():
            exported = torch.export.export(model, args, kwargs, strict=False, dynamic_shapes=shapes)
    except Exception as error:  # the exporter raises many kinds; each means that this network can't be captured
        raise PasError(refused(model, args, kwargs, error)) from None
    finally:
        forget(model)  # what it made of the exporter's tensors
    _inline(exported.graph_module)
    for node in exported.graph.nodes:
        if any(size is None for sizes in _known_shapes(node) for size in sizes):
            raise PasError(open_ended(type(model).__name__, node, place(node)))
    signature = exported.graph_signature
    kinds = torch.export.graph_signature.InputKind
    by_name = {node.name: node for node in exported.graph.nodes}
    first: dict[int, str] = {}
    tied = {}
    for name, tensor in [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]:
        if first.setdefault(id(tensor), name) != name:
            tied[name] = first[id(tensor)]
    tensors, inputs = {}, []
    for spec in signature.input_specs:
        node = by_name[spec.arg.name]
        if spec.kind is kinds.USER_INPUT:
            inputs.append(node)
        else:
            tensors[node] = tied.get(spec.target, spec.target)
    known = {tied.get(name, name) for name in [*signature.parameters, *signature.buffers]}
    made = {name: exported.constants[name] for name in tensors.values() if name not in known and name in exported.constants}
    outputs = [by_name[spec.arg.name] for spec in signature.output_specs if getattr(spec.arg, "name", "") in by_name]
    return Program(exported.graph, tensors, tuple(inputs), tuple(outputs), frozenset(signature.parameters),
                   exported.call_spec.out_spec, tied, made)  # fmt: skip


def forget(model: nn.Module) -> nn.Module:
    """The network itself, without what it remembers of passes in eval mode: LeViT and TinyViT keep attention biases until `train()`."""
    with in_mode(model, training=True):
        return model


@contextmanager
def in_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """The network in one mode; afterwards each of its modules is in its own again."""
    modes = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _inline(module: fx.GraphModule) -> None:
    """`with torch.autocast` and `with torch.no_grad` inside a forward become calls of subgraphs; their nodes take the calls' places."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.op != "call_function" or getattr(node.target, "__name__", "") not in _WRAPPERS:
            continue
        inner = next(arg for arg in node.args if isinstance(arg, fx.Node) and arg.op == "get_attr")
        operands = node.args[node.args.index(inner) + 1 :]
        submodule: Any = module.get_submodule(str(inner.target))
        _inline(submodule)
        places = [one for one in submodule.graph.nodes if one.op == "placeholder"]
        with graph.inserting_before(node):
            result: Any = graph.graph_copy(submodule.graph, dict(zip(places, operands, strict=True)))
        results = result if isinstance(result, (tuple, list)) else (result,)
        for user in list(node.users):
            user.replace_all_uses_with(results[user.args[1]])
            graph.erase_node(user)
        graph.erase_node(node)
        if not inner.users:
            graph.erase_node(inner)


_WRAPPERS = ("wrap_with_autocast", "wrap_with_set_grad_enabled")


@contextmanager
def silent() -> Iterator[None]:
    """The exporter warns, and logs and prints the graph so far before it raises; the exception says what there is to say."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _argument_names(model: nn.Module) -> list[str]:
    import inspect

    return list(inspect.signature(model.forward).parameters)


def shape(node: fx.Node) -> tuple[int, ...]:
    """The sizes of a node's (first) tensor; a symbolic size gives the size that it was captured with."""
    value = node.meta["val"]
    return _sizes(value[0] if isinstance(value, (tuple, list)) else value)


def shapes(node: fx.Node) -> list[tuple[int, ...]]:
    """The sizes of all tensors that a node returns."""
    value = node.meta["val"]
    return [_sizes(one) for one in value] if isinstance(value, (tuple, list)) else [_sizes(value)]


def count(argument: Any) -> int:
    """An integer argument; one that depends on the number of examples is what it was captured with."""
    return argument.meta["val"].node.hint if isinstance(argument, fx.Node) else argument


def _known_shapes(node: fx.Node) -> list[tuple[int | None, ...]]:
    """The sizes of all tensors that a node makes; None for one that no example can tell."""
    values = node.meta.get("val")
    values = values if isinstance(values, (tuple, list)) else (values,)
    return [_sizes(value) for value in values if isinstance(value, Tensor)]


def _sizes(value: Any) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else size.node.hint for size in value.shape)


def owner(node: fx.Node) -> str:
    """The path of the module whose forward made this node ('' for the network itself)."""
    stack = node.meta.get("nn_module_stack") or {}
    return list(stack.values())[-1][0] if stack else ""


def packet(node: fx.Node) -> Any:
    """The operator of a call, whichever overload."""
    return getattr(node.target, "overloadpacket", node.target)


def arguments(node: fx.Node, count: int) -> list[Any]:
    """The first `count` arguments of a call by position, keywords put in their places, absent ones None."""
    overload: Any = node.target
    names = [argument.name for argument in overload._schema.arguments]
    values = list(node.args) + [None] * (len(names) - len(node.args))
    for key, value in node.kwargs.items():
        values[names.index(key)] = value
    return (values + [None] * count)[:count]


def norm_behind(node: fx.Node) -> fx.Node | None:
    """The batch norm that alone reads a node, if one does."""
    users = list(node.users)
    return users[0] if len(users) == 1 and packet(users[0]) is torch.ops.aten.batch_norm else None


def place(node: fx.Node) -> str:
    """An operator and where it stands, for a person."""
    name = str(packet(node))
    return f"{name} in {owner(node) or 'the network'}"
