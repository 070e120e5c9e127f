"""A network whose channels can be switched, without a multiplication on any feature map.

Switching a channel off where it is read is the same as zeroing the weights that read it, and weights are much smaller
than feature maps. So the gates, a 0/1 vector over all channels, are folded into the readers' weights at every forward
pass; the network itself is untouched and runs with these weights through `torch.func.functional_call`.

For ``y = sum_i (w[o, i] b[i]) x[i]`` the gradient of gate i is ``sum_o w[o, i] dL/d(w b)[o, i]``: equal to what a gate
on the feature map gets, summed over its readers, and alive for a closed channel, whose x is still computed.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from pas.axes.signature import Signature
from pas.gates.binary import binary
from pas.surgery.forms import Reader, readers

Fold = Callable[[Tensor, Tensor, int], Tensor]
"""(weight, gates along one of its dimensions, that dimension) -> the weight that the network runs with."""
CHUNK = 1 << 16
"""Elements of a weight that are multiplied at a time on a CPU: few enough to stay in its cache."""


def fold(weight: Tensor, gates: Tensor, dim: int) -> Tensor:
    """``weight * gates`` along one dimension, for gates (weight.shape[dim],) that are exactly 0 or 1.

    On a GPU and under a compiler the plain product: what looks at gates there waits for them.
    """
    if weight.device.type == "cpu" and not torch.compiler.is_compiling():
        folded: Tensor = _Fold.apply(weight, gates, dim)
        return folded
    return weight * _along(gates, weight, dim)


def scale(weight: Tensor, gates: Tensor, dim: int) -> Tensor:
    """``weight * gates`` along one dimension, for gates of any value."""
    return weight * _along(gates, weight, dim)


def through(weight: Tensor, gates: Tensor, dim: int) -> Tensor:
    """``weight * gates`` along one dimension for gates that are 0 or 1, whose gradient the weight gets as if all of them were open."""
    passed: Tensor = _Through.apply(weight, gates, dim)
    return passed


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, gates: Tensor, dim: int) -> Tensor:
        ctx.save_for_backward(weight, gates)
        ctx.dim = dim
        if weight.device.type == "cpu" and not torch.compiler.is_compiling() and bool((gates == 1).all()):
            return weight.view_as(weight)  # as in `_Fold`: exactly the backbone
        return weight * _along(gates, weight, dim)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        weight, gates = ctx.saved_tensors
        return gradient, _dot(gradient, weight, ctx.dim).to(gates.dtype) if ctx.needs_input_grad[1] else None, None


class _Fold(torch.autograd.Function):
    """The product on a CPU, where it costs time: open gates copy nothing (a copy elsewhere in memory may even give other last bits), the
    gradient of the weight is the incoming one with the closed slices zeroed, and that of the gates is summed without a temporary of the
    weight's size.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, gates: Tensor, dim: int) -> Tensor:
        ctx.save_for_backward(weight, gates)
        ctx.dim = dim
        return weight.view_as(weight) if bool((gates == 1).all()) else weight * _along(gates, weight, dim)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        weight, gates = ctx.saved_tensors
        of_gates = _dot(gradient, weight, ctx.dim).to(gates.dtype) if ctx.needs_input_grad[1] else None
        if not ctx.needs_input_grad[0]:
            return None, of_gates, None
        if gradient.numel() <= CHUNK:  # where one call is all that counts
            return gradient * _along(gates, gradient, ctx.dim), of_gates, None
        closed = torch.nonzero(gates == 0).flatten()
        if len(closed):  # not in place: the terms of a sum of weights all get the same gradient
            gradient = gradient.index_fill(ctx.dim, closed, 0)
        return gradient, of_gates, None


def _along(gates: Tensor, weight: Tensor, dim: int) -> Tensor:
    return gates.to(weight.dtype).view((1,) * dim + (-1,) + (1,) * (weight.dim() - dim - 1))


def _dot(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """The sum of ``a * b`` over all dimensions but one, (a.shape[dim],)."""
    size = a.shape[dim]
    if a.dim() == 1:
        return a * b
    if dim != 1 or a.numel() <= CHUNK:
        return (a * b).sum([d for d in range(a.dim()) if d != dim])
    a, b = a.flatten(1), b.flatten(1)
    rows = max(1, CHUNK // a.shape[1])
    total = sum((x * y).sum(0) for x, y in zip(a.split(rows), b.split(rows), strict=True))
    return total.view(size, -1).sum(1)


class Gates(nn.Module):
    """One scalar for every channel that may be dropped; `value` (n,) is the parameter, `free` (n,) its channels.

    With `noise` above 0, gates in training mode are stochastic: logistic noise of that scale is added to the values before
    they meet the threshold, so that a gate is open with probability ``sigmoid((value - 1/2) / noise)``.
    """

    free: Tensor

    def __init__(self, channels: int, free: np.ndarray, noise: float = 0.0) -> None:
        super().__init__()
        self.channels = channels
        self.noise = noise
        self.register_buffer("free", torch.from_numpy(free))
        self.value = nn.Parameter(torch.ones(len(free)))

    def forward(self) -> Tensor:
        """0/1 over all channels (channels,): those that are never dropped are 1."""
        if not (self.noise and self.training):
            return self.settled()
        uniform = torch.rand_like(self.value).clamp(1e-6, 1 - 1e-6)
        return self._everywhere(binary(self.value + self.noise * uniform.logit()))

    def settled(self) -> Tensor:
        """The same without noise."""
        return self._everywhere(binary(self.value))

    def _everywhere(self, gates: Tensor) -> Tensor:
        everything = torch.ones(self.channels, device=self.value.device, dtype=self.value.dtype)
        return everything.index_copy(0, self.free, gates)


class Gated(nn.Module):
    """`backbone` with the gates folded into what reads each channel. Same inputs and outputs as the backbone.

    With all gates open it computes exactly what the backbone computes. `fold`: how a weight and its gates become the weight that is run:
    for gates that are 0 or 1 (`fold`), for those of any value (`scale`), or with all of the weight's gradient (`through`).
    """

    _table: Tensor

    def __init__(self, backbone: nn.Module, signature: Signature, gates: Gates, fold: Fold = fold) -> None:
        super().__init__()
        self.backbone = backbone
        self.gates = gates
        self._fold = fold
        self._folds = _plan(backbone, signature, set(gates.free.tolist()))
        self._also = other_places(backbone, {name for name, _, _ in self._folds})
        tables = [table.flatten() for _, _, table in self._folds]
        self.register_buffer("_table", torch.cat([torch.zeros(0, dtype=torch.long), *tables]), persistent=False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        folded = self.folded()
        folded |= {place: folded[name] for place, name in self._also.items()}
        # torch ties by name, and would leave the folded weight of a layer that has two names in it
        return functional_call(self.backbone, folded, args, kwargs, tie_weights=False)

    def folded(self, gates: Tensor | None = None) -> dict[str, Tensor]:
        """The weights that the forward pass sees, or would see with other `gates` (channels,), by name; the rest are the backbone's own."""
        values = self.gates() if gates is None else gates
        everywhere = values[self._table].split([table.numel() for _, _, table in self._folds])
        found: dict[str, Tensor] = {}
        for (name, dim, table), mine in zip(self._folds, everywhere, strict=True):
            weight = found[name] if name in found else attrgetter(name)(self.backbone)
            open_ = mine.view(table.shape).prod(1) if table.dim() > 1 else mine
            found[name] = self._fold(weight, open_, dim)
        return found


def other_places(backbone: nn.Module, names: set[str]) -> dict[str, str]:
    """Where else these weights are: place -> name. A module is visited once, however many names it has."""
    first: dict[int, str] = {}
    found = {}
    for path, module in backbone.named_modules():
        for key, tensor in [*module._parameters.items(), *module._buffers.items()]:
            place = f"{path}.{key}" if path else key
            if tensor is not None and place != (name := first.setdefault(id(tensor), place)) and name in names:
                found[place] = name
    return found


def _plan(backbone: nn.Module, signature: Signature, free: set[int]) -> list[tuple[str, int, Tensor]]:
    """Readers of at least one free channel, with their tables: (n,) where each element belongs to one channel, else (n,
    k).
    """

    def touched(reader: Reader) -> bool:
        return reader.table is not None and not free.isdisjoint(reader.table.ravel().tolist())

    plan = []
    for reader in filter(touched, readers(backbone, signature)):
        table = torch.from_numpy(np.ascontiguousarray(reader.table))
        plan.append((reader.parameter, reader.dim, table[:, 0] if table.shape[1] == 1 else table))
    return plan
