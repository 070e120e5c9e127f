"""The group of a channel: its slices of the parameters of the form at hand, and sums over all groups at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pas.axes.ids import Dim
from pas.axes.signature import Signature, Slot
from pas.surgery.forms import identity_input, typed_blocks


@dataclass(frozen=True)
class Slice:
    """Element i of dimension `dim` of a parameter belongs to the channel ``channels[i]`` (n,), a position in the vector over all channels.

    `reads`: whether the parameter sums over the channels there; otherwise it makes them, or passes them on (depth-wise kernels, norms).
    """

    parameter: str
    dim: int
    channels: np.ndarray
    reads: bool


def slices(model: nn.Module, signature: Signature) -> list[Slice]:
    """Every slice of every parameter, in the form at hand: of a block that is in its training form, those of its branches.

    An element that belongs to several channels (a group and a place in it) has a slice of each.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    reading = set(signature.readers)
    found = []
    for name, dims in signature.dims.items():
        for d, table in enumerate(dims):
            found += _columns(name, d, table, Slot(name, d) in reading)
    for item in typed_blocks(model, signature).values():
        for conv, norm in item.block.branches:
            found += _columns(names[id(conv.weight)], 0, item.writes, False) + _columns(names[id(conv.weight)], 1, item.reads, True)
            for vector in (conv.bias, norm.weight, norm.bias):
                found += [] if vector is None else _columns(names[id(vector)], 0, item.writes, False)
        if item.block.identity is not None:
            weight, bias = (names[id(vector)] for vector in (item.block.identity.weight, item.block.identity.bias))
            found += _columns(weight, 0, item.writes, False) + _columns(bias, 0, item.writes, False)
            if item.reads is not None:
                found += _columns(weight, 0, identity_input(item), True)
    present = set(names.values())  # of the fused form, buffers and the convolutions of blocks that have branches aren't
    return [one for one in found if one.parameter in present]


def _columns(parameter: str, dim: int, table: Dim, reads: bool) -> list[Slice]:
    return [] if table is None else [Slice(parameter, dim, np.ascontiguousarray(column), reads) for column in table.T]


class Groups:
    """Sums over, and products with, the slices of all channels at once. `channels`: how many there are in all.

    What belongs to no channel that can be dropped counts for position 0 or for another one that is always kept.
    """

    def __init__(self, model: nn.Module, parts: Iterable[Slice], channels: int) -> None:
        by_parameter: dict[str, list[Slice]] = {}
        for part in parts:
            by_parameter.setdefault(part.parameter, []).append(part)
        tensors = dict(model.named_parameters())
        self.channels = channels
        self.parameters = [tensors[name] for name in by_parameter]
        self._dims = [tuple(part.dim for part in listed) for listed in by_parameter.values()]
        self._index = torch.from_numpy(np.concatenate([part.channels for listed in by_parameter.values() for part in listed]))
        self._lengths = [len(part.channels) for listed in by_parameter.values() for part in listed]

    def sum(self, tensors: Sequence[Tensor]) -> Tensor:
        """Of tensors of the parameters' shapes the sum over each channel's group (channels,), differentiable."""
        pieces = [piece for tensor, dims in zip(tensors, self._dims, strict=True) for piece in _sums(tensor, dims)]
        found = pieces[0].new_zeros(self.channels)
        return found.index_add(0, self._on(found.device), torch.cat(pieces))

    def dot(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        """The inner product of each channel's group in a and in b (channels,)."""
        return self.sum([x * y for x, y in zip(a, b, strict=True)])

    def spread(self, values: Tensor) -> list[list[Tensor]]:
        """Of each parameter, for each of its slices, the values (channels,) in a shape that multiplies the parameter."""
        parts = iter(values[self._on(values.device)].split(self._lengths))
        return [
            [next(parts).view((1,) * d + (-1,) + (1,) * (parameter.dim() - d - 1)) for d in dims]
            for parameter, dims in zip(self.parameters, self._dims, strict=True)
        ]

    def size(self) -> Tensor:
        """How many numbers each group has (channels,)."""
        return self.sum([torch.ones_like(parameter) for parameter in self.parameters])

    def _on(self, device: torch.device) -> Tensor:
        if self._index.device != device:
            self._index = self._index.to(device)
        return self._index


def _sums(tensor: Tensor, dims: tuple[int, ...]) -> list[Tensor]:
    """The sums over all dimensions but one, for each of these."""
    if tensor.dim() == 1:
        return [tensor] * len(dims)
    if tensor.dim() > 2 and max(dims) < 2:
        tensor = tensor.flatten(2).sum(2)  # once for both
    return [tensor.sum([other for other in range(tensor.dim()) if other != d]) for d in dims]
