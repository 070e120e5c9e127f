"""What all stages of one run share: configuration, data, device, and where their rows and states go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from pas.config import Config
from pas.criteria import Batch
from pas.data import Augment, Data, Loader, load, make_loader
from pas.data.calibration import foreign, noise
from pas.runs import Run
from pas.tasks import classification
from pas.tracking import Tracker
from pas.train.checkpoint import Checkpoint
from pas.train.recipe import Recipe

EVALUATION_BATCH = 500


@dataclass(frozen=True)
class Setting:
    """What all stages of one run share."""

    config: Config
    tracker: Tracker
    data: Data
    device: torch.device
    console: Console

    def loader(self, split: str, batch_size: int, *, train: bool, shared: bool = True) -> Loader:
        """Batches of one split: shuffled and augmented for training, and divided among the processes if `shared`."""
        data, images = self.config.data, getattr(self.data, split)
        augment = Augment(data.crop_padding, data.flip, data.cutout)
        common: dict[str, Any] = {"seed": self.config.seed, "device": self.device, "workers": self.config.hardware.workers}
        return make_loader(
            self.data, images, batch_size=batch_size, train=train, augment=augment, shared=shared, **common
        )

    def examples(self, batch_size: int) -> Iterator[Batch]:
        """Batches for a method to look at before the first step, the same on every process: training images, unless the configuration
        names another source.
        """
        data, seed = self.config.data, self.config.seed
        if data.calibration == "train":
            return self.loader("train", batch_size, train=True, shared=False).epoch(0)
        if data.calibration == "noise":
            return noise(self.data, batch_size, seed, self.device)
        found = load(data.calibration, root=data.root, image_size=self.data.image_size, val_fraction=0.0)
        return foreign(found, self.data, batch_size, seed, self.device)

    def say(self, line: str) -> None:
        """A line for the person who waits."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def top1(self, network: nn.Module, precision: str) -> float:
        """Top-1 on the split that results are measured on, in percent."""
        loader = self.loader(self.config.data.split, EVALUATION_BATCH, train=False)
        return classification.evaluate(network, loader, device=self.device, precision=precision).top1

    def steps(self, recipe: Recipe, loader: Loader) -> int:
        """Optimiser steps of a stage."""
        return max(1, recipe.epochs * len(loader) // recipe.accumulate)

    def checkpoint(self, run: Run, stage: str) -> Checkpoint | None:
        """Where a stage of a run saves its state, and how often."""
        return Checkpoint(run.checkpoint / stage, seconds=self.config.hardware.checkpoint_seconds)

    def example(self) -> Tensor:
        """An input of one image (1, C, H, W)."""
        return torch.zeros(1, self.data.channels, self.data.image_size, self.data.image_size)
