"""The trainings of the main job: the dense parent, the search, the fine-tuning. Each resumes where it was stopped."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console
from timm.utils import random_seed
from torch import Tensor, nn

from pas import models, onnx
from pas.budget import Budget
from pas.config import Config, RecipeConfig, dense_key
from pas.data import Augment, Data, Loader, make_loader
from pas.parent import Parent, is_trained, read_parent, write_parent
from pas.runs import Run, open_folder
from pas.search import Search
from pas.surgery.fuse import fuse
from pas.tasks import classification
from pas.tracking import Tracker
from pas.train.checkpoint import Checkpoint, random_state, set_random_state
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
        common = {"seed": self.config.seed, "device": self.device, "workers": self.config.hardware.workers}
        return make_loader(self.data, images, batch_size=batch_size, train=train, augment=augment, **common)

    def say(self, line: str) -> None:
        """A line for the person who waits."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def top1(self, network: nn.Module, precision: str) -> float:
        """Top-1 on the test split, in percent."""
        loader = self.loader("test", EVALUATION_BATCH, train=False)
        return classification.evaluate(network, loader, device=self.device, precision=precision).top1

    def checkpoint(self, run: Run, stage: str) -> Checkpoint:
        """Where a stage of a run saves its state, and how often."""
        return Checkpoint(run.checkpoint / stage, seconds=self.config.hardware.checkpoint_seconds)

    def example(self) -> Tensor:
        """An input of one image (1, C, H, W)."""
        return torch.zeros(1, self.data.channels, self.data.image_size, self.data.image_size)


def prepare(setting: Setting) -> Parent:
    """The dense parent: with the weights that the configuration names, or trained here once for all runs that share
    it.
    """
    config = setting.config
    recipe = _recipe(config.train.dense)
    random_seed(config.seed)
    network = make(config, setting.data)
    _refuse_early(setting, network)
    if config.train.dense.epochs == 0 or config.model.weights or config.model.pretrained:
        return Parent(network, setting.top1(network, recipe.precision), 0.0)
    with open_folder(Path(config.paths.runs) / dense_key(config), wait=setting.say) as shared:
        if not is_trained(shared.folder):
            trained, seconds = _train(setting, network, recipe, "dense", shared, shared.log)
            top1 = setting.top1(trained, recipe.precision)
            write_parent(shared, trained, {"top1": top1, "seconds": seconds})
        return read_parent(shared.folder, network)


def _refuse_early(setting: Setting, network: nn.Module) -> None:
    """What the search or the export would refuse is refused now, and not after hours of training. Draws nothing.

    Networks that were registered with timm are known to export.
    """
    before = random_state()
    for stage in vars(setting.config.train).values():
        _recipe(stage)
    search_of(setting, copy.deepcopy(network), steps=1)
    if setting.config.model.entry is not None:
        with TemporaryDirectory() as folder:
            onnx.export(fuse(network), setting.example(), Path(folder) / "model.onnx")
    set_random_state(before)


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
    steps = max(1, recipe.epochs * len(loader) // recipe.accumulate)
    random_seed(config.seed)
    search = search_of(setting, parent.to(setting.device), steps)
    fitted = fit(
        search.model,
        loader,
        recipe,
        loss=classification.loss(recipe, setting.data.num_classes),
        groups=search.param_groups(recipe.lr, recipe.weight_decay),
        stage="search",
        device=setting.device,
        extra_loss=search.penalty,
        after_step=search.step,
        status=search.status,
        log=lambda row: setting.tracker.log({**row, **search.numbers()}),
        checkpoint=setting.checkpoint(setting.tracker.run, "search"),
        extras={"method": search.method},
        progress=setting.console,
    )
    return search, fitted.seconds


def search_of(setting: Setting, network: nn.Module, steps: int) -> Search:
    """The search of a configuration on a network. Raises PasError when the budget can't be met or the network not be captured."""
    config = setting.config
    return Search(
        network,
        setting.example().to(next(network.parameters()).device),
        budget=Budget(**{kind: amount for kind, amount in vars(config.budget).items() if amount is not None}),
        steps=steps,
        method=config.method.name,
        keep=config.options.keep,
        min_width=config.options.min_width,
        round_to=config.options.round_to,
        **config.method.options,
    )


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
    fitted = fit(
        network,
        setting.loader("train", recipe.batch_size, train=True),
        recipe,
        loss=classification.loss(recipe, setting.data.num_classes),
        groups=weight_groups(network, recipe.weight_decay),
        stage=stage,
        device=setting.device,
        log=log,
        checkpoint=setting.checkpoint(run, stage),
        progress=setting.console,
    )
    return network if fitted.ema is None else fitted.ema, fitted.seconds


def _recipe(stage: RecipeConfig) -> Recipe:
    return Recipe(**vars(stage))
