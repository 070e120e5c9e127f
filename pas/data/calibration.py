"""What methods look at before the first step, where that isn't the task's own images: those of another set, or noise."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pas.data.augment import Augment
from pas.data.loader import generator, make_loader
from pas.data.sets import Data

STREAM = 0xCA11B
"""Keeps the draws of noise apart from those of the augmentation."""


def noise(data: Data, batch_size: int, seed: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of N(0, 1) images in the shape of a set's, as many as it has to train on; all labels are 0 and mean nothing."""
    for number, first in enumerate(range(0, len(data.train), batch_size)):
        count = min(batch_size, len(data.train) - first)
        images = torch.randn(count, data.channels, data.image_size, data.image_size, generator=generator(seed, STREAM, number))
        yield images.to(device), torch.zeros(count, dtype=torch.int64, device=device)


def foreign(found: Data, data: Data, batch_size: int, seed: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of another set's training images (read at the size of this one's), normalised as their own; labels are 0 and mean nothing.

    Colours become their mean where this set's images are grey, and grey becomes every colour.
    """
    plain = Augment(0, False, 0)
    loader = make_loader(
        found, found.train, batch_size=batch_size, train=True, augment=plain, shared=False, seed=seed, device=device, workers=0
    )
    for x, y in loader.epoch(0):
        if found.channels != data.channels:
            x = x.mean(1, keepdim=True).expand(-1, data.channels, -1, -1).contiguous()
        yield x, torch.zeros_like(y)
