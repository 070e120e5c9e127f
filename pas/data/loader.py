"""Batches of a split. Order and augmentation are pure functions of (seed, epoch, batch): a resumed run sees the same.

Of several processes each walks over the same global batches and takes its share of them, pixel for pixel what one
process would make of these images.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from pas import distributed
from pas.data.augment import Augment, augmented
from pas.data.folder import Item, folder_batches
from pas.data.sets import AnySplit, Data, FolderSplit, Split
from pas.errors import PasError


class Loader(Protocol):
    """What training and evaluation need: a number of batches, and the batches of an epoch from any place on."""

    def __len__(self) -> int: ...

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]: ...


@dataclass(frozen=True)
class BatchOrder:
    """Which images make batch b of epoch e, and which of them are this process's.

    `shared`: the processes divide each batch among them; otherwise every one has all of it.
    """

    size: int
    batch_size: int
    seed: int
    drop_last: bool
    shuffle: bool
    shared: bool = True

    def __len__(self) -> int:
        return self.size // self.batch_size if self.drop_last else -(-self.size // self.batch_size)

    def batches(self, epoch: int, start: int) -> Iterator[tuple[int, Tensor]]:
        """The whole batches from `start` on: (number of the batch, indices)."""
        shuffled = self.shuffle
        order = torch.randperm(self.size, generator=generator(self.seed, epoch)) if shuffled else torch.arange(self.size)
        for batch in range(start, len(self)):
            yield batch, order[batch * self.batch_size : (batch + 1) * self.batch_size]

    def share(self) -> slice:
        """The places of this process's images in every batch; in a last batch that isn't full there may be none."""
        return slice(distributed.rank(), None, distributed.world()) if self.shared else slice(None)


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
        shared: bool = True,
    ) -> None:
        self.order = BatchOrder(len(split), batch_size, seed, drop_last, shuffle, shared)
        self.augment, self.seed, self.device = augment, seed, torch.device(device)
        self.images, self.labels = split.images.to(device), split.labels.to(device)
        # (x / 255 - mean) / std in one multiplication and one addition
        self.scale = (1 / (255 * torch.tensor(std, device=device))).view(-1, 1, 1)
        self.shift = (-torch.tensor(mean, device=device) / torch.tensor(std, device=device)).view(-1, 1, 1)

    def __len__(self) -> int:
        return len(self.order)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of `epoch` from number `start` on: float32 (N, C, H, W), int64 (N,)."""
        share = self.order.share()
        for batch, everybodys in self.order.batches(epoch, start):
            indices = everybodys[share].to(self.device, non_blocking=True)
            if not len(indices):
                continue
            chance = generator(self.seed, epoch, batch)
            x, keep = augmented(self.images[indices], self.augment, chance, share, len(everybodys))
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
        shared: bool = True,
    ) -> None:
        self.order = BatchOrder(len(split), batch_size, seed, drop_last, shuffle, shared)
        self.seed, self.device = seed, torch.device(device)
        self._batches = folder_batches(split, image_size, mean, std, augment, workers, self.device.type == "cuda")

    def __len__(self) -> int:
        return len(self.order)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of `epoch` from number `start` on: float32 (N, C, H, W), int64 (N,)."""
        share = self.order.share()
        batches = (
            [Item(index, stable_seed(self.seed, epoch, index)) for index in indices[share].tolist()]
            for _, indices in self.order.batches(epoch, start)
            if len(indices[share])
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
    shared: bool = True,
) -> MemoryLoader | FolderLoader:
    """The loader that fits the split. For training it shuffles, augments and drops a last batch that isn't full.

    A training split smaller than a batch makes one smaller batch an epoch. `batch_size` counts the images of all
    processes; unless `shared`, every process gets every batch whole.

    Raises PasError when a batch to train on can't be divided evenly among the processes.
    """
    batch_size = min(batch_size, len(split)) if train else batch_size
    processes = distributed.world()
    if train and shared and batch_size % processes:
        raise PasError(
            f"a batch of {batch_size} images can't be divided evenly among {processes} processes: choose a batch_size that can"
        )
    common: dict[str, Any] = {
        "batch_size": batch_size,
        "mean": data.mean,
        "std": data.std,
        "seed": seed,
        "device": device,
        "drop_last": train,
        "shuffle": train,
        "shared": shared,
    }
    if isinstance(split, FolderSplit):
        choice = augment if train else None
        return FolderLoader(split, image_size=data.image_size, augment=choice, workers=workers, **common)
    return MemoryLoader(split, augment=augment if train else Augment(0, False, 0), **common)


def plain_loader(data: Data, split: AnySplit, batch_size: int) -> MemoryLoader | FolderLoader:
    """The images of a split in their order as tests see them, nothing cropped at random, mirrored or blanked; read by this process, on the
    CPU.
    """
    return make_loader(data, split, batch_size=batch_size, train=False, augment=Augment(0, False, 0), seed=0, device="cpu", workers=0)


def stable_seed(*parts: int) -> int:
    """A 63-bit number that depends on the parts only, the same in every process and release."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*parts: int) -> torch.Generator:
    """A CPU generator seeded by the parts; drawn on the CPU, the numbers are the same for every device."""
    return torch.Generator().manual_seed(stable_seed(*parts))
