"""Decoding image files in worker processes, every image with its own seed."""

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from pas.data.augment import Augment
from pas.data.load import CROP
from pas.data.sets import FolderSplit
from pas.errors import PasError


class Item(NamedTuple):
    """An image of the split and the seed of its augmentation: the worker that decodes it doesn't matter."""

    image: int
    seed: int


class _Files(Dataset["tuple[Tensor, int] | PasError"]):
    def __init__(self, split: FolderSplit, transform: Callable[[Image.Image], Tensor]) -> None:
        self.split, self.transform = split, transform

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, item: Item) -> tuple[Tensor, int] | PasError:
        path = self.split.paths[item.image]
        try:
            with Image.open(path) as file:
                image = file.convert("RGB")
        except Exception as error:  # PIL answers a damaged file with many kinds
            # handed on, not raised: an exception from a worker arrives as its whole traceback
            return PasError(f"{path} can't be read as an image ({type(error).__name__}): mend it or take it out of the set")
        # the transforms draw from the global generators: seed them for this image, and put them back for the caller
        python_state = random.getstate()
        with torch.random.fork_rng(devices=[]):
            random.seed(item.seed)
            torch.default_generator.manual_seed(item.seed)
            x = self.transform(image)
        random.setstate(python_state)
        return x, int(self.split.labels[item.image])


class _Batches:
    """A batch sampler whose batches are set anew before every epoch, so that the workers can stay."""

    batches: Iterable[list[Item]] = ()

    def __iter__(self) -> Iterator[list[Item]]:
        return iter(self.batches)


def _collate(items: list[tuple[Tensor, int] | PasError]) -> Any:
    return next((item for item in items if isinstance(item, PasError)), None) or default_collate(items)


def folder_batches(
    split: FolderSplit,
    image_size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    augment: Augment | None,
    workers: int,
    pin_memory: bool,
) -> Callable[[Iterable[list[Item]]], Iterator[tuple[Tensor, Tensor]]]:
    """A function from the items of the batches to the batches. `augment` None cuts from the centre, for evaluation.

    The batches raise PasError, naming the file, when an image can't be decoded.
    """
    transform = create_transform(
        image_size,
        is_training=augment is not None,
        hflip=0.5 if augment is not None and augment.flip else 0.0,
        color_jitter=0.0,
        interpolation="bilinear",
        crop_pct=CROP,
        mean=mean,
        std=std,
    )
    sampler = _Batches()
    loader = DataLoader(
        _Files(split, transform),
        batch_sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        collate_fn=_collate,
        generator=torch.Generator(),  # the loader's own draw must not move the global generator
    )

    def batches(items: Iterable[list[Item]]) -> Iterator[tuple[Tensor, Tensor]]:
        sampler.batches = items
        for batch in loader:
            if isinstance(batch, PasError):
                raise batch
            yield batch

    return batches
