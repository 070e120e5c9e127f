"""What rules talk to: the types of all nodes so far, and the facts that they record for cost, masks and slicing."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx

from pas.axes.batched import batched
from pas.axes.capture import BATCH, Program, arguments, owner, place, shape
from pas.axes.ids import Dim, Ids, merge
from pas.axes.reshape import regroup

Type = tuple[Dim, ...]


@dataclass(frozen=True)
class Term:
    """A number of multiply-adds: `coefficient` times the kept elements of each dimension (`sizes` where it is
    untyped).
    """

    coefficient: int
    dims: tuple[Dim, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Constant:
    """An integer in the graph that counts channels: position `index` of argument `argument` of a node is the size of
    `dim`. An `index` of None: the argument itself.
    """

    node: fx.Node
    argument: int
    index: int | None
    dim: Dim


@dataclass(frozen=True)
class Shuffle:
    """A node that gives the channels of `source` along `along` another order: its element i is element ``order[i]`` of `before`."""

    node: fx.Node
    source: fx.Node
    along: int
    order: tuple[int, ...]
    before: Dim


class Trace:
    """The state of one pass over a captured graph.

    `types`: one table (or None) a dimension of each node; `many`: the same of each result of a node that returns several. `readers`:
    parameters that sum over an axis. `makers`: parameters (slices along a dimension) whose zeros switch off an axis that no parameter
    reads. `pieces`: runs of channels of which each must keep at least one. `roles`: what dimensions are, by those that use them.
    `batched`: nodes that depend on the number of examples. `written`: tensors that are written to through a view, so that what made them
    doesn't say what is in them.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.ids = Ids()
        self.types: dict[fx.Node, Type] = {}
        self.terms: list[Term] = []
        self.constants: list[Constant] = []
        self.readers: list[tuple[str, int]] = []
        self.makers: list[tuple[str, int]] = []
        self.pieces: list[Dim] = []
        self.roles: list[tuple[Dim, str]] = []
        self.shuffles: list[Shuffle] = []
        self.many: dict[fx.Node, tuple[Type, ...]] = {}
        self.origins: dict[tuple[fx.Node, int], frozenset[tuple[str, int]] | None] = {}
        self.groups: dict[str, Dim] = {}
        self._position = {node: i for i, node in enumerate(program.graph.nodes)}
        self.batched = batched(program)
        self.written: set[fx.Node] = set()
        for node in program.graph.nodes:
            self._note_writing(node)

    def __getitem__(self, node: fx.Node) -> Type:
        """The type of a node. A parameter met for the first time gets fresh ids in every dimension that could be an
        axis.
        """
        if node not in self.types:
            name = self.program.tensors[node]
            # a tensor that the code made can't be sliced, whole numbers are places, not channels, and modules don't hold complex ones well
            free = name not in self.program.constants and node.meta["val"].is_floating_point()
            late = self._position[node] + len(self._position)  # what its channels are tied to has a better name
            self.types[node] = tuple(self.ids.fresh(n, name, late) if n > 1 and free else None for n in shape(node))
        return self.types[node]

    def _note_writing(self, node: fx.Node) -> None:
        """An operator that writes into a view changes the whole tensor, which later nodes read under its old name."""
        schema = getattr(node.target, "_schema", None)
        if schema is None or not schema.is_mutable or not isinstance(node.args[0], fx.Node):
            return
        views, base = [], node.args[0]
        while getattr(base.target, "is_view", False) or base.target is operator.getitem:
            views.append(base)
            base = base.all_input_nodes[0]
        if views:
            front = [base]
            while front:
                one = front.pop()
                self.written.add(one)
                front += [user for user in one.users if getattr(user.target, "is_view", False) or user.target is operator.getitem]

    # -- reading a call

    def arguments(self, node: fx.Node, count: int) -> list[Any]:
        """As `pas.axes.capture.arguments`."""
        return arguments(node, count)

    def named(self, node: fx.Node, name: str) -> Any:
        """The argument of this name, whichever overload was called; None where it is absent."""
        overload: Any = node.target
        names = [argument.name for argument in overload._schema.arguments]
        return self.arguments(node, len(names))[names.index(name)] if name in names else None

    def tensor_arguments(self, node: fx.Node) -> list[fx.Node]:
        """All arguments that are tensors, lists included."""
        return [arg for arg in node.all_input_nodes if isinstance(arg.meta.get("val"), torch.Tensor)]

    def tensor_name(self, node: fx.Node) -> str:
        """The parameter that a node is, or the node's own name when it is computed."""
        return self.program.tensors.get(node, node.name)

    # -- making and relating ids

    def fresh(self, size: int, node: fx.Node, role: str = "", *, last: bool = False) -> Dim:
        """New ids that are born at this node and named after its module; `last`: only if nothing that they are tied to has a name."""
        return self.ids.fresh(size, _label(node, role), self._position[node] + (len(self._position) if last else 0))

    def split(self, dim: Dim, n: int, m: int, node: fx.Node, roles: tuple[str, str]) -> tuple[Dim, Dim]:
        """`Ids.split` with labels that name this node's module."""
        return self.ids.split(dim, n, m, (_label(node, roles[0]), _label(node, roles[1])), place(node))

    def freeze(self, dims: Iterable[Dim], node: fx.Node, why: str) -> None:
        """Keep dimensions whole, because this node can't follow them; `why` in a few words for a person."""
        for dim in dims:
            self.ids.freeze(dim, f"{place(node)}: {why}")

    def constrain(self, tensor: fx.Node, dims: Type, node: fx.Node) -> None:
        """The dimensions of a parameter (or of a computed tensor) are these; one of size 1 may stand for all of them."""
        dims = tuple(None if size == 1 and dim is not None and len(dim) > 1 else dim for dim, size in zip(dims, shape(tensor), strict=True))
        if tensor in self.types or self.program.tensors.get(tensor) in (None, *self.program.constants):
            for have, want in zip(self[tensor], dims, strict=True):
                self.ids.tie(have, want, place(node))
        else:
            self.types[tensor] = dims

    def broadcast(self, nodes: Sequence[fx.Node], node: fx.Node, skip: int | None = None) -> Type:
        """Tie the dimensions that meet when tensors are broadcast together, except dimension `skip`."""
        return self.broadcast_dims([(self[other], shape(other)) for other in nodes], node, skip)

    def broadcast_dims(self, tensors: Sequence[tuple[Type, Sequence[int]]], node: fx.Node, skip: int | None = None) -> Type:
        """The same for types and sizes; a dimension of size 1 meets nothing."""
        rank = max(len(sizes) for _, sizes in tensors)
        out: list[Dim] = [None] * rank
        known = [False] * rank
        for dims, sizes in tensors:
            for d, (size, dim) in enumerate(zip(sizes, dims, strict=True), start=rank - len(sizes)):
                if d == skip or size == 1:
                    continue
                if known[d]:
                    self.ids.tie(out[d], dim, place(node))
                    out[d] = dim if out[d] is None else out[d]
                else:
                    out[d], known[d] = dim, True
        return tuple(out)

    def stack(self, pieces: Sequence[Dim], sizes: Sequence[int]) -> Dim:
        """The type of a concatenation; untyped pieces always stay."""
        if all(piece is None for piece in pieces):
            return None
        width = max(piece.shape[1] for piece in pieces if piece is not None)
        tables = []
        for piece, size in zip(pieces, sizes, strict=True):
            table = np.zeros((size, width), dtype=np.int64)
            if piece is not None:
                table[:, : piece.shape[1]] = piece
            tables.append(table)
        return np.concatenate(tables)

    def reshape(self, source: Type, old: Sequence[int], new: Sequence[int], node: fx.Node) -> Type:
        """Merges give products, splits factors."""
        out: list[Dim] = [None] * len(new)
        for olds, news in regroup(old, new):
            if not olds or not news:
                self.freeze([source[d] for d in olds], node, "no factor of one size is one of the other")
                continue
            merged, size = source[olds[0]], old[olds[0]]
            for d in olds[1:]:
                merged, size = merge(merged, source[d], size, old[d]), size * old[d]
            for d in news[:-1]:
                size //= new[d]
                out[d], merged = self.split(merged, new[d], size, node, (f"split{d}", f"split{d + 1}"))
            out[news[-1]] = merged
        return tuple(out)

    # -- recording facts

    def macs(self, node: fx.Node, coefficient: int, dims: Type, sizes: tuple[int, ...]) -> None:
        """Add multiply-adds of the whole captured batch; what depends neither on the network's inputs nor on something that its code made
        for as many examples is computed once for all of it.
        """
        once = node not in self.batched
        self.terms.append(Term(coefficient * BATCH if once else coefficient, dims, sizes))

    def constant(self, node: fx.Node, argument: int, index: int | None, dim: Dim) -> None:
        """This integer of the graph is the size of a dimension that may be sliced."""
        if dim is not None:
            self.constants.append(Constant(node, argument, index, dim))

    def role(self, dim: Dim, node: fx.Node, name: str) -> None:
        """What a dimension is for this node ("heads"): the name of an axis that a reshape has made."""
        if dim is not None:
            self.roles.append((dim, _label(node, name)))

    def sized(self, node: fx.Node, dims: Type) -> None:
        """The list of sizes that a reshape is given counts these dimensions; one that depends on the batch is left to torch."""
        for index, (dim, size) in enumerate(zip(dims, node.meta["val"].shape, strict=True)):
            self.constant(node, 1, index, dim if isinstance(size, int) else None)


def _label(node: fx.Node, role: str) -> str:
    path = owner(node).removesuffix(".reparam_conv") or node.name
    return f"{path}.{role}" if role else path
