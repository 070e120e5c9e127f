"""Batches of a split. Order and augmentation are pure functions of (seed, epoch, batch): a resumed run sees the same.

Under torch.distributed every rank walks over the same global batches and takes its share of each.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from pas.data.augment import Augment, augmented
from pas.data.folder import Item, folder_batches
from pas.data.sets import AnySplit, Data, FolderSplit, Split


class Loader(Protocol):
    """What training and evaluation need: a number of batches, and the batches of an epoch from any place on."""

    def __len__(self) -> int: ...

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]: ...


@dataclass(frozen=True)
class BatchOrder:
    """Which images make batch b of epoch e, over all ranks."""

    size: int
    batch_size: int
    seed: int
    drop_last: bool
    shuffle: bool

    def __len__(self) -> int:
        return self.size // self.batch_size if self.drop_last else -(-self.size // self.batch_size)

    def batches(self, epoch: int, start: int) -> Iterator[tuple[int, Tensor]]:
        """This rank's share of the batches from `start` on: (number of the batch, indices)."""
        shuffled = self.shuffle
        order = torch.randperm(self.size, generator=generator(self.seed, epoch)) if shuffled else torch.arange(self.size)
        rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        for batch in range(start, len(self)):
            yield batch, order[batch * self.batch_size : (batch + 1) * self.batch_size][rank::world]


class MemoryLoader:
    """Normalised and augmented batches of a split held in memory (on `device`), made in a few tensor operations."""

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        augment: Augment,
        seed: int,
        device: torch.device | str,
        drop_last: bool,
        shuffle: bool,
    ) -> None:
        self.order = BatchOrder(len(split), batch_size, seed, drop_last, shuffle)
        self.augment, self.seed, self.device = augment, seed, torch.device(device)
        self.images, self.labels = split.images.to(device), split.labels.to(device)
        # (x / 255 - mean) / std in one multiplication and one addition
        self.scale = (1 / (255 * torch.tensor(std, device=device))).view(-1, 1, 1)
        self.shift = (-torch.tensor(mean, device=device) / torch.tensor(std, device=device)).view(-1, 1, 1)

    def __len__(self) -> int:
        return len(self.order)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of `epoch` from number `start` on: float32 (N, C, H, W), int64 (N,)."""
        for batch, indices in self.order.batches(epoch, start):
            indices = indices.to(self.device, non_blocking=True)
            x, keep = augmented(self.images[indices], self.augment, generator(self.seed, epoch, batch))
            x = torch.addcmul(self.shift, x.float(), self.scale)
            yield x if keep is None else x * keep, self.labels[indices]


class FolderLoader:
    """Batches of image files, decoded and augmented by worker processes with timm's transforms.

    `workers` processes decode; 0 decodes in this one. Training images are cut and flipped at random as for ImageNet
    (`augment.flip`; the other fields of `augment` are for small images and ignored), others cut from the centre.
    """

    def __init__(
        self,
        split: FolderSplit,
        *,
        image_size: int,
        batch_size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        augment: Augment | None,
        seed: int,
        device: torch.device | str,
        drop_last: bool,
        shuffle: bool,
        workers: int,
    ) -> None:
        self.order = BatchOrder(len(split), batch_size, seed, drop_last, shuffle)
        self.seed, self.device = seed, torch.device(device)
        self._batches = folder_batches(split, image_size, mean, std, augment, workers, self.device.type == "cuda")

    def __len__(self) -> int:
        return len(self.order)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of `epoch` from number `start` on: float32 (N, C, H, W), int64 (N,)."""
        batches = (
            [Item(index, stable_seed(self.seed, epoch, index)) for index in indices.tolist()]
            for _, indices in self.order.batches(epoch, start)
        )
        for x, y in self._batches(batches):
            yield x.to(self.device, non_blocking=True), y.to(self.device, non_blocking=True)


def make_loader(
    data: Data,
    split: AnySplit,
    *,
    batch_size: int,
    train: bool,
    augment: Augment,
    seed: int,
    device: torch.device | str,
    workers: int,
) -> MemoryLoader | FolderLoader:
    """The loader that fits the split. For training it shuffles, augments and drops a last batch that isn't full.

    A training split smaller than a batch makes one smaller batch an epoch.
    """
    common: dict[str, Any] = {
        "batch_size": min(batch_size, len(split)) if train else batch_size,
        "mean": data.mean,
        "std": data.std,
        "seed": seed,
        "device": device,
        "drop_last": train,
        "shuffle": train,
    }
    if isinstance(split, FolderSplit):
        choice = augment if train else None
        return FolderLoader(split, image_size=data.image_size, augment=choice, workers=workers, **common)
    return MemoryLoader(split, augment=augment if train else Augment(0, False, 0), **common)


def stable_seed(*parts: int) -> int:
    """A 63-bit number that depends on the parts only, the same in every process and release."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*parts: int) -> torch.Generator:
    """A CPU generator seeded by the parts; drawn on the CPU, the numbers are the same for every device."""
    return torch.Generator().manual_seed(stable_seed(*parts))
