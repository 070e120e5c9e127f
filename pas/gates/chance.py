"""Gates that are open with a learned probability."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pas.gates.soft import Soft

SMALLEST = 1e-6


class Chance(Soft):
    """`value` (n,): log alpha, which stays between minus and plus `limit`, beyond which a gate would hardly be drawn again."""

    def __init__(self, channels: int, free: np.ndarray, axis: np.ndarray, limit: float) -> None:
        super().__init__(channels, free, axis)
        self.limit = limit

    def probability(self) -> Tensor:
        """Of each free channel that its gate isn't 0 (n,)."""
        raise NotImplementedError

    def expected(self) -> Tensor:
        """The probabilities over all channels (channels,): 1 for those that are never dropped."""
        return self._everywhere(self.probability())

    def logistic(self) -> Tensor:
        """``log u - log(1 - u)`` with u uniform in (0, 1), for each free channel (n,)."""
        return torch.rand_like(self.value).clamp(SMALLEST, 1 - SMALLEST).logit()

    def clamp(self) -> None:
        """Bring log alpha back between its limits."""
        with torch.no_grad():
            self.value.clamp_(-self.limit, self.limit)
