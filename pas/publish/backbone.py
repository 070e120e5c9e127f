"""How to make a dense network again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pas.models.entry import from_entry

# arguments of timm.create_model that read files or the network
OUTSIDE = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir")


@dataclass(frozen=True)
class Backbone:
    """A name of `pas.models` (or the entry of a person's own network), its arguments and its interfaces."""

    name: str
    args: dict[str, Any]
    num_classes: int
    in_chans: int
    image_size: int

    def check(self) -> None:
        """Raises ValueError unless every field is of its type and in a range that a network can have.

        Arguments are numbers and names of layers: what would read other files, or say where to load weights from, is refused.
        """
        for name, most in (("num_classes", 10**6), ("in_chans", 10**4), ("image_size", 10**4)):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= most:
                raise ValueError(f"backbone.{name}={value!r}: must be a whole number from 1 to {most}")
        if not isinstance(self.name, str) or not isinstance(self.args, dict):
            raise ValueError("backbone: must have a name and arguments")
        for name in self.args:
            if name in OUTSIDE:
                raise ValueError(f"backbone.args.{name}: a bundle may not set it")

    def own(self, entry: str | None) -> nn.Module | None:
        """The dense network by a person's own code; None without an `entry`."""
        shape = {"num_classes": self.num_classes, "in_chans": self.in_chans}
        return None if entry is None else from_entry(entry, {**shape, **self.args})

    def example(self) -> Tensor:
        """An input of the right shape (1, C, H, W)."""
        return torch.zeros(1, self.in_chans, self.image_size, self.image_size)
