"""The training loop: it learns, resumes bit for bit, logs what it promises, and refuses what can't go well."""

import io
import itertools
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from timm.utils import random_seed
from torch import nn

from pas import models
from pas.data import Augment, Data, load, make_loader
from pas.errors import PasError
from pas.stop import Stopped, asked
from pas.tasks import classification
from pas.train import Checkpoint, Fitted, Recipe, fit, make_optimizer, make_schedule, weight_groups

RECIPE = Recipe(epochs=3, batch_size=32, optimizer="sgd", lr=0.05, weight_decay=1e-4, warmup_epochs=0.5)


@pytest.fixture(scope="module")
def digits() -> Data:
    return load("digits", image_size=16, subset=128, val_fraction=0.2)  # four batches of 32 an epoch


class Net(nn.Module):
    """Batch statistics, dropout, and a weight that is used twice: all that a resume can get wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, stride=2)
        self.again = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.tied = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.tied.weight = self.again.weight
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.tied(self.again(self.conv(x)))).relu()
        return self.head(self.drop(x.mean((2, 3))))


class Counter:
    """Stands for a search: a state of its own, a loss term and a step."""

    def __init__(self) -> None:
        self.gate, self.steps = nn.Parameter(torch.ones(3)), 0

    def penalty(self) -> torch.Tensor:
        return 0.1 * self.gate.square().sum()

    def step(self) -> None:
        self.steps += 1

    def state_dict(self) -> dict[str, object]:
        return {"gate": self.gate.detach(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, object]) -> None:
        self.gate.data.copy_(state["gate"])
        self.steps = state["steps"]


class Killed(Exception):
    pass


@dataclass
class Outcome:
    fitted: Fitted
    model: nn.Module
    counter: Counter
    rows: list[dict]


def run(data: Data, recipe: Recipe, checkpoint: Checkpoint | None = None, kill_after: int | None = None) -> Outcome:
    """A whole training from fresh objects; it dies in the middle of step `kill_after` + 1."""
    random_seed(0)  # Python's, numpy's (which timm's mixup draws from) and torch's generators
    model, counter, rows = Net(), Counter(), []

    def after_step() -> None:
        counter.step()
        if counter.steps - 1 == kill_after:
            raise Killed

    loader = make_loader(
        data, data.train, batch_size=recipe.batch_size, train=True, augment=Augment(2, True, 3), seed=0, device="cpu",
        workers=0,
    )  # fmt: skip
    groups = [*weight_groups(model, recipe.weight_decay), {"params": [counter.gate], "lr": 0.5, "weight_decay": 0.0}]
    fitted = fit(
        model, loader, recipe, loss=classification.loss(recipe, 10), groups=groups, stage="search", device="cpu",
        extra_loss=counter.penalty, after_step=after_step, status=lambda: {"open": counter.steps, "text": "3 of 4"},
        log=rows.append, checkpoint=checkpoint, extras={"search": counter},
    )  # fmt: skip
    return Outcome(fitted, model, counter, rows)


RESUMED = {
    "sgd": RECIPE,
    "adamw, averaged, accumulated, clipped": replace(
        RECIPE, optimizer="adamw", lr=0.01, ema=0.9, accumulate=2, clip_grad=1.0, schedule="step"
    ),
    "mixed, smoothed, bf16": replace(RECIPE, mixup=0.2, cutmix=1.0, label_smoothing=0.1, precision="bf16"),
    "lamb, channels last": replace(RECIPE, optimizer="lamb", lr=0.01, channels_last=True, schedule="none"),
}


@pytest.mark.parametrize("recipe", RESUMED.values(), ids=RESUMED)
@pytest.mark.parametrize("kill_after", [2, 4, 5])
def test_killed_and_resumed_equals_uninterrupted(digits: Data, tmp_path: Path, recipe: Recipe, kill_after: int) -> None:
    whole = run(digits, recipe)
    checkpoint = Checkpoint(tmp_path / "checkpoint", seconds=1e9, steps=2)
    with pytest.raises(Killed):
        run(digits, recipe, checkpoint, kill_after=kill_after)
    random_seed(1)
    resumed = run(digits, recipe, checkpoint)
    assert resumed.counter.steps == whole.counter.steps == resumed.fitted.steps
    assert torch.equal(resumed.counter.gate, whole.counter.gate)
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key]), key
    if recipe.ema:
        for key, value in whole.fitted.ema.state_dict().items():
            assert torch.equal(value, resumed.fitted.ema.state_dict()[key]), key
    timeless = [{key: value for key, value in row.items() if key != "seconds"} for row in whole.rows]
    again = [{key: value for key, value in row.items() if key != "seconds"} for row in resumed.rows]
    assert again == timeless[-len(again) :]
    assert resumed.fitted.loss == whole.fitted.loss
    assert resumed.fitted.top1 == whole.fitted.top1


def test_a_stage_goes_on_with_later_epochs(digits: Data) -> None:
    """Four batches an epoch; from batch 3 of epoch 5 on come one batch of it, then those of epoch 6."""
    asked_for = []

    class Noting:
        def __len__(self) -> int:
            return 4

        def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            asked_for.append((epoch, start))
            yield from itertools.repeat((torch.randn(2, 1, 16, 16), torch.tensor([0, 1])), 4 - start)

    model, recipe = Net(), replace(RECIPE, epochs=2, warmup_epochs=0)
    fit(model, Noting(), recipe, loss=classification.loss(recipe, 10), groups=weight_groups(model, 0.0), stage="finetune", device="cpu",
        first_epoch=5, begin=3)  # fmt: skip
    assert asked_for == [(5, 3), (6, 0)]


def test_momenta_are_taken_over(digits: Data) -> None:
    """Two halves of a training with the first one's optimiser are the whole one; with a new one they aren't."""

    def halves(carry: bool, middle: int = 6) -> nn.Module:
        random_seed(0)
        model, recipe = Net(), replace(RECIPE, schedule="none", warmup_epochs=0)
        loader = make_loader(digits, digits.train, batch_size=32, train=True, augment=Augment(0, False, 0), seed=0, device="cpu", workers=0)
        common = {"loss": classification.loss(recipe, 10), "stage": "search", "device": "cpu", "steps": 12}
        first = fit(model, loader, recipe, groups=weight_groups(model, 0.0), until=middle, **common)
        before = first.optimizer if carry else None
        fit(model, loader, recipe, groups=weight_groups(model, 0.0), begin=middle, before=before, **common)
        return model

    whole, carried, anew = halves(True, 12), halves(True), halves(False)
    assert torch.equal(whole.again.weight, carried.again.weight)
    assert not torch.equal(whole.again.weight, anew.again.weight)


def test_a_signal_after_the_last_question_still_stops() -> None:
    def ends() -> None:
        with asked() as stop:
            assert stop() is None
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        ends()


def test_distillation_by_hand() -> None:
    """T = 2: the teacher's logits (2 ln 3, 0) are 3/4 and 1/4 there, the network's (0, 0) a half each, so
    KL = 3/4 ln(3/2) + 1/4 ln(1/2) = 0.130812, four times that 0.523248; with CE = ln 2 at a share of 1/4: 0.650672.
    """
    logits, taught = torch.zeros(1, 2), torch.tensor([[2 * math.log(3), 0.0]])
    assert classification.distillation(logits, taught, 2.0).item() == pytest.approx(0.523248, abs=1e-6)
    teacher = lambda x: taught + 0 * x.sum()  # noqa: E731
    distilling = classification.loss(replace(RECIPE, distill=0.25, temperature=2.0), 2, teacher)
    value = distilling(lambda x: logits, torch.ones(1, 1), torch.tensor([0]))
    assert value[0].item() == pytest.approx(0.650672, abs=1e-6)


def test_finished_training_is_not_run_again(digits: Data, tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    first, second = (run(digits, RECIPE, checkpoint) for _ in range(2))
    assert second.rows == []
    assert second.fitted == first.fitted
    assert all(torch.equal(a, b) for a, b in zip(first.model.state_dict().values(),
                                                 second.model.state_dict().values(), strict=True))  # fmt: skip


def test_checkpoint_of_another_training_is_refused(digits: Data, tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    run(digits, RECIPE, checkpoint)
    with pytest.raises(PasError, match=r"another training \(lr 0.05 -> 0.1\)"):
        run(digits, replace(RECIPE, lr=0.1), checkpoint)
    run(digits, replace(RECIPE, channels_last=True), checkpoint)  # another machine's settings may differ


def test_rows_say_where_and_how_well(digits: Data) -> None:
    rows = run(digits, RECIPE).rows
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert [row["epoch"] for row in rows] == [0] * 4 + [1] * 4 + [2] * 4
    assert set(rows[0]) == {"stage", "epoch", "step", "loss", "top1", "lr", "seconds", "open"}
    assert all(row["stage"] == "search" and row["open"] == row["step"] for row in rows)
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert 0 <= rows[-1]["top1"] <= 100
    assert "top1" not in run(digits, replace(RECIPE, mixup=0.2)).rows[0]


def test_one_step_is_the_optimisers_step_on_the_batch(digits: Data) -> None:
    """Against plain PyTorch: SGD on the mean of two accumulated batches plus the extra loss."""
    recipe = replace(RECIPE, accumulate=2, warmup_epochs=0, schedule="none", optimizer="momentum", momentum=0.0,
                     weight_decay=0.0)  # fmt: skip
    weight = nn.Linear(256, 10).double()
    expected = nn.Linear(256, 10).double()
    expected.load_state_dict(weight.state_dict())
    loader = make_loader(digits, digits.train, batch_size=32, train=True, augment=Augment(0, False, 0), seed=0,
                         device="cpu", workers=0)  # fmt: skip

    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, None]:
        return nn.functional.cross_entropy(model(x.flatten(1).double()), y), None

    fit(weight, loader, recipe, loss=loss, groups=weight_groups(weight, 0.0), stage="dense", device="cpu", steps=1,
        extra_loss=lambda: weight.weight.square().sum())  # fmt: skip
    batches = loader.epoch(0)
    total = sum(loss(expected, *next(batches))[0] for _ in range(2)) / 2 + expected.weight.square().sum()
    total.backward()
    with torch.no_grad():
        for parameter in expected.parameters():
            parameter -= 0.05 * parameter.grad
    for found, wanted in zip(weight.parameters(), expected.parameters(), strict=True):
        assert torch.allclose(found, wanted, rtol=0, atol=1e-12)


def test_infinite_loss_is_refused_before_it_is_saved(digits: Data, tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "checkpoint", seconds=0)
    with pytest.raises(PasError, match=r"infinite or NaN by step .* lower train.search.lr, lengthen"):
        run(digits, replace(RECIPE, lr=1e20, warmup_epochs=0), checkpoint)
    saved = checkpoint.load()
    assert saved is None or torch.isfinite(saved["parts"]["meter"]["sums"]).all()


def test_no_decay_for_norms_and_biases() -> None:
    model = Net()
    model.conv.weight.requires_grad_(False)
    decayed, plain = weight_groups(model, 0.1)
    assert {id(p) for p in decayed["params"]} == {id(model.again.weight), id(model.head.weight)}
    assert {id(p) for p in plain["params"]} == {
        id(p) for p in (model.conv.bias, model.norm.weight, model.norm.bias, model.head.bias)
    }
    optimizer = make_optimizer([decayed, plain, {"params": [nn.Parameter(torch.ones(1))], "lr": 0.7}], RECIPE)
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [
        (0.05, 0.1), (0.05, 0.0), (0.7, 1e-4)
    ]  # fmt: skip
    assert optimizer.param_groups[0]["momentum"] == 0.9


def rates(schedule: str, steps: int = 40, warmup: float = 0.0) -> list[list[float]]:
    recipe = replace(RECIPE, lr=1.0, schedule=schedule, warmup_epochs=warmup)
    groups = [{"params": [nn.Parameter(torch.ones(1))]}, {"params": [nn.Parameter(torch.ones(1))], "lr": 0.1}]
    optimizer = make_optimizer(groups, recipe)
    scheduler = make_schedule(optimizer, recipe, steps=steps, steps_per_epoch=10)
    seen = []
    for step in range(1, steps + 1):
        seen.append([group["lr"] for group in optimizer.param_groups])
        if scheduler is not None:
            scheduler.step_update(step)
    return seen


def test_schedules_follow_their_curves() -> None:
    cosine = rates("cosine")
    assert cosine[0] == pytest.approx([1, 0.1])
    assert cosine[20] == pytest.approx([0.5, 0.05])
    assert 0 < cosine[-1][0] < 0.01
    step = rates("step")
    assert [step[i][0] for i in (0, 19, 20, 29, 30, 39)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert rates("none") == [[1.0, 0.1]] * 40
    warm = rates("none", warmup=1)
    assert warm[0][0] == pytest.approx(0.01)
    assert warm[10:] == [[1.0, 0.1]] * 30
    assert warm[5][0] == pytest.approx(0.505)


def test_bad_recipes_are_refused() -> None:
    for field, value in {"schedule": "sine", "precision": "fp8", "optimizer": "sgdd"}.items():
        with pytest.raises(PasError, match=f"{field}={value}"):
            replace(RECIPE, **{field: value})
    with pytest.raises(PasError, match=r"optimizer=sgd with momentum=0.0: Nesterov"):
        make_optimizer(weight_groups(Net(), 0.0), replace(RECIPE, momentum=0.0))


def test_evaluate_counts_every_image_and_keeps_the_mode(digits: Data) -> None:
    class Known(nn.Module):
        """Logits that put the class `mean // 20 % 10` first."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.one_hot((x.mean((1, 2, 3)).abs() * 20).long() % 10, 10).float() * 5

    model = Known().train()
    loader = make_loader(digits, digits.test, batch_size=100, train=False, augment=Augment(0, False, 0), seed=0,
                         device="cpu", workers=0)  # fmt: skip
    metrics = classification.evaluate(model, loader, device="cpu", precision="fp32")
    x, y = (torch.cat(part) for part in zip(*loader.epoch(0), strict=True))
    assert metrics.n == 359
    assert model.training
    assert metrics.top1 == pytest.approx(100 * (model(x).argmax(1) == y).double().mean().item())
    assert metrics.loss == pytest.approx(nn.functional.cross_entropy(model(x), y).item(), rel=1e-5)
    assert metrics.top1 <= metrics.top5 < 100


def test_progress_lines_without_a_terminal_and_a_bar_on_one(digits: Data, monkeypatch) -> None:
    def shown(terminal: bool) -> str:
        out = io.StringIO()
        torch.manual_seed(0)
        model = Net()
        loader = make_loader(digits, digits.train, batch_size=32, train=True, augment=Augment(0, False, 0), seed=0,
                             device="cpu", workers=0)  # fmt: skip
        fit(model, loader, RECIPE, loss=classification.loss(RECIPE, 10), groups=weight_groups(model, 0), stage="dense",
            device="cpu", status=lambda: {"macs": "1.2 M"},
            progress=Console(file=out, force_terminal=terminal, width=120))  # fmt: skip
        return out.getvalue()

    monkeypatch.setattr("pas.progress.LINE_SECONDS", 0.0)
    lines = shown(terminal=False).splitlines()
    assert len(lines) == 12
    assert lines[-1].startswith("dense 12/12  0 s left  loss ")
    assert "macs 1.2 M" in lines[-1]
    bar = shown(terminal=True)
    assert "\x1b[" in bar
    assert "12/12" in bar
    assert "macs 1.2 M" in bar


def test_digits_are_learned_in_seconds() -> None:
    """The default of the command line: nine in ten after five epochs, 97 to 99 % after twelve."""
    torch.manual_seed(0)
    data = load("digits")
    recipe = replace(RECIPE, epochs=5, batch_size=64, lr=0.1)
    model = models.create("repvgg_nano", num_classes=10, in_chans=1)
    options = {"augment": Augment(2, False, 0), "seed": 0, "device": "cpu", "workers": 0}
    loader = make_loader(data, data.train, batch_size=64, train=True, **options)
    fit(model, loader, recipe, loss=classification.loss(recipe, 10), groups=weight_groups(model, 1e-4), stage="dense",
        device="cpu")  # fmt: skip
    test = make_loader(data, data.test, batch_size=256, train=False, **options)
    assert classification.evaluate(model, test, device="cpu", precision="fp32").top1 > 90


@pytest.mark.slow
def test_the_loop_costs_next_to_nothing() -> None:
    """Medians of interleaved runs against a bare loop over the same batches."""
    data = load("digits", subset=512, val_fraction=0)
    recipe = replace(RECIPE, epochs=1, batch_size=64, warmup_epochs=0)
    augment = Augment(2, False, 0)
    loader = make_loader(data, data.train, batch_size=64, train=True, augment=augment, seed=0, device="cpu", workers=0)

    def seconds(bare: bool) -> float:
        model = models.create("repvgg_nano", num_classes=10, in_chans=1)
        groups = weight_groups(model, 1e-4)
        start = time.perf_counter()
        if bare:
            optimizer = make_optimizer(groups, recipe)
            for x, y in loader.epoch(0):
                nn.functional.cross_entropy(model(x), y).backward()
                optimizer.step()
                optimizer.zero_grad()
        else:
            fit(model, loader, recipe, loss=classification.loss(recipe, 10), groups=groups, stage="dense", device="cpu")
        return time.perf_counter() - start

    pairs = [(seconds(False), seconds(True)) for _ in range(11)]
    ours, bare = (sorted(times)[5] for times in zip(*pairs, strict=True))
    assert ours < 1.1 * bare


TWO_PROCESSES = """
import sys, torch, torch.distributed as dist
from torch import nn
from pas.data import Augment, load, make_loader
from pas.tasks import classification
from pas.train import Checkpoint, Recipe, fit, weight_groups
from pathlib import Path

rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
torch.set_num_threads(1)
if world > 1:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
torch.manual_seed(0)
data = load("digits", image_size=8, subset=100)
model = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 10)).double()
cast = lambda model, x, y: classification.loss(recipe, 10)(model, x.double(), y)
recipe = Recipe(epochs=2, batch_size=32, optimizer="sgd", lr=0.1, weight_decay=1e-4, accumulate=2)
off = Augment(0, False, 0)
options = {"augment": off, "seed": 0, "device": "cpu", "workers": 0}
rows = []
fit(model, make_loader(data, data.train, batch_size=32, train=True, **options), recipe, loss=cast, stage="dense",
    groups=weight_groups(model, 1e-4), device="cpu", log=rows.append, checkpoint=Checkpoint(folder / f"state{world}"))
test = classification.evaluate(model.float(), make_loader(data, data.test, batch_size=100, train=False, **options),
                               device="cpu", precision="fp32")
torch.save({"weights": [p.detach() for p in model.parameters()], "test": [test.top1, test.top5, test.n],
            "rows": [[row["step"], row["loss"]] for row in rows]}, folder / f"{world}-{rank}.pt")
"""


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """Same batches, shared out: equal weights on both, equal to one process's; only the first logs and saves."""
    for world in (1, 2):
        command = [sys.executable, "-W", "ignore", "-c", TWO_PROCESSES]
        processes = [subprocess.Popen([*command, str(rank), str(world), str(tmp_path)]) for rank in range(world)]
        assert [process.wait(timeout=120) for process in processes] == [0] * world
    one, first, second = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("1-0", "2-0", "2-1"))
    for single, a, b in zip(one["weights"], first["weights"], second["weights"], strict=True):
        assert torch.equal(a, b)
        assert torch.allclose(single, a, rtol=0, atol=1e-6)
    assert one["test"] == first["test"] == second["test"]
    assert second["rows"] == []
    for row, expected in zip(first["rows"], one["rows"], strict=True):
        assert row == pytest.approx(expected, rel=1e-5)
