"""How a network is trained: the numbers, and the optimiser and schedule that timm makes of them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from timm.optim import create_optimizer_v2, list_optimizers
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn

from pas.errors import PasError

SCHEDULES = ("cosine", "step", "none")
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class Recipe:
    """One training. The defaults of the later fields switch the thing off.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a batch, over all processes.
        optimizer: a name of timm's, such as sgd, adamw or lamb.
        lr: learning rate of the weights at the top of the schedule.
        schedule: cosine (to `min_lr`), step (a tenth at each of the `milestones`, shares of the steps) or none.
        warmup_epochs: the learning rate rises linearly from a hundredth, within `epochs`.
        mixup, cutmix: their alpha.
        ema: decay of the running average of the weights.
        clip_grad: largest norm of the gradient.
        precision: fp32, or bf16 autocast.
        accumulate: batches whose gradients make one step.
        decay_norms: whether norms and biases decay like kernels.
        distill: share of the loss that is distilled from the dense parent, at this `temperature`.
    """

    epochs: int
    batch_size: int
    optimizer: str
    lr: float
    weight_decay: float
    momentum: float = 0.9
    schedule: str = "cosine"
    warmup_epochs: float = 0
    min_lr: float = 0.0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    ema: float = 0.0
    clip_grad: float = 0.0
    precision: str = "fp32"
    channels_last: bool = False
    compile: bool = False
    accumulate: int = 1
    milestones: tuple[float, ...] = (0.5, 0.75)
    decay_norms: bool = False
    distill: float = 0.0
    temperature: float = 4.0

    def __post_init__(self) -> None:
        for field, allowed in (("schedule", SCHEDULES), ("precision", PRECISIONS)):
            if getattr(self, field) not in allowed:
                raise PasError(f"{field}={getattr(self, field)}: choose from {', '.join(allowed)}")
        if self.optimizer not in list_optimizers():
            raise PasError(f"optimizer={self.optimizer}: timm has none of that name (timm.optim.list_optimizers())")


def weight_groups(model: nn.Module, weight_decay: float, *, decay_norms: bool = False) -> list[dict[str, Any]]:
    """Two parameter groups: kernels decay, norms' weights and biases only with `decay_norms`. Frozen parameters are left out."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    kernels = [parameter for parameter in trained if parameter.ndim > 1]
    vectors = [parameter for parameter in trained if parameter.ndim <= 1]
    groups = [{"params": kernels, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": weight_decay * decay_norms}]
    return [group for group in groups if group["params"]]


def make_optimizer(param_groups: Iterable[dict[str, Any]], recipe: Recipe) -> torch.optim.Optimizer:
    """timm's optimiser over these groups; what a group says itself (lr, weight_decay, momentum) stands.

    timm's `sgd` is Nesterov's; `momentum` is the plain one.
    """
    try:
        return create_optimizer_v2(
            list(param_groups),
            opt=recipe.optimizer,
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            momentum=recipe.momentum,
        )
    except ValueError as error:
        raise PasError(f"optimizer={recipe.optimizer} with momentum={recipe.momentum}: {error}") from error


def make_schedule(
    optimizer: torch.optim.Optimizer, recipe: Recipe, *, steps: int, steps_per_epoch: float
) -> Scheduler | None:
    """timm's schedule in optimiser steps: call `step_update(n)` after the n-th. None leaves the rates alone.

    Every group follows the same curve from its own learning rate; the warm-up's start and `min_lr` are absolute.
    """
    warmup = min(round(recipe.warmup_epochs * steps_per_epoch), steps - 1)
    if recipe.schedule == "none" and not warmup:
        return None
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched={"cosine": "cosine", "step": "multistep", "none": "constant"}[recipe.schedule],
        num_epochs=steps,
        decay_milestones=[int(share * steps) + 1 for share in recipe.milestones],  # timm decays one update ahead of a milestone
        decay_rate=0.1,
        min_lr=recipe.min_lr,
        warmup_epochs=warmup,
        warmup_lr=recipe.lr / 100,
        step_on_epochs=False,
        updates_per_epoch=1,
    )
    return scheduler
