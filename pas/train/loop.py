"""One training loop for every stage: dense training, search, fine-tuning. It stops and resumes bit for bit on a CPU.

In a process group it is one training: every process takes its share of each batch, and what decides (a loss that isn't
finite, a checkpoint that is due) is decided for all, so that none waits for one that has gone.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.console import Console
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pas import distributed
from pas.data.loader import Loader
from pas.errors import AloneError, PasError
from pas.progress import Bar, Values
from pas.stop import Stopped, asked
from pas.train.checkpoint import Checkpoint
from pas.train.meter import Meter
from pas.train.norm import GlobalNorm
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
    optimizer: torch.optim.Optimizer = field(compare=False, repr=False)


def fit(
    model: nn.Module,
    loader: Loader,
    recipe: Recipe,
    *,
    loss: Loss,
    groups: Iterable[dict[str, Any]],
    stage: str,
    section: str | None = None,
    device: torch.device | str,
    sync_norm: bool = True,
    steps: int | None = None,
    first_epoch: int = 0,
    begin: int = 0,
    until: int | None = None,
    before: torch.optim.Optimizer | None = None,
    extra_loss: Callable[[], Tensor] | None = None,
    after_step: Callable[[], None] | None = None,
    marks: Mapping[int, Callable[[nn.Module], None]] | None = None,
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
        section: of the configuration's `train`, where the recipe comes from; the stage's by default.
        sync_norm: of several processes, batch norms see the images of all, as one process would; otherwise each sees
            its own, and the running statistics are those of the first.
        steps: optimiser steps; None means the recipe's epochs.
        first_epoch: number of the first epoch, which decides the order and augmentation of its images.
        begin, until: train only the steps after `begin` up to `until`, on the schedule of all of them.
        before: the optimiser of the steps before `begin`, over the same parameters; its momenta are taken over.
        extra_loss: added once a step, such as a search's penalty.
        after_step: called after the optimiser's step, such as a search's step.
        marks: steps after which to look at the network (or its running average), which counts as no time of the training.
        status: what to show and log beside the loss; read only when it is shown or logged.
        log: takes a row {stage, epoch, step, loss, lr, top1, seconds, numbers of status} ten times an epoch. Rows
            written after the last checkpoint come again, with equal values, when the training resumes there.
        checkpoint: where and how often to save; a state that is found there is resumed.
        extras: what else belongs to the state.
        progress: where to draw the bar; None is silent.

    Ctrl-C and SIGTERM stop it after the step at hand, with its state saved when there is a checkpoint; a second one at once.

    Raises:
        PasError: the loss or a weight isn't finite (what was saved before stays), the checkpoint belongs to another training
            or can't be written, or `recipe.compile` meets `sync_norm` in several processes.
        Stopped: it was asked to stop.
    """
    device = torch.device(device)
    total = steps if steps is not None else max(1, recipe.epochs * len(loader) // recipe.accumulate)
    last = total if until is None else until
    layout = torch.channels_last if recipe.channels_last else torch.preserve_format
    model.to(device, memory_format=layout).train()  # type: ignore[call-overload]  # torch declares one at a time
    sync_norm = sync_norm and distributed.several()
    network, unsynchronised = _network(model, recipe, device, sync_norm)
    optimizer = make_optimizer(groups, recipe)
    if before is not None:
        optimizer.state.update(before.state)
    schedule = make_schedule(optimizer, recipe, steps=total, steps_per_epoch=len(loader) / recipe.accumulate)
    clipped = [p for group in optimizer.param_groups if group.get("clip", True) for p in group["params"]]
    ema = ModelEmaV3(model, decay=recipe.ema, use_warmup=True) if recipe.ema else None
    meter = Meter(device)

    parts: dict[str, Stateful] = {"model": model, "optimizer": optimizer, "meter": meter, **(extras or {})}
    if ema is not None:
        parts["ema"] = ema
    whose = {**identity(stage, total, recipe), "begin": begin, "until": last}
    with distributed.together():
        place = restore(checkpoint, whose, parts) if checkpoint is not None else None
    if place is None:
        place = Position(step=begin, seconds=0.0, last=meter.read())
        if schedule is not None and begin:
            schedule.step_update(begin)
    distributed.agree(place.step, "the processes don't find the same checkpoint: paths.runs must be one folder for all")

    leads = distributed.leads()  # one process shows, logs and saves
    norms = GlobalNorm() if sync_norm else nullcontext()
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16")
    row_every = max(1, len(loader) // recipe.accumulate // LOGS_AN_EPOCH)
    batches = _stream(loader, first_epoch, place.step * recipe.accumulate)
    started = time.monotonic() - place.seconds
    saved_at = time.monotonic()
    saved_step = place.step

    def check(finite: bool) -> None:
        with distributed.together():
            if not (finite and _finite(model)):
                raise PasError(_diverged(stage, section or stage, place.step, rate, checkpoint, saved_step))

    with Bar(stage, total, place.step, progress if leads else None) as bar, asked() as stop:
        while place.step < last:
            for part in range(recipe.accumulate):
                x, y = _next(batches)
                x = x.to(device, memory_format=layout, non_blocking=True)
                y = y.to(device, non_blocking=True)
                complete = part == recipe.accumulate - 1
                with nullcontext() if complete else unsynchronised():
                    with norms, autocast:
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
                try:
                    after_step()
                except Exception:
                    check(meter.gather())  # a method can't compute with what isn't a number: then that is what has to be said
                    raise
            if ema is not None:
                ema.update(model, step=place.step)
            if marks is not None and place.step in marks:
                paused = time.monotonic()
                marks[place.step](model if ema is None else ema.module)
                started += time.monotonic() - paused

            place.seconds = time.monotonic() - started
            ended = place.step == last
            row_due = place.step % row_every == 0 or ended
            stopping = _agreed(stop(), row_due, device)
            if row_due:
                finite = meter.gather()
                if ended or not finite:
                    check(finite)
                place.last = meter.read()
                meter.reset()
                values = status() if status is not None else {}
                if log is not None:
                    epoch = (place.step * recipe.accumulate - 1) // len(loader)
                    row = {"stage": stage, "epoch": epoch, "step": place.step, **_known(place.last), "lr": rate,
                           "seconds": round(place.seconds, 3), **_numbers(values)}  # fmt: skip
                    with distributed.together():  # a full disk is found out by the one that writes
                        if leads:
                            log(row)
            if bar.due() or ended:
                bar.update(place.step, {**_known(place.last), **(status() if status is not None else {})})
            waited = time.monotonic() - saved_at
            saving = ended or bool(stopping) or distributed.broadcast(checkpoint is not None and checkpoint.due(place.step, waited))
            if checkpoint is not None and saving:
                check(meter.gather())
                with distributed.together():
                    if leads:
                        store(checkpoint, whose, parts, place)
                saved_at, saved_step = time.monotonic(), place.step
            if stopping:
                raise Stopped(stopping, f"{stage}, step {place.step} of {total}")

    if not sync_norm:
        for module in (model, ema):
            if module is not None:
                distributed.share_buffers(module)
    assert place.last["loss"] is not None  # a meter always has one
    averaged = ema.module if ema is not None else None
    return Fitted(place.step, place.seconds, place.last["loss"], place.last["top1"], averaged, optimizer)


def _network(
    model: nn.Module, recipe: Recipe, device: torch.device, sync_norm: bool
) -> tuple[nn.Module, Callable[[], Any]]:
    """What to call for the forward pass, and a context in which gradients aren't exchanged between processes yet."""
    unsynchronised: Callable[[], Any] = nullcontext
    if distributed.several():
        if recipe.compile and sync_norm:
            raise PasError("compile can't see norms over several processes: set hardware.compile=false or hardware.sync_norm=false")
        model = DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)
        unsynchronised = model.no_sync
    return torch.compile(model) if recipe.compile else model, unsynchronised  # type: ignore[return-value]  # of a module: a module


def _stream(loader: Loader, first_epoch: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
    """All batches of all epochs from `first_epoch` on, without end, but for the first ones."""
    epoch, start = divmod(first, len(loader))
    while True:
        yield from loader.epoch(first_epoch + epoch, start)
        epoch, start = epoch + 1, 0


def _next(batches: Iterator[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The next batch; of several processes, one whose images can't be read ends all."""
    try:
        return next(batches)
    except PasError as error:
        if distributed.several():
            raise AloneError(str(error)) from error
        raise


def _agreed(signal: int | None, row_due: bool, device: torch.device) -> int | None:
    """The signal after which all processes stop at this step: together, and only where they wait for each other anyway."""
    if not distributed.several():
        return signal
    if not row_due:
        return None
    return int(distributed.gathered(torch.tensor([signal or 0], device=device)).max()) or None


def _finite(model: nn.Module) -> bool:
    """Whether all weights and statistics are finite: a gradient can be infinite while the loss isn't yet."""
    checks = [tensor.isfinite().all() for tensor in model.state_dict().values() if tensor.is_floating_point()]
    return not checks or bool(torch.stack(checks).all())


def _diverged(stage: str, section: str, step: int, rate: float, checkpoint: Checkpoint | None, saved: int) -> str:
    kept = f"; the state of step {saved} is kept in {checkpoint.folder}" if checkpoint is not None and saved else ""
    return (
        f"{stage}: the loss or a weight became infinite or NaN by step {step} at lr {rate:.3g}{kept}: lower "
        f"train.{section}.lr, lengthen train.{section}.warmup_epochs or set train.{section}.clip_grad=1, and start again "
        "(changed settings make a run of its own, which starts from the same dense parent where that stays the same)"
    )


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
