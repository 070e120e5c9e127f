"""Gates that are not 0 or 1 while they train, and that can be held at 0 or 1 at the end."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pas.gates.gated import Gates


class Soft(Gates):
    """A multiplier for every channel that may be dropped, of any value; to be folded into weights with `pas.gates.gated.scale`.

    A technique says what the multipliers are (`quiet`, and `sampled` where they are random) and which channels are open
    (`kept`). `axis` (n,): the number of the axis of each free channel. Once `hold` was called, all of them are the held 0/1
    values; their parameters then get gradients of zero, not none, as several processes need it.
    """

    axis: Tensor
    sizes: Tensor
    held: Tensor
    fixed: Tensor

    def __init__(self, channels: int, free: np.ndarray, axis: np.ndarray) -> None:
        super().__init__(channels, free)
        self.register_buffer("axis", torch.from_numpy(axis), persistent=False)
        self.register_buffer("sizes", torch.bincount(self.axis), persistent=False)
        self.register_buffer("held", torch.tensor(False))
        self.register_buffer("fixed", torch.ones(len(free)))

    def quiet(self) -> Tensor:
        """The multipliers (n,) without any randomness."""
        raise NotImplementedError

    def sampled(self) -> Tensor:
        """The multipliers (n,) of a step of training."""
        return self.quiet()

    def kept(self) -> Tensor:
        """Which channels are open, exactly 0 or 1 (n,)."""
        raise NotImplementedError

    def forward(self) -> Tensor:
        """The multipliers over all channels (channels,): those that are never dropped are 1."""
        return self._everywhere(self._unless_held(self.sampled())) if self.training else self.still()

    def still(self) -> Tensor:
        """The same without any randomness."""
        return self._everywhere(self._unless_held(self.quiet()))

    def settled(self) -> Tensor:
        """Which channels are open, exactly 0 or 1 over all channels (channels,)."""
        return self._everywhere(self._unless_held(self.kept()))

    def hold(self, mask: np.ndarray) -> None:
        """From now on be exactly this mask over all channels (channels,)."""
        self.held.fill_(True)
        self.fixed.copy_(torch.from_numpy(mask).to(self.fixed)[self.free])

    def _unless_held(self, gates: Tensor) -> Tensor:
        return torch.where(self.held, self.fixed.to(gates.dtype), gates)
