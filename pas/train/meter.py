"""Running means of loss and accuracy, kept on the device so that a step never waits for them."""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Meter:
    """Sums over the batches since the last `reset`; `read` and `finite` alone wait for the device."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(2, device=device)  # loss times images, hits
        self.images = 0
        self.counts_hits = True

    def add(self, loss: Tensor, hits: Tensor | None, images: int) -> None:
        """Add a batch: its mean loss, and how many were right (None where that has no meaning)."""
        self.counts_hits = hits is not None
        right = loss.new_zeros(()) if hits is None else hits
        self.sums += torch.stack((loss.detach() * images, right))
        self.images += images

    def read(self, all_ranks: bool = False) -> dict[str, float | None]:
        """Mean loss and top-1 in percent, of this process or of all (then every rank must call)."""
        sums = torch.cat((self.sums, self.sums.new_tensor([self.images])))
        if all_ranks and dist.is_initialized():
            dist.all_reduce(sums)
        loss, hits, images = sums.tolist()
        if not images:
            return {"loss": math.nan, "top1": None}
        return {"loss": loss / images, "top1": 100 * hits / images if self.counts_hits else None}

    def finite(self) -> bool:
        """Whether every loss since the last `reset` was a finite number."""
        return bool(self.sums.isfinite().all())

    def reset(self) -> None:
        self.sums.zero_()
        self.images = 0

    def state_dict(self) -> dict[str, Any]:
        return {"sums": self.sums, "images": self.images}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.sums.copy_(state_dict["sums"])
        self.images = state_dict["images"]
