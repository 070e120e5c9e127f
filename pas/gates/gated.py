"""A network whose channels can be switched, without a multiplication on any feature map.

Switching a channel off where it is read is the same as zeroing the weights that read it, and weights are much smaller than
feature maps. So the gates, a 0/1 vector over all channels, are folded into the readers' weights at every forward pass; the
network itself is untouched and runs with these weights through `torch.func.functional_call`.

For ``y = sum_i (w[o, i] b[i]) x[i]`` the gradient of gate i is ``sum_o w[o, i] dL/d(w b)[o, i]``: equal to what a gate on the
feature map gets, summed over its readers, and alive for a closed channel, whose x is still computed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from pas.axes.signature import Signature
from pas.gates.binary import binary
from pas.surgery.forms import Reader, readers


class Gates(nn.Module):
    """One scalar for every channel that may be dropped; `value` (n,) is the parameter, `free` (n,) its channels."""

    free: Tensor

    def __init__(self, channels: int, free: np.ndarray, initial: float = 1.0) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("free", torch.from_numpy(free))
        self.value = nn.Parameter(torch.full((len(free),), initial))

    def forward(self) -> Tensor:
        """0/1 over all channels (channels,): those that are never dropped are 1."""
        everything = torch.ones(self.channels, device=self.value.device, dtype=self.value.dtype)
        return everything.index_copy(0, self.free, binary(self.value))


class Gated(nn.Module):
    """`backbone` with the gates folded into what reads each channel. Same inputs and outputs as the backbone.

    With all gates open it computes exactly what the backbone computes.
    """

    def __init__(self, backbone: nn.Module, signature: Signature, gates: Gates) -> None:
        super().__init__()
        self.backbone = backbone
        self.gates = gates
        self._folds = _plan(backbone, signature, set(gates.free.tolist()))
        for index, (_, _, table) in enumerate(self._folds):
            self.register_buffer(f"_table{index}", table, persistent=False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return functional_call(self.backbone, self.folded(), args, kwargs)

    def folded(self) -> dict[str, Tensor]:
        """The weights that the forward pass sees, by name; all others are the backbone's own."""
        gates = self.gates()
        found: dict[str, Tensor] = {}
        for index, (name, dim, _) in enumerate(self._folds):
            weight = found[name] if name in found else self.backbone.get_parameter(name)
            open_ = gates[getattr(self, f"_table{index}")]
            open_ = open_.prod(1) if open_.dim() > 1 else open_
            found[name] = weight * open_.to(weight.dtype).view((1,) * dim + (-1,) + (1,) * (weight.dim() - dim - 1))
        return found


def _plan(backbone: nn.Module, signature: Signature, free: set[int]) -> list[tuple[str, int, Tensor]]:
    """Readers of at least one free channel, with their tables: (n,) where each element belongs to one channel, else (n, k)."""

    def touched(reader: Reader) -> bool:
        return not free.isdisjoint(reader.table.ravel().tolist())

    plan = []
    for reader in filter(touched, readers(backbone, signature)):
        table = torch.from_numpy(np.ascontiguousarray(reader.table))
        plan.append((reader.parameter, reader.dim, table[:, 0] if table.shape[1] == 1 else table))
    return plan
