"""The trainings of the main job: the dense parent, the search, the fine-tuning. Each resumes where it was stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from timm.utils import random_seed
from torch import Tensor, nn

from pas import models
from pas.budget import Budget
from pas.config import Config, RecipeConfig, dense_key
from pas.data import Augment, Data, Loader, make_loader
from pas.runs import Run, open_folder
from pas.search import Search
from pas.tasks import classification
from pas.tracking import Tracker
from pas.train.checkpoint import Checkpoint
from pas.train.loop import fit
from pas.train.recipe import Recipe, weight_groups

EVALUATION_BATCH = 500


@dataclass(frozen=True)
class Setting:
    """What all stages of one run share."""

    config: Config
    tracker: Tracker
    data: Data
    device: torch.device
    console: Console

    def loader(self, split: str, batch_size: int, *, train: bool) -> Loader:
        """Batches of one split: shuffled and augmented for training."""
        data, images = self.config.data, getattr(self.data, split)
        augment = Augment(data.crop_padding, data.flip, data.cutout)
        common: dict[str, Any] = {"seed": self.config.seed, "device": self.device, "workers": self.config.hardware.workers}
        return make_loader(self.data, images, batch_size=batch_size, train=train, augment=augment, **common)

    def top1(self, network: nn.Module, precision: str) -> float:
        """Top-1 on the test split, in percent."""
        loader = self.loader("test", EVALUATION_BATCH, train=False)
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


@dataclass(frozen=True)
class Parent:
    """The dense network with its weights, its top-1 on the test split in percent, and the seconds that its training
    took.
    """

    network: nn.Module
    top1: float
    seconds: float


def prepare(setting: Setting) -> Parent:
    """The dense parent: with the weights that the configuration names, or trained here once for all runs that share
    it.
    """
    config = setting.config
    recipe = _recipe(config.train.dense)
    random_seed(config.seed)
    network = make(config, setting.data)
    if given(config):
        return Parent(network, setting.top1(network, recipe.precision), 0.0)
    with open_folder(Path(config.paths.runs) / dense_key(config)) as shared:
        weights, about = shared.folder / "model.safetensors", shared.folder / "dense.json"
        if not about.exists():
            trained, seconds = train_dense(setting, network, shared)
            top1 = setting.top1(trained, recipe.precision)
            if shared.writes:
                save_file(
                    {name: tensor.cpu().contiguous().clone() for name, tensor in trained.state_dict().items()}, weights
                )
            shared.write_json("dense.json", {"top1": top1, "seconds": seconds})
        network.load_state_dict(load_file(weights))
        return Parent(network, **json.loads(about.read_text()))


def given(config: Config) -> bool:
    """Whether the configuration names the dense parent's weights, so that there is nothing to train."""
    return config.train.dense.epochs == 0 or config.model.weights is not None or config.model.pretrained


def train_dense(setting: Setting, network: nn.Module, shared: Run) -> tuple[nn.Module, float]:
    """Train the dense parent in the folder of the runs that share it; it (or its running average), and the seconds."""
    return _train(setting, network, _recipe(setting.config.train.dense), "dense", shared, shared.log)


def make(config: Config, data: Data) -> nn.Module:
    """The dense network of a configuration, with the weights that it names."""
    model, shape = config.model, {"num_classes": data.num_classes, "in_chans": data.channels}
    if model.entry is not None:
        network = models.from_entry(model.entry, {**shape, **model.args})
    else:
        network = models.create(model.name, pretrained=model.pretrained, args=model.args, **shape)
    if model.weights is not None:
        models.load_weights(network, model.weights)
    return network


def find(setting: Setting, parent: nn.Module) -> tuple[Search, float]:
    """Search under the budget, starting from the parent's weights; the search, and the seconds that it took."""
    config = setting.config
    recipe = _recipe(config.train.search)
    loader = setting.loader("train", recipe.batch_size, train=True)
    steps = setting.steps(recipe, loader)
    limits = {kind: amount for kind, amount in vars(config.budget).items() if amount is not None}
    random_seed(config.seed)
    search = Search(
        parent.to(setting.device),
        setting.example().to(setting.device),
        budget=Budget(**limits),
        steps=steps,
        method=config.method.name,
        keep=config.options.keep,
        min_width=config.options.min_width,
        round_to=config.options.round_to,
        **config.method.options,
    )
    fitted = fit(
        search.model,
        loader,
        recipe,
        loss=classification.loss(recipe, setting.data.num_classes),
        groups=search.param_groups(recipe.lr, recipe.weight_decay),
        stage="search",
        device=setting.device,
        steps=steps,
        extra_loss=search.penalty,
        after_step=search.step,
        status=search.status,
        log=lambda row: setting.tracker.log({**row, **search.numbers()}),
        checkpoint=setting.checkpoint(setting.tracker.run, "search"),
        extras={"method": search.method},
        progress=setting.console,
    )
    return search, fitted.seconds


def finetune(setting: Setting, small: nn.Module) -> tuple[nn.Module, float]:
    """Train the sliced network in its training form; it (or its running average), and the seconds that it took."""
    recipe = _recipe(setting.config.train.finetune)
    random_seed(setting.config.seed)
    tracker = setting.tracker
    return _train(setting, small, recipe, "finetune", tracker.run, tracker.log)


def _train(
    setting: Setting, network: nn.Module, recipe: Recipe, stage: str, run: Run, log: Callable[[dict[str, Any]], None]
) -> tuple[nn.Module, float]:
    """A training without a search: the network (or its running average), and the seconds that it took."""
    loader = setting.loader("train", recipe.batch_size, train=True)
    fitted = fit(
        network,
        loader,
        recipe,
        loss=classification.loss(recipe, setting.data.num_classes),
        groups=weight_groups(network, recipe.weight_decay),
        stage=stage,
        device=setting.device,
        steps=setting.steps(recipe, loader),
        log=log,
        checkpoint=setting.checkpoint(run, stage),
        progress=setting.console,
    )
    return network if fitted.ema is None else fitted.ema, fitted.seconds


def _recipe(stage: RecipeConfig) -> Recipe:
    return Recipe(**vars(stage))
