"""The differentiable top-k of Differentiable Model Scaling (https://arxiv.org/abs/2405.07194, section 3.1).

With c_i the importance of a channel among the N of its axis and a the axis's prune ratio, the one thing that is learned:

    c'_i = (1/N) sum_j [c_i >= c_j],    m_i = sigmoid(lambda N (c'_i - a)).

Ranks are uniform, so a is the share of the axis that is switched off, whatever the importances are, and about 1/lambda ranks
around the threshold tell it where to go.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from pas.gates.soft import Soft


def ranks(value: Tensor, axis: Tensor, sizes: Tensor) -> Tensor:
    """How many values of the same axis are not larger, (n,): from 1 to N, equal ones alike. `axis` (n,): ascending; `sizes` (axes,)."""
    order = torch.argsort(value, stable=True)
    order = order[torch.argsort(axis[order], stable=True)]  # axis after axis, each ascending
    ordered, owner = value[order], axis[order]
    new = torch.ones_like(order)
    new[1:] = ((ordered[1:] != ordered[:-1]) | (owner[1:] != owner[:-1])).long()
    group = new.cumsum(0) - 1  # values that are equal
    place = torch.arange(len(order), device=order.device)
    last = torch.zeros_like(order).scatter_reduce(0, group, place, "amax")[group]
    before = sizes.cumsum(0) - sizes
    found = torch.empty_like(value)
    found[order] = (last + 1 - before[owner]).to(value.dtype)
    return found


class TopK(Soft):
    """`value` (n,) holds the importances c and isn't trained: its gradient is that of the multipliers m, for whoever observes it. `ratio`
    (axes,) is trained. `steep`: lambda.
    """

    def __init__(self, channels: int, free: np.ndarray, axis: np.ndarray, steep: float) -> None:
        super().__init__(channels, free, axis)
        self.steep = steep
        self.ratio = nn.Parameter(torch.zeros(len(self.sizes)))

    def logits(self) -> Tensor:
        """lambda N (c' - a), the log-odds of the mask (n,)."""
        rank = ranks(self.value.detach(), self.axis, self.sizes)
        return self.steep * (rank - (self.sizes * self.ratio)[self.axis])

    def quiet(self) -> Tensor:
        return self.logits().sigmoid() + (self.value - self.value.detach())

    def masks(self) -> Tensor:
        """m over all channels (channels,), with a gradient for the ratios alone."""
        return self._everywhere(self.logits().sigmoid())

    def kept(self) -> Tensor:
        """m >= 1/2."""
        return (self.logits() >= 0).to(self.value.dtype)
