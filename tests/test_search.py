"""Search in a loop of one's own: the contract of `pas.Search`, on real images."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import error, run
from torch import nn

import pas
from pas import models
from pas.data import Augment, load, make_loader
from pas.gates.gated import Gated
from pas.train.checkpoint import Checkpoint

STEPS = 24


@pytest.fixture(scope="module")
def digits():
    data = load("digits", image_size=32)
    return make_loader(
        data, data.train, batch_size=32, train=True, augment=Augment(2, False, 0), seed=0, device="cpu", workers=0
    )


def make_search(method: str = "pas", budget: float = 0.5, name: str = "repvgg_nano", **options) -> pas.Search:
    torch.manual_seed(0)
    model = models.create(name, num_classes=10, in_chans=1)
    example = torch.zeros(1, 1, 32, 32)
    return pas.Search(model, example, budget=pas.Budget(macs=budget), method=method, steps=STEPS, **options)


def make_optimizer(search: pas.Search) -> torch.optim.Optimizer:
    return torch.optim.SGD(search.param_groups(lr=0.02, weight_decay=1e-4), momentum=0.9)


def train(search: pas.Search, optimizer: torch.optim.Optimizer, loader, first: int, last: int) -> list[float]:
    losses = []
    search.model.train()
    for x, y in itertools.islice(loader.epoch(0), first, last):
        loss = F.cross_entropy(search.model(x), y) + search.penalty()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        search.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("method", ["pas", "uniform"])
@pytest.mark.parametrize("budget", [0.3, 0.7])
def test_ends_in_the_band_with_a_plain_network(digits, method: str, budget: float) -> None:
    search = make_search(method, budget)
    before = [p.clone() for p in search.model.parameters()]
    train(search, make_optimizer(search), digits, 0, STEPS)
    small = search.export()
    macs = pas.cost.macs(search.signature, search.architecture)
    report = search.report()["budget"][0]
    assert macs == report["achieved"] <= report["target"] == budget * report["dense"]
    assert report["target"] - macs <= 0.01 * report["target"]
    assert all(not type(module).__module__.startswith("pas.") or type(module).__module__.startswith("pas.models")
               for module in small.modules())  # fmt: skip
    assert sum(p.numel() for p in small.parameters()) == pas.cost.params(search.signature, search.architecture)
    assert any(not torch.equal(a, b) for a, b in zip(before, search.model.parameters(), strict=True))
    x = torch.randn(3, 1, 32, 32)
    assert error(run(search.slice().eval(), x), run(small.eval(), x)) < 1e-5


@pytest.mark.parametrize("stop", [0, 3, 11, STEPS])
def test_export_is_valid_at_any_moment(digits, stop: int) -> None:
    search = make_search()
    train(search, make_optimizer(search), digits, 0, stop)
    assert 0.99 * 0.5 <= pas.cost.macs(search.signature, search.architecture) / search.limits.each[0].dense <= 0.5
    assert run(search.export().eval(), torch.zeros(2, 1, 32, 32)).shape == (2, 10)


def test_search_and_export_leave_the_network_alone(digits) -> None:
    torch.manual_seed(0)
    model = models.create("repvgg_nano", num_classes=10, in_chans=1)
    before = copy.deepcopy(model.state_dict())
    search = pas.Search(model, torch.zeros(1, 1, 32, 32), budget=pas.Budget(macs=0.5), steps=STEPS)
    train(search, make_optimizer(search), digits, 0, 4)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    inside = copy.deepcopy(search.model.state_dict())
    search.export()
    assert all(torch.equal(value, inside[key]) for key, value in search.model.state_dict().items())


def test_resumes_bit_for_bit(digits, tmp_path) -> None:
    """Stopped after 13 of 24 steps, through the files of a checkpoint, in a new process's objects: the same weights and gates."""
    whole = make_search()
    losses = train(whole, make_optimizer(whole), digits, 0, STEPS)

    first = make_search()
    optimizer = make_optimizer(first)
    head = train(first, optimizer, digits, 0, 13)
    place = Checkpoint(tmp_path / "state")
    place.save({"search": first.state_dict(), "optimizer": optimizer.state_dict()})

    second = make_search()
    optimizer = make_optimizer(second)
    state = place.load()
    second.load_state_dict(state["search"])
    optimizer.load_state_dict(state["optimizer"])
    tail = train(second, optimizer, digits, 13, STEPS)
    assert head + tail == losses
    assert second.architecture == whole.architecture
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), second.model.parameters(), strict=True))


def test_the_cost_follows_the_target_down_and_gates_rest_at_the_end(digits) -> None:
    search = make_search()
    optimizer = make_optimizer(search)
    limit, method = search.limits.each[0], search.method
    costs, masks = [], []
    for step in range(STEPS):
        train(search, optimizer, digits, step, step + 1)
        costs.append(limit.cost.at(method.open()))
        masks.append(method.open())
        allowed = limit.dense + (limit.target - limit.dense) * method.target()
        assert costs[-1] <= allowed
    assert costs[0] == limit.dense
    assert costs[-1] <= limit.target
    resting = STEPS - method.last_move
    assert resting >= 4
    assert all((mask == masks[-1]).all() for mask in masks[-resting:])


def test_closed_gates_come_back() -> None:
    """A gradient that asks for a closed channel opens it again, and the projection closes another one instead."""
    search = make_search(gate_lr=2.0, warmup=0.05, ramp=0.1, hold=0.0)
    method = search.method
    method.last_move = 10**9
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(method.groups(0.1, 0.0))
    wanted: np.ndarray | None = None
    for step in range(60):
        gradient = torch.randn(len(method.gates.value), generator=generator)
        if step == 20:
            wanted = np.flatnonzero(~method.open()[method.problem.free])[:3]
        if wanted is not None:
            gradient[torch.from_numpy(wanted)] = -5.0
        (method.gates.value * gradient).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        method.step()
        if step >= 10:
            assert search.limits.load(method.open()) <= 1
    assert wanted is not None
    assert method.open()[method.problem.free[wanted]].all()


@pytest.mark.parametrize(("floor", "left"), [(0.25, 12), (0.0, 1)])
def test_no_layer_loses_its_last_channels(floor: float, left: int) -> None:
    """The loss hardly depends on one axis of 48 channels: a quarter of it stays, or a single channel where there is no floor."""
    search = make_search(budget=0.3, floor=floor)
    axis = next(axis for axis in search.signature.prunable if axis.size == 48)
    matters = torch.ones(search.signature.channels)
    matters[axis.start : axis.start + axis.size] = 1e-6
    for _ in range(STEPS):
        search.method.gates.value.grad = None
        (search.method.gates.value * torch.rand(len(search.method.gates.value)) * matters[search.method.problem.free]).sum().backward()
        search.step()
    assert search.method.open()[axis.start : axis.start + axis.size].sum() == left
    assert search.architecture.widths()[axis.name] == left


def test_a_state_of_another_size_is_refused_in_one_line() -> None:
    """After a shrink, or of another network; and `taylor` remembers that it has decided."""
    search, other = make_search(), make_search(name="cifar_resnet20")
    with pytest.raises(pas.PasError, match=r"call shrink\(\) before loading"):
        search.load_state_dict(other.state_dict())
    decided, fresh = make_search("taylor"), make_search("taylor")
    x, y = torch.rand(8, 1, 32, 32), torch.arange(8)
    decided.calibrate([(x, y)], lambda model, x, y: F.cross_entropy(model(x), y))
    with pytest.raises(pas.PasError, match="calibrate"):
        _ = fresh.architecture
    fresh.load_state_dict(decided.state_dict())
    assert fresh.architecture == decided.architecture


def test_param_groups_hold_every_parameter_once() -> None:
    search = make_search()
    groups = search.param_groups(lr=0.1, weight_decay=0.01)
    listed = [id(p) for group in groups for p in group["params"]]
    assert len(listed) == len(set(listed)) == sum(1 for _ in search.model.parameters())
    gates = next(group for group in groups if any(p is search.method.gates.value for p in group["params"]))
    assert gates["weight_decay"] == 0
    assert gates["lr"] != 0.1
    assert all(p.dim() > 1 for p in groups[0]["params"])


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_other_loops(digits, optimizer: type) -> None:
    """bf16 autocast, gradient accumulation and an averaged copy beside it."""
    search = make_search()
    averaged = torch.optim.swa_utils.AveragedModel(search.model)
    stepper = optimizer(search.param_groups(lr=1e-3, weight_decay=1e-4))
    batches = digits.epoch(0)
    for _ in range(8):
        for _ in range(2):
            x, y = next(batches)
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(search.model(x).float(), y) / 2 + search.penalty() / 2
            loss.backward()
        stepper.step()
        stepper.zero_grad()
        search.step()
        averaged.update_parameters(search.model)
    assert search.limits.load(search.signature.mask(search.architecture)) <= 1
    assert isinstance(averaged.module, Gated)


def test_keep_min_width_and_round_to() -> None:
    search = make_search(budget=0.7, keep=["stem", "stages.1.*"], min_width=6, round_to=4)
    widths = search.architecture.widths()
    dense = {axis.name: axis.size for axis in search.signature.prunable}
    for name, width in widths.items():
        if name == "stem" or name.startswith("stages.1."):
            assert width == dense[name]
        else:
            assert width >= 6
            assert width % 4 == 0 or width == dense[name]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "magic"}, "no method 'magic'; there are pas, pas_paper, "),
        ({"gate_rl": 1.0}, "did you mean 'gate_lr'"),
        ({"keep": ["nowhere.*"]}, "matches no axis"),
        ({"keep": ["*"]}, "no axis is left"),
        ({"min_width": 0}, "min_width must be at least 1"),
        ({"budget": 0.001}, "smallest possible is"),
    ],
)
def test_wrong_requests_are_refused(options: dict, words: str) -> None:
    with pytest.raises(pas.PasError, match=words):
        make_search(**options)


def test_uniform_keeps_the_same_share_everywhere() -> None:
    search = make_search("uniform", 0.5)
    shares = [w / search.signature.axis(name).size for name, w in search.architecture.widths().items()]
    assert max(shares) - min(shares) < 0.12, "one channel of the narrowest axis is a tenth of it"


def test_settled_identity_norms(digits) -> None:
    """After training with closed gates the exported network computes what the gated one computes in eval mode."""
    search = make_search(budget=0.4)
    train(search, make_optimizer(search), digits, 0, STEPS)
    mask = search.signature.mask(search.architecture)
    with torch.no_grad():
        search.method.gates.value.copy_(torch.from_numpy(mask[search.method.problem.free]).float())
    x = torch.randn(4, 1, 32, 32)
    model: nn.Module = copy.deepcopy(search.model).double().eval()
    assert error(run(model, x.double()), run(search.export().double().eval(), x.double())) < 1e-5


def test_overflows_and_steps_without_gradients_are_survived() -> None:
    """A gradient scaler's first steps overflow; what they would have measured is left out."""
    search = make_search()
    for step in range(STEPS):
        search.method.gates.value.grad = None
        if step % 3:
            factor = float("inf") if step % 3 == 1 else 1.0
            (search.method.gates.value * factor).sum().backward()
        search.step()
    assert search.limits.load(search.method.open()) <= 1
    assert torch.isfinite(search.method.gates.value).all()


def test_gates_take_no_part_in_clipping() -> None:
    search = make_search()
    groups = search.param_groups(lr=0.1, weight_decay=0.0)
    assert [group.get("clip", True) for group in groups] == [True, True, False]
