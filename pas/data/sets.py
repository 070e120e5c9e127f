"""What a data set is once it is read: images as bytes in memory, or a list of files to decode on the way."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Images held in memory: uint8 (N, C, H, W), and their classes: int64 (N,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, indices: Tensor) -> "Split":
        """The split that holds only these images, in this order."""
        return Split(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class FolderSplit:
    """Image files, decoded batch by batch, and their classes: int64 (N,)."""

    paths: tuple[str, ...]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, indices: Tensor) -> "FolderSplit":
        """The split that holds only these files, in this order."""
        return FolderSplit(tuple(self.paths[i] for i in indices.tolist()), self.labels[indices])


AnySplit = Split | FolderSplit


@dataclass(frozen=True)
class Data:
    """A data set. `val` is cut from the training images and never from the test set; it may be empty.

    `mean` and `std` are those of the channels, for images scaled to 0..1. Colour sets take ImageNet's, which
    pretrained networks expect.
    """

    name: str
    num_classes: int
    channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: AnySplit
    val: AnySplit
    test: AnySplit


def stratified(labels: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Choose `count` indices so that every class has its share (within one), and return (chosen, rest), both sorted.

    The choice is a pure function of the arguments.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    by_class = order[labels[order].argsort(stable=True)]
    # every n-th of a list sorted by class (and random within a class) is a share of each class
    picks = ((torch.arange(count, dtype=torch.float64) + 0.5) * (len(labels) / max(count, 1))).long()
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[by_class[picks]] = True
    return chosen.nonzero().flatten(), (~chosen).nonzero().flatten()
