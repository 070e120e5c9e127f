"""Group optimal brain surgeon: remove channels and let the layers that read them make up for it, without training.

A layer ``y = W X + b`` loses the input channels S and keeps R. With ``H = X X' + damping`` (X with a constant row for the bias),

    W_R <- W H_:R (H_RR)^-1 = W_R - W_S ([H^-1]_SS)^-1 [H^-1]_SR ,    cost(S) = tr( W_S ([H^-1]_SS)^-1 W_S' ) ,

which is the least-squares answer, so the order of removals doesn't matter. OBSPA (Wang et al., https://arxiv.org/abs/2403.18955) sums such
costs over the layers of a group and updates weights column by column as SparseGPT does; the exact answer is never worse in this objective.
The rows that make removed channels go without compensation: there is none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from pas.axes.capture import Example, Program, arguments, norm_behind, packet
from pas.axes.ids import Table
from pas.axes.signature import Signature, rows
from pas.surgery.forms import Reader, readers
from pas.surgery.fuse import fuse
from pas.surgery.gram import CONVOLUTIONS, Geometry, geometry, moments
from pas.surgery.layerwise import captured, run_layers

aten = torch.ops.aten


@dataclass(frozen=True)
class Layer:
    """A call of a linear layer or a convolution whose weight can be refitted: of its own, and used once.

    `table`: the type of what it reads, of a group's input channels. `bias`: the parameter that takes up the mean of what was removed, or
    `mean`: the running mean of the batch norm that directly follows, where there is no bias. Neither: the fit has no constant row.
    """

    node: fx.Node
    weight: str
    table: Table
    bias: str | None
    mean: str | None

    @property
    def constant(self) -> bool:
        return (self.bias or self.mean) is not None


def layers(model: nn.Module, signature: Signature, program: Program) -> list[Layer]:
    """Those of `program`, the graph of a fused network, that read an axis that can be sliced and can be refitted.

    Recurrent and transposed layers, products written without a layer, and weights that are shared or computed can't.
    """
    uses = program.uses()
    alone = lambda node: program.tensors.get(node) if uses[program.tensors.get(node, "")] == 1 else None  # noqa: E731
    prunable = np.zeros(signature.channels, dtype=bool)
    for axis in signature.prunable:
        prunable[axis.start : axis.start + axis.size] = True
    tables = {r.parameter: r.table for r in readers(model, signature) if r.dim == 1 and r.table is not None and prunable[r.table].any()}
    found = []
    for node in program.graph.nodes:
        if packet(node) not in (*CONVOLUTIONS, aten.linear):
            continue
        _, weight, bias, *rest = arguments(node, 7 if packet(node) in CONVOLUTIONS else 3)
        name = alone(weight)
        table = None if name is None else tables.get(name)
        if name is None or table is None or any(isinstance(argument, fx.Node) for argument in rest):
            continue
        found.append(Layer(node, name, table, alone(bias), None if bias is not None else _mean_behind(node, alone)))
    return found


def _mean_behind(node: fx.Node, alone: Any) -> str | None:
    """The running mean of the batch norm that alone reads a node, where nothing else uses it."""
    norm = norm_behind(node)
    found: str | None = None if norm is None else alone(arguments(norm, 4)[3])
    return found


def reconstruct(model: nn.Module, signature: Signature, mask: np.ndarray, batches: Iterable[Example], *, damping: float) -> nn.Module:
    """The fused form of a network, at its full size, in which what reads the removed channels is zero there and refitted elsewhere.

    `mask`: the channels that stay (channels,). `batches`: inputs alone, like the signature's example, of any number of examples; they are
    all held at once. `damping`: added to the diagonal of ``X X'``, in shares of its mean over the kept channels (not to that of the
    constant row); at least the rounding error.

    One pass over the network: X is what the layers before it give that are refitted already, and H is summed in fp64 from products in the
    network's own format. Where nothing that a layer reads is removed, its weights stay bit for bit. Where there is no bias but a batch
    norm, its running mean moves instead, which is the same. What can't be refitted (see `layers`) is masked. Along an axis that isn't
    `exact` X is that of the mask. Batch norms otherwise keep their statistics (`pas.train.recalibrate`).
    """
    model = fuse(model)
    program = captured(model, signature.example)
    tensors = {**dict(model.named_buffers()), **dict(model.named_parameters())}
    refitted = {layer.weight: layer for layer in layers(model, signature, program)}
    visits = {}
    for reader in readers(model, signature):
        layer = refitted.get(reader.parameter)
        keep = rows(reader.table, mask, tensors[reader.parameter].shape[reader.dim])
        if layer is None or reader.dim != 1:
            _switch_off(tensors, reader, keep)
        elif not keep.all():
            visits[layer.node] = partial(_refit, layer, tensors, keep, damping)
    run_layers(model, program, batches, visits)
    return model


def _switch_off(tensors: dict[str, Tensor], reader: Reader, keep: np.ndarray) -> None:
    weight = tensors[reader.parameter]
    with torch.no_grad():
        weight.index_fill_(reader.dim, torch.from_numpy(np.flatnonzero(~keep)).to(weight.device), 0)


def _refit(layer: Layer, tensors: dict[str, Tensor], keep: np.ndarray, damping: float, inputs: list[Tensor]) -> None:
    """``W_R += E X_R' (H_RR)^-1``, with ``E = W_S X_S`` what the removed channels gave: equal to ``W H_:R (H_RR)^-1``."""
    space, weight = geometry(layer.node), tensors[layer.weight]
    kept, removed = (torch.from_numpy(np.flatnonzero(which)).to(weight.device) for which in (keep, ~keep))
    lost = weight[:, removed] if space.groups == 1 else weight.index_fill(1, kept, 0)
    weight.index_fill_(1, removed, 0)
    if not len(kept):
        return
    found = moments(inputs, space, kept, partial(_given, layer.node, lost, removed), len(weight) // space.groups)
    gram, cross = found.centred() if layer.constant else (found.gram, found.cross)
    change = torch.cholesky_solve(cross.mT, torch.linalg.cholesky(found.damped(gram, damping))).mT  # (groups, o, d)
    weight[:, kept] += change.flatten(0, 1).view(len(weight), len(kept), *weight.shape[2:]).to(weight)
    shift = ((found.e - (change @ found.x[:, :, None])[:, :, 0]) / found.columns).flatten()
    if layer.bias is not None:
        tensors[layer.bias] += shift.to(weight)
    elif layer.mean is not None:
        tensors[layer.mean] -= shift.to(weight)


def _given(node: fx.Node, weight: Tensor, removed: Tensor, x: Tensor) -> Tensor:
    """What a layer without bias gives from these input channels alone (groups: from all, by a weight that is zero elsewhere)."""
    target: Any = node.target
    rest = {name: value for name, value in node.kwargs.items() if name not in ("weight", "bias")}
    along = -1 if packet(node) is aten.linear else 1
    part = x if weight.shape[1] != len(removed) else x.index_select(along, removed)
    result: Tensor = target(part, weight, None, *node.args[3:], **rest)
    return result


def block_cost(model: nn.Module, signature: Signature, batches: Iterable[Example], *, damping: float) -> np.ndarray:
    """What it costs to remove each channel alone (channels,), summed over all that read it; NaN where nothing that can be refitted does.

    ``w_c ([H^-1]_cc)^-1 w_c'`` of the dense network, with the block of all columns that need channel c: the squared change, per example, of
    what the readers give, after their best answer to it. From one inverse a layer. Arguments as those of `reconstruct`.
    """
    model = fuse(model)
    program = captured(model, signature.example)
    batches = list(batches)
    tensors = dict(model.named_parameters())
    total = np.full(signature.channels, np.nan)

    def add(layer: Layer, inputs: list[Tensor]) -> None:
        costs = _costs(layer, tensors[layer.weight].detach(), damping, inputs)
        for channel, cost in costs.items():
            total[channel] = np.nansum([total[channel], cost / sum(map(len, inputs))])

    run_layers(model, program, batches, {layer.node: partial(add, layer) for layer in layers(model, signature, program)})
    return total


def _costs(layer: Layer, weight: Tensor, damping: float, inputs: list[Tensor]) -> dict[int, float]:
    """channel -> what it costs this layer."""
    space, per_group = geometry(layer.node), weight.shape[1]
    found = moments(inputs, space, torch.arange(per_group, device=weight.device))
    gram = found.damped(found.centred()[0] if layer.constant else found.gram, damping)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    flat = weight.double().view(space.groups, -1, gram.shape[1])
    costs: dict[int, float] = {}
    for channels, columns in _blocks(layer.table, space):
        for some, places in zip(torch.from_numpy(channels).split(64), torch.from_numpy(columns).to(weight.device).split(64), strict=True):
            block = inverse[:, places[:, :, None], places[:, None, :]]  # (groups, channels, m, m)
            read = flat[:, :, places].movedim(1, 3)  # (groups, channels, m, o)
            root = torch.linalg.cholesky(block)
            cost = torch.linalg.solve_triangular(root, read, upper=False).square().sum((0, 2, 3))
            costs |= dict(zip(some.tolist(), cost.tolist(), strict=True))
    return costs


def _blocks(table: Table, space: Geometry) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Channels (n,) whose columns are equally many, and these columns (n, m)."""
    inputs, channels = np.nonzero(table)[0], table[table > 0]
    order = np.argsort(channels, kind="stable")
    names, counts = np.unique(channels, return_counts=True)
    each = np.split(inputs[order], np.cumsum(counts)[:-1])
    for size in np.unique(counts):
        these = np.stack([one for one, count in zip(each, counts, strict=True) if count == size])
        columns = these[:, :, None] * space.taps + np.arange(space.taps)
        yield names[counts == size], columns.reshape(len(these), -1)
