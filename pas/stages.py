"""The trainings of the main job: the dense parent, the search, the fine-tuning. Each resumes where it was stopped."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from timm.utils import random_seed
from torch import Tensor, nn

from pas import distributed
from pas.architecture import Architecture
from pas.config import Config
from pas.keys import dense_key
from pas.methods import named
from pas.parent import Parent, is_trained, read_parent, write_parent
from pas.runs import Run, open_folder
from pas.search import Search
from pas.setting import Setting
from pas.start import make, recipe_of, refuse_early, search_of
from pas.surgery.fuse import fuse
from pas.tasks import classification
from pas.train.loop import Loss, fit
from pas.train.recipe import Recipe, weight_groups
from pas.verify import Held

GIVEN = "given.json"


def prepare(setting: Setting, start: Architecture | None) -> Parent:
    """The dense parent: with the weights that the configuration names, or trained here once for all runs that share
    it.
    """
    config = setting.config
    recipe = recipe_of(config.train.dense)
    random_seed(config.seed)
    network = make(config, setting.data)
    refuse_early(setting, network, start)
    if config.given:
        return Parent(network, _top1_given(setting, network, recipe.precision), 0.0)
    with open_folder(Path(config.paths.runs) / dense_key(config), wait=setting.say) as shared:
        if not distributed.from_leader(lambda: is_trained(shared.folder)):
            # of a copy: a process that finds the parent trained has to have the very network of the one that trained it
            trained, seconds = train_dense(setting, copy.deepcopy(network), shared)
            top1 = setting.top1(trained, recipe.precision)
            with distributed.together():  # the others read what the leader has written
                write_parent(shared, trained, {"top1": top1, "seconds": seconds})
        return read_parent(shared.folder, network)


def _top1_given(setting: Setting, network: nn.Module, precision: str) -> float:
    """Top-1 of given weights: measured once for all runs where these are a file, which is known by what it holds."""
    config = setting.config
    if config.model.weights is None or config.model.entry is not None:
        return setting.top1(network, precision)
    with open_folder(Path(config.paths.runs) / dense_key(config), wait=setting.say) as shared:
        known = distributed.from_leader(lambda: shared.read_json(GIVEN))
        if known is None:
            known = {"top1": setting.top1(network, precision)}
            with distributed.together():
                shared.write_json(GIVEN, known)
        return float(known["top1"])


def train_dense(setting: Setting, network: nn.Module, shared: Run) -> tuple[nn.Module, float]:
    """Train the dense parent in the folder of the runs that share it; it (or its running average), and the seconds."""
    return _train(setting, network, recipe_of(setting.config.train.dense), "dense", shared, shared.log)


def find(setting: Setting, parent: nn.Module, start: Architecture | None) -> tuple[Search, float]:
    """Search under the budget from the parent's weights, and from `start` if given; the search, and the seconds that it took.

    A method that decides before the first step has no steps here: its share of the epochs is spent on the fine-tuning.
    """
    config = setting.config
    recipe = recipe_of(config.train.search)
    loader = setting.loader("train", recipe.batch_size, train=True)
    steps = setting.steps(recipe, loader)
    random_seed(config.seed)
    search = search_of(setting, parent.to(setting.device), steps, start)
    began = time.monotonic()
    saved = setting.checkpoint(setting.tracker.run, "search")
    if not (search.method.learns and saved is not None and distributed.from_leader(saved.exists)):  # else it has what data said
        if search.method.samples:
            setting.say(f"judging channels by {min(search.method.samples, len(setting.data.train))} examples")
        search.calibrate(setting.examples(recipe.batch_size), _plain_loss)
    seconds = time.monotonic() - began
    if not search.method.learns:
        return search, seconds
    begin, optimizer = 0, None
    for part, share in enumerate([*sorted(config.options.shrink), 1.0]):
        until = round(share * steps)
        if part:
            smaller = search.shrink()
            if smaller is not search:
                setting.say(f"shrunk at step {begin}: {smaller.current.channels - 1} of {search.current.channels - 1} channels go on")
                search, optimizer = smaller, None
        fitted = fit(
            search.model,
            loader,
            recipe,
            loss=_loss(setting, recipe, parent),
            groups=search.param_groups(recipe.lr, recipe.weight_decay, decay_norms=recipe.decay_norms),
            stage="search",
            steps=steps,
            first_epoch=dense_epochs(config),
            begin=begin,
            until=until,
            before=optimizer,
            device=setting.device,
            sync_norm=config.hardware.sync_norm,
            extra_loss=search.penalty,
            after_step=search.step,
            status=search.status,
            log=_with_numbers(setting, search),
            checkpoint=setting.checkpoint(setting.tracker.run, f"search{part or ''}"),
            extras={"method": search.method, **({} if search.timing is None else {"latency": Held(search)})},
            progress=setting.console,
        )
        seconds, begin, optimizer = seconds + fitted.seconds, until, fitted.optimizer
    return search, seconds


def _with_numbers(setting: Setting, search: Search) -> Callable[[dict[str, Any]], None]:
    return lambda row: setting.tracker.log({**row, **search.numbers()})


def finetune(
    setting: Setting, small: nn.Module, recipe: Recipe, parent: nn.Module, after_epoch: Callable[[nn.Module], None] | None = None
) -> tuple[nn.Module, float]:
    """Train the sliced network in its training form; it (or its running average), and the seconds that it took.

    `after_epoch`: looks at the network after the first epoch. Without epochs the network comes back as it is.
    """
    if not recipe.epochs:
        return small, 0.0
    random_seed(setting.config.seed)
    config, tracker = setting.config, setting.tracker
    # equal totals, so each method goes on with the epochs after those that its weights have seen
    seen = dense_epochs(config) + config.train.search.epochs + config.train.finetune.epochs - recipe.epochs
    section = "finetune" if named(config.method.name).inherits else "dense"
    return _train(setting, small, recipe, "finetune", tracker.run, tracker.log, parent, first_epoch=max(0, seen), section=section,
                  after_epoch=after_epoch)  # fmt: skip


def dense_epochs(config: Config) -> int:
    """For how many epochs the dense parent was trained here."""
    return 0 if config.given else config.train.dense.epochs


def last_recipe(config: Config, search: Search) -> Recipe:
    """How the sliced network is trained, so that all methods see equally many epochs.

    A method without steps of its own fine-tunes for the search's epochs, too. A network from scratch is trained by the dense
    parent's recipe for the epochs of all three stages.
    """
    train = config.train
    recipe = recipe_of(train.finetune)
    if search.method.learns:
        return recipe
    if search.method.inherits:
        return replace(recipe, epochs=train.search.epochs + recipe.epochs)
    epochs = train.dense.epochs + train.search.epochs + recipe.epochs
    return replace(recipe_of(train.dense), epochs=epochs, distill=recipe.distill, temperature=recipe.temperature)


def _train(
    setting: Setting,
    network: nn.Module,
    recipe: Recipe,
    stage: str,
    run: Run,
    log: Callable[[dict[str, Any]], None],
    parent: nn.Module | None = None,
    first_epoch: int = 0,
    section: str | None = None,
    after_epoch: Callable[[nn.Module], None] | None = None,
) -> tuple[nn.Module, float]:
    """A training without a search: the network (or its running average), and the seconds that it took."""
    loader = setting.loader("train", recipe.batch_size, train=True)
    steps = setting.steps(recipe, loader)
    fitted = fit(
        network,
        loader,
        recipe,
        loss=_loss(setting, recipe, parent),
        groups=weight_groups(network, recipe.weight_decay, decay_norms=recipe.decay_norms),
        stage=stage,
        section=section,
        device=setting.device,
        sync_norm=setting.config.hardware.sync_norm,
        steps=steps,
        first_epoch=first_epoch,
        marks=None if after_epoch is None else {round(steps / recipe.epochs): after_epoch},
        log=log,
        checkpoint=setting.checkpoint(run, stage),
        progress=setting.console,
    )
    return network if fitted.ema is None else fitted.ema, fitted.seconds


def _loss(setting: Setting, recipe: Recipe, parent: nn.Module | None) -> Loss:
    """The task's loss; when it distils, from the dense parent."""
    teacher = None
    if recipe.distill and parent is not None:
        teacher = fuse(parent).to(setting.device).eval().requires_grad_(False)
    return classification.loss(recipe, setting.data.num_classes, teacher)


def _plain_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(x).float(), y)
