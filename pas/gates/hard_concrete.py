"""The hard concrete gates of L0 regularisation (Louizos, Welling, Kingma, https://arxiv.org/abs/1712.01312, section 2.2).

With u uniform in (0, 1):

    s = sigmoid((log u - log(1 - u) + log alpha) / beta),    z = min(1, max(0, s (zeta - gamma) + gamma))       (eq. 10, 11)
    P(z > 0) = sigmoid(log alpha - beta log(-gamma / zeta))                                                     (eq. 12)
    test time:  z = min(1, max(0, sigmoid(log alpha) (zeta - gamma) + gamma))                                   (eq. 13)

so that a gate is exactly 0 or 1 with a probability above zero, and still differentiable.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from pas.gates.chance import Chance

GAMMA, ZETA, BETA = -0.1, 1.1, 2 / 3
LIMIT = math.log(100)
"""log alpha stays between minus and plus this, as in the authors' code: gates that are further out get no gradient back."""


class HardConcrete(Chance):
    """`value` (n,): log alpha."""

    def __init__(self, channels: int, free: np.ndarray, axis: np.ndarray) -> None:
        super().__init__(channels, free, axis, LIMIT)

    def probability(self) -> Tensor:
        """P(z > 0) of each free channel (n,)."""
        return torch.sigmoid(self.value - BETA * math.log(-GAMMA / ZETA))

    def quiet(self) -> Tensor:
        """The gates at test time."""
        return _stretched(torch.sigmoid(self.value))

    def sampled(self) -> Tensor:
        return _stretched(torch.sigmoid((self.logistic() + self.value) / BETA))

    def kept(self) -> Tensor:
        """Those that aren't exactly 0 at test time."""
        return (self.quiet() > 0).to(self.value.dtype)


def _stretched(s: Tensor) -> Tensor:
    return (s * (ZETA - GAMMA) + GAMMA).clamp(0, 1)
