"""What all methods with soft gates promise: a budget's band at any moment, a hold, equality of what is exported, a resume."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import searches
import soft
import torch
from networks import error, randomise, run
from torch import nn

import pas
from pas.gates.gated import Gated, scale
from pas.gates.soft import Soft
from pas.methods.soft import BOUND, Normalised, spread
from pas.surgery.forms import settle

METHODS = ("dms", "dtp", "l0", "gumbel")


@pytest.fixture(scope="module")
def digits():
    return soft.digits()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["repvgg_nano", "mobilenetv2_mini"])
def test_every_moment_lands_in_the_band_and_the_ladder_holds(digits, method: str, name: str) -> None:
    """Before the first step, in the ramp and in the hold; then, randomised, masked = sliced = fused in fp64."""
    search = soft.searcher(method, searches.network(name), round_to=2, hold=0.3, steps=10)
    search.calibrate(itertools.islice(digits.epoch(0), 1), searches.plain_loss)
    optimizer = soft.optimizer_of(search)
    done = 0
    for until in (0, 3, 8):
        soft.train(search, digits, until - done, done, optimizer)
        done = until
        limit = search.report()["budget"][0]
        assert 0.985 * limit["target"] <= limit["achieved"] <= limit["target"] == 0.5 * limit["dense"]
    x = torch.randn(8, 1, 32, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    search.model.double()
    randomise(search.backbone, x, torch.Generator().manual_seed(1))
    whole = search.settled().eval()
    masked, small = pas.mask(whole, search.signature, search.architecture), search.slice().eval()
    assert error(run(whole, x[:1]), run(whole, x[1:2])) > 1e-2
    assert error(run(whole, x), run(small, x)) > 1e-3  # dropping channels matters
    assert error(run(masked, x), run(small, x)) < 1e-10
    assert error(run(small, x), run(pas.fuse(small), x)) < 1e-10


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_search_goes_on_bit_for_bit(digits, method: str) -> None:
    """Four steps, then three more, the last of them in the hold: in one go, and with a new search in between."""
    search = soft.searcher(method, hold=0.3, steps=8)
    search.calibrate(itertools.islice(digits.epoch(0), 1), searches.plain_loss)
    optimizer = soft.optimizer_of(search)
    soft.train(search, digits, 4, optimizer=optimizer)
    state, momenta = copy.deepcopy(search.state_dict()), copy.deepcopy(optimizer.state_dict())
    soft.train(search, digits, 3, 4, optimizer)
    again = soft.searcher(method, searches.network(), hold=0.3, steps=8)
    again.load_state_dict(state)
    resumed = soft.optimizer_of(again)
    resumed.load_state_dict(momenta)
    soft.train(again, digits, 3, 4, resumed)
    for mine, other in ((search.model, again.model), (search.method, again.method)):
        expected, found = mine.state_dict(), other.state_dict()
        assert expected.keys() == found.keys()
        for name, tensor in expected.items():
            assert torch.equal(tensor, found[name]), name
    assert again.method.holds
    assert search.report() == again.report()


@pytest.mark.parametrize("method", METHODS)
def test_gates_are_soft_first_and_then_held(digits, method: str) -> None:
    """In the hold gates are exactly the mask that is exported, whatever optimisers do to their values, and weights go on training. What the
    report says the landing closed and reopened was so when the hold began.
    """
    search = soft.searcher(method, hold=0.25, steps=8)
    optimizer = soft.optimizer_of(search)
    gates = search.method.gates
    soft.train(search, digits, 5, optimizer=optimizer)
    assert not search.method.holds
    values = gates.train()()
    assert values.requires_grad
    soft.train(search, digits, 1, 5, optimizer)
    assert search.method.holds
    mask, held = search.landed(), search.method.gates.held.clone()
    gates.held.fill_(False)
    now = search.method.open()
    gates.held.copy_(held)
    forced = int((now & ~mask).sum()), int((~now & mask).sum())
    before = copy.deepcopy(search.backbone.state_dict())
    with torch.no_grad():
        for parameter in gates.parameters():
            parameter.add_(torch.randn_like(parameter))
    soft.train(search, digits, 2, 6, optimizer)
    for now in (gates.train()(), gates.eval()(), gates.settled()):
        assert torch.equal(now, torch.from_numpy(mask).to(now))
    report = search.report()
    assert (report["closed_by_export"], report["reopened_by_export"]) == forced == search.method.forced
    assert report["budget"][0]["open"] == report["budget"][0]["achieved"]
    assert any(not torch.equal(tensor, before[name]) for name, tensor in search.backbone.state_dict().items())
    assert float(search.penalty()) == 0
    search.model.train()
    searches.plain_loss(search.model, *next(iter(digits.epoch(1)))).backward()
    for name, parameter in gates.named_parameters():
        assert parameter.grad is not None, f"several processes wait for the gradient of {name}"
        assert not parameter.grad.any()


@pytest.mark.parametrize("method", ["dms", "dtp", "l0"])
def test_without_a_hold_the_multipliers_go_into_the_weights(digits, method: str) -> None:
    """What is exported computes what the gated network computes with the dropped channels off; 0 that comes back counts 1."""
    search = soft.searcher(method, hold=0.0)
    search.calibrate(itertools.islice(digits.epoch(0), 1), searches.plain_loss)
    soft.train(search, digits, 6)
    search.model.double().eval()
    x = torch.randn(4, 1, 32, 32, dtype=torch.float64)
    randomise(search.backbone, x, torch.Generator().manual_seed(1))
    gates, mask = search.method.gates.still().detach(), torch.from_numpy(search.landed())
    assert ((gates[mask] > 0) & (gates[mask] < 1)).sum() > 10
    expected = torch.where(gates > 0, gates, 1) * mask

    class Fixed(Soft):
        def quiet(self) -> torch.Tensor:
            return expected[self.free]

    problem, backbone = search.method.problem, copy.deepcopy(search.backbone)
    settle(backbone, search.signature, mask.numpy())
    gated = Gated(backbone, search.signature, Fixed(search.signature.channels, problem.free, problem.axis_index), fold=scale)
    assert error(run(gated.double().eval(), x), run(search.export().eval(), x)) < 1e-10


def test_a_gradient_of_one_size_by_hand() -> None:
    """Two groups. The first gradient is only looked at; the mean squares are then (9 + 16) / 2 and 4: the same one again gives
    3 / sqrt(12.5), 4 / sqrt(12.5) and 1. The mean of the second step, (1 - 1/2) old + 1/2 new, is the same; one ten times as large is cut.
    """
    parameter = nn.Parameter(torch.zeros(3))
    normalised = Normalised(parameter, torch.tensor([0, 0, 1]))

    def gradient(*values: float) -> list[float]:
        parameter.grad = None
        (parameter * torch.tensor(values)).sum().backward()
        normalised.update()
        return parameter.grad.tolist()

    assert gradient(3, 4, 2) == [0, 0, 0]
    assert gradient(3, 4, 2) == pytest.approx([3 / 12.5**0.5, 4 / 12.5**0.5, 1])
    assert normalised.square.tolist() == pytest.approx([12.5, 4])
    assert gradient(30, -40, 20) == pytest.approx([BOUND, -BOUND, BOUND])
    assert gradient(float("nan"), 0, 0)[1:] == [0, 0]
    assert normalised.square.isfinite().all()
    assert pytest.approx(10**0.5) == BOUND


def test_ranks_inside_an_axis_by_hand() -> None:
    """Four channels 5, 1, 3, 2 are 1, -1, 1/3, -1/3; two are at the ends."""
    problem = soft.two_layers("dms").method.problem
    scores = np.full(problem.signature.channels, np.inf)
    scores[problem.free] = [5, 1, 3, 2, 0.1, 0.2]
    assert spread(problem, scores).tolist() == pytest.approx([1, -1, 1 / 3, -1 / 3, -1, 1])


def test_the_target_falls_by_the_same_factor() -> None:
    """14 MACs to 7 over 40 of 100 steps after 20: half way sqrt(1/2); with a warm start of 5 it rises to 7."""
    for method in METHODS:
        search = soft.two_layers(method, warmup=0.2, ramp=0.4)
        for taken, expected in ((0, 14), (20, 14), (40, 14 * 0.5**0.5), (60, 7), (90, 7)):
            search.method.taken = taken
            assert search.method.targets() == pytest.approx([expected]), (method, taken)
        start = search.signature.dense().keep(search.signature.prunable[0].name, [0, 1]).keep(search.signature.prunable[1].name, [0])
        warm = soft.two_layers(method, warmup=0.2, ramp=0.4, start=start)
        assert warm.method.targets() == pytest.approx([2 + 2 + 1])
        assert (warm.method.open() == search.signature.mask(start)).all(), method


@pytest.mark.parametrize("method", METHODS)
def test_several_limits_hold_at_once(digits, method: str) -> None:
    search = pas.Search(searches.network(), torch.zeros(1, 1, 32, 32), budget=pas.Budget(macs=0.6, params=0.4), method=method, steps=8)
    soft.train(search, digits, 4)
    rows = search.report()["budget"]
    assert all(row["achieved"] <= row["target"] for row in rows)
    assert max(row["achieved"] / row["target"] for row in rows) >= 0.985


@pytest.mark.parametrize("method", METHODS)
def test_weights_are_not_in_the_gates_groups(method: str) -> None:
    """Every parameter once, those of the gates without decay or momentum, importances (which nobody trains) in none."""
    search = soft.searcher(method)
    groups = search.param_groups(lr=0.1, weight_decay=0.01)
    listed = [id(p) for group in groups for p in group["params"]]
    assert len(listed) == len(set(listed))
    own = {id(p) for p in search.method.gates.parameters()}
    assert {id(p) for group in groups[:2] for p in group["params"]} == {id(p) for p in search.backbone.parameters()}
    assert {id(p) for p in groups[2]["params"]} <= own
    assert (groups[2]["weight_decay"], groups[2]["momentum"]) == (0, 0)
