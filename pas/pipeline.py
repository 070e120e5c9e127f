"""The main job: prepare -> search -> slice -> fine-tune -> fuse -> evaluate -> bundle, each step resumable.

Fine-tuning runs on the sliced network in its training form, so that a re-parameterised block keeps its branches and
norms while the weights settle; fusing comes after it.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from timm.utils import random_seed
from torch import Tensor, nn

from pas import models, onnx
from pas.axes.signature import Signature
from pas.budget import Budget
from pas.config import Config, RecipeConfig, dense_key
from pas.cost.macs import macs, params
from pas.cost.measure import latency
from pas.data import Augment, Data, Loader, load, make_loader
from pas.environment import environment
from pas.errors import PasError
from pas.publish import bundle
from pas.publish.backbone import Backbone
from pas.publish.card import card
from pas.runs import open_folder, open_run
from pas.search import Search
from pas.surgery.forms import signature
from pas.surgery.fuse import fuse
from pas.surgery.mask import mask
from pas.surgery.slice import slice
from pas.tasks import classification
from pas.tracking import Tracker, track
from pas.train.checkpoint import Checkpoint
from pas.train.loop import fit
from pas.train.recipe import Recipe, weight_groups


@dataclass(frozen=True)
class Setting:
    """What every step shares."""

    config: Config
    tracker: Tracker
    data: Data
    device: torch.device
    console: Console

    def loader(self, split: str, recipe: Recipe, *, train: bool) -> Loader:
        """Batches of one split: shuffled and augmented for training."""
        data = self.config.data
        augment = Augment(data.crop_padding, data.flip, data.cutout)
        return make_loader(
            self.data,
            getattr(self.data, split),
            batch_size=recipe.batch_size if train else 500,
            train=train,
            augment=augment,
            seed=self.config.seed,
            device=self.device,
            workers=self.config.hardware.workers,
        )

    def top1(self, network: nn.Module, recipe: Recipe) -> float:
        """Top-1 on the test split, in percent."""
        loader = self.loader("test", recipe, train=False)
        return classification.evaluate(network, loader, device=self.device, precision=recipe.precision).top1

    def example(self) -> Tensor:
        """An input of one image."""
        return torch.zeros(1, self.data.channels, self.data.image_size, self.data.image_size)


def run(config: Config, console: Console | None = None) -> dict[str, Any]:
    """Run, or resume, or show what is finished: the content of the run's `result.json`.

    Raises PasError when data, weights or a model can't be had, the budget can't be met, the loss is not finite, or
    another process holds the run.
    """
    console = console or Console(stderr=True)
    with open_run(config) as this:
        done = this.finished()
        if done is not None:
            return done
        if config.hardware.threads:
            torch.set_num_threads(config.hardware.threads)
        data = load(
            config.data.name,
            root=config.data.root,
            image_size=config.data.image_size,
            val_fraction=config.data.val_fraction,
            subset=config.data.subset,
        )
        with track(this, config) as tracker:
            result = _steps(Setting(config, tracker, data, _device(config.hardware.device), console))
            this.write_json("result.json", result)
            tracker.finish(result)
        return result


def _steps(setting: Setting) -> dict[str, Any]:
    config, this = setting.config, setting.tracker.run
    parent, prepared = prepare(setting)
    search, searched = find(setting, parent)
    architecture = search.architecture
    this.write_text("architecture.json", architecture.to_json())
    backbone = search.settled()
    small = slice(backbone, search.signature, architecture)
    exact = _mask_slice(setting, backbone, search, small)
    small, tuned = finetune(setting, small)
    small.cpu().eval()
    plain = fuse(small)
    dense_plain = fuse(parent.cpu().eval())

    images = _images(setting)
    sig = search.signature
    limit = search.report()["budget"][0]
    key = config.model.entry or config.model.name
    measured = latency(
        {"dense": dense_plain, "searched": plain},
        setting.example(),
        runtime=config.cost.runtime,
        batch=config.cost.batch,
        threads=config.cost.threads,
        repeats=config.cost.repeats,
        warmup=config.cost.warmup,
    )
    result: dict[str, Any] = {
        "schema": 1,
        "run_key": this.key,
        "model": key,
        "data": config.data.name,
        "method": config.method.name,
        "seed": config.seed,
        "budget": {name: limit[name] for name in ("kind", "target", "achieved", "dense")},
        "dense": {
            "top1": prepared["top1"],
            "params": params(sig, sig.dense()),
            "macs": macs(sig, sig.dense()),
            "latency_ms": measured["dense"].median_ms,
        },
        "searched": {
            "top1": setting.top1(plain, _recipe(config.train.finetune)),
            "params": params(sig, architecture),
            "macs": macs(sig, architecture),
            "latency_ms": measured["searched"].median_ms,
            "form": "fused",
        },
        "exactness": {"mask_slice": exact, "slice_fuse": _slice_fuse(small, images)},
        "seconds": {"prepare": prepared["seconds"], "search": searched, "finetune": tuned},
        "latency": dataclasses.asdict(measured["searched"]),
        "environment": environment(str(setting.device)),
    }
    plain.cpu().eval()
    result = _publish(setting, plain, search, images, result)
    figures.widths(
        [a.name for a in sig.prunable],
        [a.size for a in sig.prunable],
        list(architecture.widths().values()),
        this.folder / "figures" / "widths.png",
        title=this.key,
    )
    return result


def prepare(setting: Setting) -> tuple[nn.Module, dict[str, float]]:
    """The dense parent with its weights, and its top-1: given, pretrained, or trained here once for all runs that share
    it.
    """
    config = setting.config
    recipe = _recipe(config.train.dense)
    random_seed(config.seed)
    model = make(config, setting.data)
    if config.train.dense.epochs == 0 or config.model.weights or config.model.pretrained:
        return model, {"top1": setting.top1(model, recipe), "seconds": 0.0}
    with open_folder(Path(config.paths.runs) / dense_key(config)) as shared:
        weights, about = shared.folder / "model.safetensors", shared.folder / "dense.json"
        if not about.exists():
            fitted = fit(
                model,
                setting.loader("train", recipe, train=True),
                recipe,
                loss=classification.loss(recipe, setting.data.num_classes),
                groups=weight_groups(model, recipe.weight_decay),
                stage="dense",
                device=setting.device,
                log=shared.log,
                checkpoint=Checkpoint(shared.checkpoint),
                progress=setting.console,
            )
            trained = fitted.ema if fitted.ema is not None else model
            top1 = setting.top1(trained, recipe)
            if shared.writes:
                save_file(
                    {name: tensor.cpu().contiguous().clone() for name, tensor in trained.state_dict().items()}, weights
                )
            shared.write_json("dense.json", {"top1": top1, "seconds": fitted.seconds})
        model.load_state_dict(load_file(weights))
        return model, json.loads(about.read_text())


def make(config: Config, data: Data) -> nn.Module:
    """The dense network of a configuration, with the weights that it names."""
    if config.model.entry is not None:
        model = models.from_entry(
            config.model.entry, {"num_classes": data.num_classes, "in_chans": data.channels, **config.model.args}
        )
    else:
        model = models.create(
            config.model.name,
            num_classes=data.num_classes,
            in_chans=data.channels,
            pretrained=config.model.pretrained,
            args=config.model.args,
        )
    if config.model.weights is not None:
        models.load_weights(model, config.model.weights)
    return model


def find(setting: Setting, parent: nn.Module) -> tuple[Search, float]:
    """Search under the budget, starting from the parent's weights; returns the search and the seconds that it took."""
    config = setting.config
    recipe = _recipe(config.train.search)
    loader = setting.loader("train", recipe, train=True)
    steps = max(1, recipe.epochs * len(loader) // recipe.accumulate)
    budget = Budget(**{kind: amount for kind, amount in vars(config.budget).items() if amount is not None})
    search = Search(
        parent.to(setting.device),
        setting.example().to(setting.device),
        budget=budget,
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
        extra_loss=search.penalty,
        after_step=search.step,
        status=search.status,
        log=lambda row: setting.tracker.log({**row, **search.numbers()}),
        checkpoint=Checkpoint(setting.tracker.run.checkpoint / "search"),
        extras={"method": search.method},
        progress=setting.console,
    )
    return search, fitted.seconds


def finetune(setting: Setting, small: nn.Module) -> tuple[nn.Module, float]:
    """Train the sliced network, in its training form; returns it (its running average, where the recipe asks for
    one).
    """
    recipe = _recipe(setting.config.train.finetune)
    fitted = fit(
        small,
        setting.loader("train", recipe, train=True),
        recipe,
        loss=classification.loss(recipe, setting.data.num_classes),
        groups=weight_groups(small, recipe.weight_decay),
        stage="finetune",
        device=setting.device,
        log=setting.tracker.log,
        checkpoint=Checkpoint(setting.tracker.run.checkpoint / "finetune"),
        progress=setting.console,
    )
    return fitted.ema if fitted.ema is not None else small, fitted.seconds


def evaluate(folder: str | Path, name: str, root: str | None) -> tuple[float, int]:
    """Top-1 in percent of a bundle on the test split of a data set, and the number of images."""
    config = bundle.read_config(folder)
    backbone = Backbone(**config["pas"]["backbone"])
    data = load(name, root=root, image_size=backbone.image_size, val_fraction=0.0)
    if data.num_classes != backbone.num_classes or data.channels != backbone.in_chans:
        raise PasError(
            f"{folder} tells {backbone.num_classes} classes apart in images of {backbone.in_chans} channels, "
            f"but {name} has {data.num_classes} classes and {data.channels} channels"
        )
    loader = make_loader(
        data, data.test, batch_size=500, train=False, augment=Augment(0, False, 0), seed=0, device="cpu", workers=0
    )
    found = classification.evaluate(bundle.load(folder), loader, device="cpu", precision="fp32")
    return found.top1, found.n


def inspect(name: str, image_size: int | None, num_classes: int) -> Signature:
    """The signature of a network by name, without weights."""
    with torch.device("meta"):
        model = models.create(name, num_classes=num_classes)
    size = image_size or model.pretrained_cfg["input_size"][-1]
    return signature(model, torch.zeros(1, 3, size, size, device="meta"))


def _publish(
    setting: Setting, plain: nn.Module, search: Search, images: Tensor, result: dict[str, Any]
) -> dict[str, Any]:
    """Write the bundle, read it back, and add the last exactness to the result."""
    config, data, folder = setting.config, setting.data, setting.tracker.run.folder / "bundle"
    backbone = Backbone(
        config.model.entry or config.model.name,
        dict(config.model.args),
        data.num_classes,
        data.channels,
        data.image_size,
    )
    about = {name: result[name] for name in ("budget", "method", "data", "seed", "searched", "dense", "run_key")}
    bundle.save(
        folder,
        plain,
        backbone,
        search.architecture,
        mean=data.mean,
        std=data.std,
        about=about,
        card=card(result, backbone),
    )
    result["exactness"]["fuse_onnx"] = onnx.max_error(plain, folder / "model.onnx", images)
    if config.model.entry is None:
        with torch.no_grad():
            same = torch.equal(bundle.load(folder)(images), plain(images))
        if not same:
            raise PasError(
                f"{folder} does not reproduce the searched network bit for bit: please report this with {setting.tracker.run.folder}"
            )
    return result


def _recipe(stage: RecipeConfig) -> Recipe:
    return Recipe(**vars(stage))


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise PasError(f"hardware.device={name}: torch finds no CUDA device here; use hardware=cpu")
    return torch.device(name)


def _images(setting: Setting) -> Tensor:
    """A few test images, for equality checks."""
    loader = setting.loader("test", _recipe(setting.config.train.finetune), train=False)
    x, _ = next(iter(loader.epoch(0)))
    return x[:8].float().cpu()


def _error(expected: Tensor, found: Tensor) -> float:
    return float((expected - found).abs().max() / expected.abs().max())


def _mask_slice(setting: Setting, backbone: nn.Module, search: Search, small: nn.Module) -> float:
    """Masked against sliced after the search, fp64."""
    images = _images(setting).double()
    masked = mask(backbone, search.signature, search.architecture).cpu().double().eval()
    with torch.no_grad():
        return _error(masked(images), copy.deepcopy(small).cpu().double().eval()(images))


def _slice_fuse(small: nn.Module, images: Tensor) -> float:
    """Sliced against fused after fine-tuning, fp64."""
    wide = copy.deepcopy(small).double()
    with torch.no_grad():
        return _error(wide(images.double()), fuse(wide)(images.double()))
