"""One training loop for every stage: dense training, search, fine-tuning. It stops and resumes bit for bit on a CPU."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pas.data.loader import Loader
from pas.errors import PasError
from pas.train.checkpoint import Checkpoint
from pas.train.meter import Meter
from pas.train.progress import Bar, Values
from pas.train.recipe import Recipe, make_optimizer, make_schedule
from pas.train.resume import Position, Stateful, identity, restore, store

LOGS_AN_EPOCH = 10

Loss = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class Fitted:
    """What a training came to. `loss` and `top1` (percent) are those of the last log row, over training images.

    `seconds` counts every start of a resumed training. `ema` is the averaged network if the recipe asked for one.
    """

    steps: int
    seconds: float
    loss: float
    top1: float | None
    ema: nn.Module | None


def fit(
    model: nn.Module,
    loader: Loader,
    recipe: Recipe,
    *,
    loss: Loss,
    groups: Iterable[dict[str, Any]],
    stage: str,
    device: torch.device | str,
    steps: int | None = None,
    extra_loss: Callable[[], Tensor] | None = None,
    after_step: Callable[[], None] | None = None,
    status: Callable[[], Values] | None = None,
    log: Callable[[dict[str, Any]], None] | None = None,
    checkpoint: Checkpoint | None = None,
    extras: Mapping[str, Stateful] | None = None,
    progress: Console | None = None,
) -> Fitted:
    """Train `model` in place.

    Args:
        loss: (model, x, y) -> (mean loss, number of hits or None), made by a task.
        groups: parameter groups, each with what it wants to differ from the recipe.
        stage: a name for rows and messages, such as "search".
        steps: optimiser steps; None means the recipe's epochs.
        extra_loss: added once a step, such as a search's penalty.
        after_step: called after the optimiser's step, such as a search's step.
        status: what to show and log beside the loss; read only when it is shown or logged.
        log: takes a row {stage, epoch, step, loss, lr, top1, seconds, numbers of status} ten times an epoch. Rows
            written after the last checkpoint come again, with equal values, when the training resumes there.
        checkpoint: where and how often to save; a state that is found there is resumed.
        extras: what else belongs to the state.
        progress: where to draw the bar; None is silent.

    Raises:
        PasError: the loss isn't finite, or the checkpoint belongs to another training.
    """
    device = torch.device(device)
    total = steps if steps is not None else max(1, recipe.epochs * len(loader) // recipe.accumulate)
    layout = torch.channels_last if recipe.channels_last else torch.preserve_format
    model.to(device, memory_format=layout).train()  # type: ignore[call-overload]  # torch declares one at a time
    optimizer = make_optimizer(groups, recipe)
    schedule = make_schedule(optimizer, recipe, steps=total, steps_per_epoch=len(loader) / recipe.accumulate)
    clipped = [p for group in optimizer.param_groups if group.get("clip", True) for p in group["params"]]
    ema = ModelEmaV3(model, decay=recipe.ema, use_warmup=True) if recipe.ema else None
    meter = Meter(device)

    parts: dict[str, Stateful] = {"model": model, "optimizer": optimizer, "meter": meter, **(extras or {})}
    if ema is not None:
        parts["ema"] = ema
    whose = identity(stage, total, recipe)
    place = restore(checkpoint, whose, parts) if checkpoint is not None else None
    place = place or Position(step=0, seconds=0.0, last=meter.read())

    leads = not dist.is_initialized() or dist.get_rank() == 0  # one process shows, logs and saves
    network, unsynchronised = _network(model, recipe, device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16")
    row_every = max(1, len(loader) // recipe.accumulate // LOGS_AN_EPOCH)
    batches = _stream(loader, place.step * recipe.accumulate)
    started = time.monotonic() - place.seconds
    saved_at = time.monotonic()

    with Bar(stage, total, place.step, progress if leads else None) as bar:
        while place.step < total:
            for part in range(recipe.accumulate):
                x, y = next(batches)
                x = x.to(device, memory_format=layout, non_blocking=True)
                y = y.to(device, non_blocking=True)
                complete = part == recipe.accumulate - 1
                with nullcontext() if complete else unsynchronised():
                    with autocast:
                        value, hits = loss(network, x, y)
                    objective = value / recipe.accumulate
                    if complete and extra_loss is not None:
                        objective = objective + extra_loss()
                    objective.backward()
                meter.add(value, hits, len(y))
            if recipe.clip_grad:
                nn.utils.clip_grad_norm_(clipped, recipe.clip_grad)
            rate = optimizer.param_groups[0]["lr"]
            optimizer.step()
            optimizer.zero_grad()
            place.step += 1
            if schedule is not None:
                schedule.step_update(place.step)
            if after_step is not None:
                after_step()
            if ema is not None:
                ema.update(model, step=place.step)

            place.seconds = time.monotonic() - started
            ended = place.step == total
            if place.step % row_every == 0 or ended:
                _refuse_infinite(meter, stage, place.step, rate)
                place.last = meter.read(all_ranks=True)
                meter.reset()
                values = status() if status is not None else {}
                if leads and log is not None:
                    epoch = (place.step * recipe.accumulate - 1) // len(loader)
                    log({"stage": stage, "epoch": epoch, "step": place.step, **_known(place.last), "lr": rate,
                         "seconds": round(place.seconds, 3), **_numbers(values)})  # fmt: skip
            if bar.due() or ended:
                bar.update(place.step, {**_known(place.last), **(status() if status is not None else {})})
            waited = time.monotonic() - saved_at
            if leads and checkpoint is not None and (ended or checkpoint.due(place.step, waited)):
                _refuse_infinite(meter, stage, place.step, rate)
                store(checkpoint, whose, parts, place)
                saved_at = time.monotonic()

    assert place.last["loss"] is not None  # a meter always has one
    averaged = ema.module if ema is not None else None
    return Fitted(place.step, place.seconds, place.last["loss"], place.last["top1"], averaged)


def _network(model: nn.Module, recipe: Recipe, device: torch.device) -> tuple[nn.Module, Callable[[], Any]]:
    """What to call for the forward pass, and a context in which gradients aren't exchanged between processes yet."""
    unsynchronised: Callable[[], Any] = nullcontext
    if dist.is_initialized():
        model = DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)
        unsynchronised = model.no_sync
    return torch.compile(model) if recipe.compile else model, unsynchronised  # type: ignore[return-value]  # of a module: a module


def _stream(loader: Loader, first: int) -> Iterator[tuple[Tensor, Tensor]]:
    """All batches of all epochs from number `first` on, without end."""
    epoch, start = divmod(first, len(loader))
    while True:
        yield from loader.epoch(epoch, start)
        epoch, start = epoch + 1, 0


def _refuse_infinite(meter: Meter, stage: str, step: int, rate: float) -> None:
    if not meter.finite():
        raise PasError(f"{stage}: the loss became infinite or NaN by step {step} at lr {rate:.3g}: lower the learning "
                       "rate, lengthen its warm-up or set clip_grad")  # fmt: skip


def _known(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None and not math.isnan(value)}


def _numbers(values: Values) -> dict[str, float]:
    """The values that are numbers, or text that is nothing but one."""
    numbers = {}
    for name, value in values.items():
        try:
            numbers[name] = float(value)
        except ValueError:
            continue
    return numbers
