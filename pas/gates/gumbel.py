"""Straight-through Gumbel gates: binary in the forward pass, concrete in the backward pass.

The binary concrete distribution (Maddison et al., https://arxiv.org/abs/1611.00712, appendix B; Jang et al., https://arxiv.org/abs/1611.01144,
section 2.2 for the straight-through estimator). With u uniform in (0, 1), log alpha learned and tau the temperature:

    s = sigmoid((log u - log(1 - u) + log alpha) / tau),    b = [s > 1/2],    db/ds = 1,    P(b = 1) = sigmoid(log alpha).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pas.gates.binary import binary
from pas.gates.chance import Chance

LIMIT = 8.0
"""log alpha stays between minus and plus this: beyond, a gate would never be drawn again."""


class Gumbel(Chance):
    """`value` (n,): log alpha. `tau` (): the temperature, 1 until someone lowers it."""

    tau: Tensor

    def __init__(self, channels: int, free: np.ndarray, axis: np.ndarray) -> None:
        super().__init__(channels, free, axis, LIMIT)
        self.register_buffer("tau", torch.tensor(1.0))

    def probability(self) -> Tensor:
        """P(b = 1) of each free channel (n,)."""
        return self.value.sigmoid()

    def quiet(self) -> Tensor:
        return self.kept()

    def sampled(self) -> Tensor:
        return binary(torch.sigmoid((self.logistic() + self.value) / self.tau))

    def kept(self) -> Tensor:
        """The likelier of the two values."""
        return (self.value > 0).to(self.value.dtype)
