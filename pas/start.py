"""What a run starts with: its dense network, the search on it, and what of them is refused before hours of training."""

from __future__ import annotations

import copy
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from pas import models, onnx
from pas.architecture import Architecture
from pas.budget import Budget
from pas.config import Config, RecipeConfig
from pas.cost.conditions import Conditions
from pas.data import Data
from pas.errors import PasError, first_line, place
from pas.search import Search
from pas.setting import Setting
from pas.surgery.fuse import fuse
from pas.train.checkpoint import random_state, set_random_state
from pas.train.recipe import Recipe


def make(config: Config, data: Data, *, fresh: bool = False) -> nn.Module:
    """The dense network of a configuration, with the weights that it names, or without any (`fresh`)."""
    model, shape = config.model, {"num_classes": data.num_classes, "in_chans": data.channels}
    if model.entry is not None:
        network = models.from_entry(model.entry, {**shape, **model.args})
    elif model.path is not None:
        network = models.from_file(model.path, in_chans=data.channels, image_size=data.image_size, fresh=fresh)
    else:
        network = models.create(model.name, pretrained=model.pretrained and not fresh, args=model.args, **shape)
    if model.weights is not None and not fresh:
        models.load_weights(network, model.weights)
    return network


def search_of(setting: Setting, network: nn.Module, steps: int, start: Architecture | None) -> Search:
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
        start=start,
        conditions=conditions(setting),
        table=None if config.cost.table is None else Path(config.cost.table),
        snap=config.options.snap,
        progress=setting.console,
        **config.method.options,
    )


def conditions(setting: Setting) -> Conditions:
    """Under which latency is measured; torch's own runtimes measure on the device of the run."""
    cost = setting.config.cost
    device = "cpu" if cost.runtime == "onnxruntime" else str(setting.device)
    return Conditions(cost.runtime, cost.batch, cost.threads, device, cost.layout, cost.dtype, cost.spread)


def recipe_of(stage: RecipeConfig) -> Recipe:
    """The recipe of a stage. Raises PasError for values that don't go together."""
    return Recipe(**{**vars(stage), "milestones": tuple(stage.milestones)})


def refuse_early(setting: Setting, network: nn.Module, start: Architecture | None) -> None:
    """What the search or the export would refuse is refused now, and not after hours of training. Draws nothing.

    Networks that were registered with timm are known to export.
    """
    before = random_state()
    for stage in vars(setting.config.train).values():
        recipe_of(stage)
    trial = copy.deepcopy(network)
    _refuse_logits(setting, trial)
    search = search_of(setting, trial, 1, start)
    if search.method.learns and not setting.config.train.search.epochs:
        raise PasError(f"train.search.epochs=0: method={setting.config.method.name} learns while it trains; give it at least 1")
    if setting.config.model.entry is not None or setting.config.model.path is not None:
        with TemporaryDirectory() as folder:
            onnx.export(fuse(network), setting.example(), Path(folder) / "model.onnx")
    set_random_state(before)


def _refuse_logits(setting: Setting, network: nn.Module) -> None:
    """A classifier gives one number a class."""
    model, classes = setting.config.model, setting.data.num_classes
    example = setting.example()
    try:
        with torch.no_grad():
            found = network.eval()(example)
    except Exception as error:  # whatever a person's own forward raises
        raise PasError(
            f"{model.label} doesn't run on an image of {setting.config.data.name}, {tuple(example.shape)}: "
            f"{first_line(error)}{place(error)}. A function for model.entry gets num_classes={classes} and in_chans={example.shape[1]}"
        ) from None
    if not isinstance(found, Tensor) or found.shape != (1, classes):
        what = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise PasError(
            f"{model.label} gives {what} for one image; {setting.config.data.name} has {classes} classes, so it must be "
            f"a tensor of shape (1, {classes}). What is no classifier is searched in a loop of your own, with pas.Search"
        )
