"""What a process does in the tests of several processes, and what one process alone does to be compared with.

As a program: `torchrun ... one_of_two.py FOLDER` runs every case and writes what it gave to FOLDER/RANK.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.layers import BatchNormAct2d
from timm.utils import random_seed
from torch import Tensor, nn

import pas
from pas import distributed, models
from pas.data import Augment, load, make_loader
from pas.errors import PasError
from pas.surgery.fuse import IdentityNorm
from pas.tasks import classification
from pas.train import Checkpoint, Recipe, fit, weight_groups
from pas.train.checkpoint import save
from pas.train.norm import GlobalNorm

ALL = Augment(crop_padding=2, flip=True, cutout=3)


def share() -> slice:
    return slice(distributed.rank(), None, distributed.world())


def norms(folder: Path) -> dict[str, Any]:
    """Every kind of norm on its rows of a batch of 11, fp64: outputs and gradients of its rows, and what all share.

    The loss is a sum over all rows, so the gradients of the processes add up to those of one.
    """
    kinds = {
        "plain": nn.BatchNorm2d(6),
        "no affine": nn.BatchNorm2d(6, affine=False),
        "no statistics": nn.BatchNorm2d(6, track_running_stats=False),
        "cumulative": nn.BatchNorm2d(6, momentum=None),
        "vectors": nn.BatchNorm1d(6),
        "identity": IdentityNorm(nn.BatchNorm2d(6), torch.tensor([2, -1, 0, 3, 3, 5])),
        "with activation": BatchNormAct2d(6),
    }
    found = {}
    for name, norm in kinds.items():
        generator = torch.Generator().manual_seed(0)
        norm = norm.double()
        with torch.no_grad():
            for parameter in norm.parameters():
                parameter.normal_(generator=generator)
        shape = (11, 6) if name == "vectors" else (11, 6, 3, 4)
        x, towards = (3 + 2 * torch.randn(2, *shape, generator=generator, dtype=torch.float64)).unbind()
        x = x[share()].requires_grad_()
        for _ in range(2):  # the second step moves the running statistics from where the first has left them
            with GlobalNorm():
                y = norm(x)
        (y.square() * towards[share()]).sum().backward()
        found[name] = {
            "rows": {"y": y, "x": x.grad},
            "all": {
                **{key: buffer.double() for key, buffer in norm.named_buffers()},
                **{key: distributed.total(parameter.grad) for key, parameter in norm.named_parameters()},
            },
        }
    return found


def batches(folder: Path) -> dict[str, Any]:
    """Augmented batches of both loaders, and a last one of a single image."""
    images = folder / "images"
    with distributed.together():
        if distributed.leads():
            noise = np.random.default_rng(0)
            for number in range(24):
                path = images / ("train" if number < 16 else "val") / f"class{number % 2}" / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(noise.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    sets = {"memory": load("digits", image_size=16, subset=40), "files": load("imagefolder", root=images, image_size=32, val_fraction=0)}
    found = {}
    for name, data in sets.items():
        training = make_loader(data, data.train, batch_size=8, train=True, augment=ALL, seed=3, device="cpu", workers=0)
        testing = make_loader(data, data.test, batch_size=len(data.test) - 1, train=False, augment=ALL, seed=3, device="cpu", workers=0)
        found[name] = {
            "train": [list(batch) for epoch in (0, 1) for batch in training.epoch(epoch)],
            "test": [list(batch) for batch in testing.epoch(0)],
        }
    return found


class Net(nn.Module):
    """Two convolutions with norms, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        first, second = nn.Conv2d(1, 16, 3, 2), nn.Conv2d(16, 24, 3, 2)
        self.body = nn.Sequential(first, nn.BatchNorm2d(16), nn.ReLU(), second, nn.BatchNorm2d(24), nn.ReLU())
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


RECIPE = Recipe(
    epochs=2, batch_size=32, optimizer="sgd", lr=0.05, weight_decay=1e-3, ema=0.9, clip_grad=0.5, accumulate=2, label_smoothing=0.1
)


def searching(network: nn.Module, recipe: Recipe, method: str, *, checkpoint: Checkpoint | None = None, kill: int = -1) -> dict[str, Any]:
    """A search in fp64 on digits: all that it has in the end."""
    random_seed(0)
    data = load("digits", image_size=16, subset=200)
    loader = make_loader(data, data.train, batch_size=recipe.batch_size, train=True, augment=ALL, seed=0, device="cpu", workers=0)
    steps = recipe.epochs * len(loader) // recipe.accumulate
    search = pas.Search(network, torch.zeros(1, 1, 16, 16, dtype=torch.float64), budget=pas.Budget(macs=0.5), steps=steps, method=method)
    criterion, rows, taken = classification.loss(recipe, 10), [], []

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor | None]:
        return criterion(lambda inputs: model(inputs.double()), x, y)

    def after_step() -> None:
        search.step()
        taken.append(search.method.open().tolist())
        if len(taken) == kill:
            raise InterruptedError

    fitted = fit(
        search.model, loader, recipe, loss=loss, groups=search.param_groups(recipe.lr, recipe.weight_decay), stage="search",
        device="cpu", extra_loss=search.penalty, after_step=after_step, extras={"method": search.method}, checkpoint=checkpoint,
        log=lambda row: rows.append([row["step"], row["loss"], row["top1"]]),
    )  # fmt: skip
    test = make_loader(data, data.test, batch_size=100, train=False, augment=ALL, seed=0, device="cpu", workers=0)
    small = search.export().float()
    return {
        "architecture": search.architecture.to_json(),
        "open": taken,
        "method": dict(search.method.state_dict()),
        "gates": search.method.gates.value,
        "weights": dict(search.backbone.state_dict()),
        "ema": {} if fitted.ema is None else dict(fitted.ema.backbone.state_dict()),
        "loss": fitted.loss,
        "rows": rows,
        "test": list(vars(classification.evaluate(small, test, device="cpu", precision="fp32")).values()),
    }


def fresh(name: str) -> nn.Module:
    random_seed(0)
    return (Net() if name == "net" else models.create(name, num_classes=10, in_chans=1)).double()


def searches(folder: Path) -> dict[str, Any]:
    """Both methods; branches and identities; accumulation, clipping, averaging."""
    return {
        "pas": searching(fresh("net"), RECIPE, "pas"),
        "uniform": searching(fresh("net"), RECIPE, "uniform"),
        "repvgg": searching(fresh("repvgg_nano"), Recipe(epochs=2, batch_size=60, optimizer="sgd", lr=0.02, weight_decay=5e-4), "pas"),
    }


LEARNING = ("smcp", "halp", "depgraph", "oto", "resrep", "dms", "dtp", "l0", "gumbel")


def methods(folder: Path) -> dict[str, Any]:
    """The other methods that learn, each with what it takes from the batch, its own noise and its own corrections."""
    recipe = Recipe(epochs=2, batch_size=20, optimizer="sgd", lr=0.02, weight_decay=5e-4)
    return {method: searching(fresh("net"), recipe, method) for method in LEARNING}


def resumed(folder: Path) -> dict[str, Any]:
    """A search that was interrupted between two rows, and the same undisturbed."""
    recipe = Recipe(epochs=2, batch_size=4, optimizer="sgd", lr=0.02, weight_decay=1e-3)  # a row every four steps
    checkpoint = Checkpoint(folder / f"checkpoint{distributed.world()}", seconds=1e9, steps=3)
    try:
        searching(fresh("net"), recipe, "pas", checkpoint=checkpoint, kill=14)
    except InterruptedError:
        random_seed(1)
    again = searching(fresh("net"), recipe, "pas", checkpoint=checkpoint)
    return {"again": again, "whole": searching(fresh("net"), recipe, "pas")}


def refusals(folder: Path) -> dict[str, Any]:
    """The words of each refusal, where only one process has a reason or where all have."""
    data = load("digits", image_size=16, subset=200)
    last = distributed.rank() == distributed.world() - 1

    def words(act: Callable[[], object]) -> str:
        try:
            act()
        except (PasError, ValueError) as error:
            return f"{type(error).__name__}: {error}"
        return "not refused"

    def broken() -> None:
        with distributed.together():
            if last:
                raise ValueError("broken")

    def infinite() -> None:
        """Images of one process spoil its loss; a checkpoint is due at every step."""

        def loss(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, None]:
            return nn.functional.cross_entropy(model(x * float("inf") if last else x), y), None

        loader = make_loader(data, data.train, batch_size=60, train=True, augment=ALL, seed=0, device="cpu", workers=0)
        network = fresh("net").float()
        fit(network, loader, RECIPE, loss=loss, groups=weight_groups(network, 0.0), stage="dense", device="cpu",
            checkpoint=Checkpoint(folder / "infinite", seconds=0))  # fmt: skip

    def odd() -> None:
        make_loader(data, data.train, batch_size=33, train=True, augment=ALL, seed=0, device="cpu", workers=0)

    def compiled() -> None:
        loader = make_loader(data, data.train, batch_size=60, train=True, augment=ALL, seed=0, device="cpu", workers=0)
        network = fresh("net").float()
        recipe = Recipe(epochs=1, batch_size=60, optimizer="sgd", lr=0.1, weight_decay=0, compile=True)
        fit(network, loader, recipe, loss=classification.loss(recipe, 10), groups=weight_groups(network, 0.0), stage="dense", device="cpu")

    def full() -> None:
        """The leader alone writes, and can't: a file lies where the folder would be."""
        (folder / "full").touch()
        loader = make_loader(data, data.train, batch_size=60, train=True, augment=ALL, seed=0, device="cpu", workers=0)
        network = fresh("net").float()
        fit(network, loader, RECIPE, loss=classification.loss(RECIPE, 10), groups=weight_groups(network, 0.0), stage="dense", device="cpu",
            checkpoint=Checkpoint(folder / "full" / "dense", seconds=0))  # fmt: skip

    return {
        "full": words(full),
        "everywhere": distributed.from_leader(lambda: {"from": distributed.rank(), "text": "é" * 300}),
        "broken": words(broken),
        "disagreement": words(lambda: distributed.agree(distributed.rank(), "not the same")),
        "infinite": words(infinite),
        "odd": words(odd),
        "compiled": words(compiled),
        "device": words(lambda: distributed.device("cuda:0")),
        "end": distributed.broadcast("still in step"),
    }


CASES = (norms, batches, searches, methods, resumed, refusals)

if __name__ == "__main__":
    torch.set_num_threads(1)
    with distributed.session():
        folder = Path(sys.argv[1])
        save({case.__name__: case(folder) for case in CASES}, folder / str(distributed.rank()))
