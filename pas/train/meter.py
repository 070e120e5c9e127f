"""Running means of loss and accuracy, kept on the device so that a step never waits for them."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pas import distributed


class Meter:
    """Sums over the batches since the last `reset`, of every process its own; only `gather` waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(3, device=device)  # loss times images, hits, images
        self.everywhere = torch.zeros(distributed.world(), 3)
        self.counts_hits = True

    def add(self, loss: Tensor, hits: Tensor | None, images: int) -> None:
        """Add a batch: its mean loss, and how many were right (None where that has no meaning)."""
        self.counts_hits = hits is not None
        right = loss.new_zeros(()) if hits is None else hits
        self.sums += torch.stack((loss.detach() * images, right, self.sums.new_full((), images)))

    def gather(self) -> bool:
        """Learn the sums of all processes, for `read` and `state_dict`; whether every loss was a finite number.

        Each process has to call, and each gets the same answer.
        """
        self.everywhere = distributed.gathered(self.sums).cpu()
        return bool(self.everywhere.isfinite().all())

    def read(self) -> dict[str, float | None]:
        """Mean loss and top-1 in percent over all processes, as they were at the last `gather`."""
        loss, hits, images = self.everywhere.sum(0).tolist()
        if not images:
            return {"loss": math.nan, "top1": None}
        return {"loss": loss / images, "top1": 100 * hits / images if self.counts_hits else None}

    def reset(self) -> None:
        """Begin anew."""
        self.sums.zero_()

    def state_dict(self) -> dict[str, Any]:
        """The sums of each process (processes, 3), as they were at the last `gather`."""
        return {"sums": self.everywhere}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Every process takes its own sums back; the leader takes them all when there were more or fewer processes."""
        saved = state_dict["sums"]
        if len(saved) == distributed.world():
            self.sums.copy_(saved[distributed.rank()])
        else:
            self.sums.copy_(saved.sum(0) * distributed.leads())
