"""HALP: importance at the norms, groups under marginal costs, masks that never reopen."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import error, randomise, run
from searches import network
from test_methods import STEPS, searcher, train
from torch import nn

import pas
from pas.gates.gated import Gated, scale

# -- importance


@pytest.mark.parametrize("name", ["repvgg_nano", "mobilenetv2_mini", "cifar_resnet20"])
def test_importance_is_the_sum_over_the_norms_of_a_channel(digits, name: str) -> None:
    """|sum of gamma g_gamma + beta g_beta|, over norms found by hand: in ResNet-20 all that additions tie to the first one; in a block
    those of both branches and of the identity; in an inverted residual those of the expansion and of the depth-wise layer.
    """
    search = searcher("halp", network(name), ramp=1.0, prunings=1)
    x, y = next(iter(digits.epoch(0)))
    F.cross_entropy(search.model.train()(x), y).backward()

    def effect(norm: nn.Module) -> torch.Tensor:
        return (norm.weight * norm.weight.grad + norm.bias * norm.bias.grad).detach()

    net = search.backbone
    if name == "repvgg_nano":
        block = net.stages[2][1]
        group, slot = [block.conv_kxk.bn, block.conv_1x1.bn, block.identity], "stages.2.1.reparam_conv.weight"
    elif name == "mobilenetv2_mini":
        group, slot = [net.blocks[1][1].bn1, net.blocks[1][1].bn2], "blocks.1.1.conv_pw.weight"
    else:
        group, slot = [net.bn1, *(block.bn2 for block in net.layer1)], "conv1.weight"
    total = sum(effect(norm) for norm in group)
    if name == "cifar_resnet20":  # whose shortcuts put 8 channels before and behind these 16, then 16 before and behind the 32
        total = total + sum(effect(block.bn2)[8:24] for block in net.layer2) + sum(effect(block.bn2)[24:40] for block in net.layer3)
    expected = total.abs().numpy()
    search.step()
    axis = next(a for a in search.signature.prunable if any(s.parameter == slot and s.dim == 0 for s in a.slots))
    found = search.method.importance()
    assert found is not None
    assert found[axis.start : axis.start + axis.size] == pytest.approx(expected, rel=1e-4, abs=1e-8)


def test_it_is_the_gradient_of_a_gate_behind_the_norm() -> None:
    """z (gamma x^ + beta): dL/dz = gamma g_gamma + beta g_beta, by finite differences of z."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(32, 2)).double()
    x = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    nn.init.normal_(model[1].bias)
    search = pas.Search(model, x, budget=pas.Budget(macs=0.9), method="halp", steps=9)
    search.model.train()(x).square().sum().backward()
    search.step()
    axis = search.signature.axis("0")
    found = search.method.importance()[axis.start : axis.start + 3]
    plain = copy.deepcopy(model).train()

    def loss(z: torch.Tensor) -> float:
        hidden = plain[1](plain[0](x)) * z[:, None, None]
        return float(plain[2:](hidden).square().sum())

    for i in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[i] = 1e-6
        with torch.no_grad():
            slope = (loss(1 + step) - loss(1 - step)) / 2e-6
        assert found[i] == pytest.approx(abs(slope), rel=1e-5)


def test_without_norms_what_makes_a_channel_judges() -> None:
    """y = sum_i v_i w_i x: |w_i dL/dw_i| = |v_i w_i x| = 6, 4, 3. On average over x = 1 and -3: twice that. Of two backward passes in one
    step the sum counts: |1 - 3|, twice, too."""
    model = nn.Sequential(nn.Linear(1, 3, bias=False), nn.Linear(3, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[2.0], [1.0], [3.0]]))
        model[1].weight.copy_(torch.tensor([[3.0, 4.0, -1.0]]))
    for together in (False, True):
        search = pas.Search(model, torch.zeros(1, 1), budget=pas.Budget(macs=0.7), method="halp", steps=100, prunings=1)
        for x in (1.0, float("nan"), -3.0) if not together else (1.0, -3.0):
            search.model(torch.full((1, 1), x)).sum().backward()
            if not together:
                search.step()
        if together:
            search.step()
        worth = search.method.importance()
        assert worth[search.method.problem.free] == pytest.approx(2 * np.array([6, 4, 3]))


# -- rounds


def test_a_round_by_hand() -> None:
    """1x1 convolutions 1 -> 4 -> 2 -> 1 on one pixel cost a + ab + 2 of b = 4 + 8 + 2 = 14. One channel of a is given (1) and one of b
    (1 + 4: read by a last layer, and made of four channels), which leaves 14 - 0.5 - 6 to spend of an allowed 13.5 or so:
    a's other three cost 1 each, b's second 5. With importances 4, 3, 2, 1 and 9, 5 and 7.5 to spend: all of b, two more of a.
    """
    layers = [nn.Conv2d(a, b, 1, bias=False) for a, b in ((1, 4), (4, 2), (2, 1))]
    search = pas.Search(nn.Sequential(*layers), torch.zeros(1, 1, 1, 1), budget=pas.Budget(macs=0.5), method="halp", steps=100)
    worth = np.zeros(search.signature.channels)
    first, second = search.method.problem.widths.axes
    worth[first.start : first.start + 4] = [2, 4, 1, 3]
    worth[second.start : second.start + 2] = [5, 9]
    mask = search.method.choose(worth, allowed=13.5 / 7)
    assert mask[first.start : first.start + 4].tolist() == [True, True, False, True]
    assert mask[second.start : second.start + 2].all()
    cheap = search.method.choose(worth, allowed=9.5 / 7)  # 3.5 to spend: b's second doesn't fit, a's do
    assert cheap[first.start : first.start + 4].all()
    assert cheap[second.start : second.start + 2].tolist() == [False, True]


def test_closed_channels_stay_closed(digits) -> None:
    """Over the rounds channels only go, whatever their importance; the allowed cost falls geometrically, and is held."""
    search = searcher("halp", ramp=0.5, prunings=6, round_to=2)
    method, limit = search.method, search.limits.each[0]
    assert sorted(method.moments) == [2, 4, 6, 8, 10, 12]
    before = method.open()
    for step in range(12):
        train(search, digits, 1, step)
        now = method.open()
        share = method.moments.get(step + 1)
        if share is None:
            assert (now == before).all()
        elif share < 1:
            assert not (now & ~before).any()
            assert limit.cost.at(now) <= limit.target * 2 ** (1 - share)
            assert now.sum() < before.sum()
        before = now
    assert method.rests
    report = search.report()
    assert (report["closed_by_export"], report["reopened_by_export"]) == (0, 0)
    train(search, digits, 2, 12)
    assert (method.open() == before).all()


@pytest.mark.parametrize("name", ["repvgg_nano", "mobilenetv2_mini"])
def test_lands_in_the_band_and_climbs_the_ladder(digits, name: str) -> None:
    """Of a search that rests, masked = sliced = fused in fp64."""
    search = searcher("halp", network(name), ramp=0.2, prunings=3, round_to=4)
    x = torch.randn(2, 1, 32, 32)
    assert torch.equal(run(search.model.eval(), x), run(search.backbone.eval(), x))
    train(search, digits, 6)
    limit = search.limits.each[0]
    assert 0.985 * limit.target <= limit.cost.at(search.method.open()) <= limit.target
    randomise(search.backbone, torch.randn(8, 1, 32, 32), torch.Generator().manual_seed(1))
    settled, x = search.settled().double().eval(), x.double()
    small = pas.slice(settled, search.signature, search.architecture)
    masked = run(pas.mask(settled, search.signature, search.architecture), x)
    assert error(masked, run(settled, x)) > 1e-3
    assert error(masked, run(small, x)) < 1e-10
    assert error(run(small, x), run(pas.fuse(small), x)) < 1e-10


@pytest.mark.parametrize("stop", [0, 3])
def test_export_is_valid_at_any_moment(digits, stop: int) -> None:
    search = searcher("halp")
    train(search, digits, stop)
    limit = search.limits.each[0]
    assert 0.99 * limit.target <= limit.cost.at(search.landed()) <= limit.target


def test_resumes_bit_for_bit(digits) -> None:
    def start() -> tuple[pas.Search, torch.optim.Optimizer]:
        search = searcher("halp", ramp=0.5, prunings=4)
        return search, torch.optim.SGD(search.param_groups(lr=0.02, weight_decay=1e-4), momentum=0.9)

    def go(search: pas.Search, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
        search.model.train()
        for x, y in itertools.islice(digits.epoch(0), first, last):
            (F.cross_entropy(search.model(x), y) + search.penalty()).backward()
            optimizer.step()
            optimizer.zero_grad()
            search.step()

    whole, optimizer = start()
    go(whole, optimizer, 0, 14)
    first, optimizer = start()
    go(first, optimizer, 0, 8)
    state, its = copy.deepcopy((first.state_dict(), optimizer.state_dict()))
    second, optimizer = start()
    second.load_state_dict(state)
    optimizer.load_state_dict(its)
    go(second, optimizer, 8, 14)
    one, other = whole.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert whole.architecture == second.architecture


def test_shrinking_takes_what_is_closed(digits) -> None:
    """In the middle of the rounds; the smaller search goes on to the same budget."""
    search = searcher("halp", ramp=0.5, prunings=6, round_to=4)
    train(search, digits, 8)
    small = search.shrink()
    assert small is not search
    before, after = (sum(p.numel() for p in s.backbone.parameters()) for s in (search, small))
    assert after < before
    assert small.architecture == search.architecture
    train(small, digits, STEPS - 8, 8)
    assert small.method.rests
    limit = small.report()["budget"][0]
    assert 0.985 * limit["target"] <= limit["open"] <= limit["target"]


def test_the_gates_need_no_gradient() -> None:
    search = searcher("halp")
    assert not search.method.gates.value.requires_grad
    assert not search.method.groups(0.1, 0.0)
    assert isinstance(search.model, Gated)
    assert search.model._fold is not scale
