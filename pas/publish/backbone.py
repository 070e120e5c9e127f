"""How to make a dense network again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Backbone:
    """A name of `pas.models` (or the entry of a person's own network), its arguments and its interfaces."""

    name: str
    args: dict[str, Any]
    num_classes: int
    in_chans: int
    image_size: int

    def example(self) -> Tensor:
        """An input of the right shape (1, C, H, W)."""
        return torch.zeros(1, self.in_chans, self.image_size, self.image_size)
