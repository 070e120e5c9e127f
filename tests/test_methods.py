"""Every method on the same small networks: what it decides, what it may not do, and numbers derived by hand."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import error, randomise, run
from searches import network, plain_loss
from torch import nn

import pas
from pas.criteria import l1, taylor
from pas.errors import PasError
from pas.methods import METHODS
from pas.surgery.forms import settle

STEPS = 24


def searcher(method: str, model: nn.Module | None = None, budget: float = 0.5, **options) -> pas.Search:
    model = network() if model is None else model
    return pas.Search(model, torch.zeros(1, 1, 32, 32), budget=pas.Budget(macs=budget), method=method, steps=STEPS, **options)


def train(search: pas.Search, loader, steps: int = STEPS, first: int = 0) -> None:
    optimizer = torch.optim.SGD(search.param_groups(lr=0.02, weight_decay=1e-4), momentum=0.9)
    search.model.train()
    for x, y in itertools.islice(loader.epoch(0), first, first + steps):
        (F.cross_entropy(search.model(x), y) + search.penalty()).backward()
        optimizer.step()
        optimizer.zero_grad()
        search.step()


def half(search: pas.Search) -> pas.Architecture:
    """Every second channel of every axis."""
    architecture = search.signature.dense()
    for axis in search.signature.prunable:
        architecture = architecture.keep(axis.name, range(0, axis.size, 2))
    return architecture


@pytest.mark.parametrize("method", ["uniform", "magnitude", "taylor", "pas_paper"])
@pytest.mark.parametrize("name", ["repvgg_nano", "mobilenetv2_mini"])
def test_every_method_lands_in_the_band(digits, method: str, name: str) -> None:
    search = searcher(method, network(name), round_to=2)
    search.calibrate(itertools.islice(digits.epoch(0), 1), plain_loss)
    train(search, digits, 6)
    limit = search.report()["budget"][0]
    assert 0.985 * limit["target"] <= limit["achieved"] <= limit["target"] == 0.5 * limit["dense"]
    x = torch.randn(2, 1, 32, 32)
    assert run(search.export().eval(), x).shape == (2, 10)


# -- criteria


def test_l1_of_a_layer_by_hand() -> None:
    """Kernels of 3, 1 and 2 in absolute sum have the mean 2: scores 1.5, 0.5, 1.0; what reads the channels doesn't count."""
    model = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.Conv2d(3, 2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([3.0, -1.0, 2.0]).view(3, 1, 1, 1))
        model[1].weight.fill_(100.0)
    signature = pas.signature(model, torch.zeros(1, 1, 4, 4))
    axis = signature.prunable[0]
    assert l1(model, signature)[axis.start : axis.start + 3].tolist() == pytest.approx([1.5, 0.5, 1.0])


def test_taylor_is_the_mean_square_of_single_examples_gate_gradients() -> None:
    """y = sum_i v_i w_i x, L = y, so dL/dz_i = v_i w_i x for gate i. With x = 1 and -3 the mean of squares is 5 (v_i w_i)^2,
    while the mean of the gradients, over a batch, would be -v_i w_i."""
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[2.0], [1.0]]))
        model[1].weight.copy_(torch.tensor([[3.0, 4.0]]))
    signature = pas.signature(model, torch.zeros(1, 1))
    axis = signature.prunable[0]
    free = np.arange(axis.start, axis.start + 2)
    batches = [(torch.tensor([[1.0], [-3.0], [100.0]]), torch.zeros(3))]
    scores = taylor(model, signature, free, batches, lambda net, x, y: net(x).sum(), samples=2)
    assert scores[free].tolist() == pytest.approx([5 * 36, 5 * 16])
    assert np.isinf(scores[0])


def test_taylor_needs_data_and_finite_losses(digits) -> None:
    search = searcher("taylor")
    with pytest.raises(PasError, match="calibrate"):
        search.export()
    with pytest.raises(PasError, match="at least one example"):
        search.calibrate([], plain_loss)
    with pytest.raises(PasError, match="infinite or NaN"):
        search.calibrate(itertools.islice(digits.epoch(0), 1), lambda model, x, y: plain_loss(model, x, y) * math.inf)


def test_taylor_prefers_what_matters_per_cost(digits) -> None:
    """A channel that nothing reads has no gradient and goes first; with the cost counted anew the budget holds as well."""
    model = network()
    with torch.no_grad():
        for block in (model.stages[2][0],):
            for conv in (block.conv_kxk.conv, block.conv_1x1.conv):
                conv.weight[:, :5] = 0
    for recost in (1, 10):
        search = searcher("taylor", model, samples=64, recost=recost)
        search.calibrate(digits.epoch(0), plain_loss)
        name = next(axis.name for axis in search.signature.axes
                    if any(slot.parameter.startswith("stages.2.0") and slot.dim == 1 for slot in axis.slots))  # fmt: skip
        assert not set(search.architecture.kept[name]) & set(range(5))


# -- widths known beforehand


def test_given_random_and_scratch(digits) -> None:
    model = network()
    architecture = half(searcher("pas", model))
    given, random_ = (searcher(method, model, budget=0.9, start=architecture) for method in ("given", "random"))
    scratch = searcher("scratch", model, budget=0.9, start=architecture)
    assert given.architecture == scratch.architecture == architecture
    assert random_.architecture.widths() == architecture.widths()
    overlap = [len(set(random_.architecture.kept[n]) & set(k)) / len(k) for n, k in architecture.kept.items()]
    assert 0.2 < np.mean(overlap) < 0.8
    assert not scratch.method.inherits
    assert given.method.inherits
    train(random_, digits, 2)
    assert random_.architecture.widths() == architecture.widths()
    with pytest.raises(PasError, match="start"):
        searcher("random")


def test_a_warm_start_is_where_the_search_begins(digits) -> None:
    """Half the channels cost about a quarter: the gates start there, and grow to the budget of a half."""
    model = network()
    architecture = half(searcher("pas", model))
    search = searcher("pas", model, start=architecture)
    mask = search.signature.mask(architecture)
    assert (search.method.open() == mask).all()
    train(search, digits, search.method.warmup_steps - 1)
    assert (search.method.open() == mask).all()
    train(search, digits, STEPS)
    limit = search.report()["budget"][0]
    assert 0.985 * limit["target"] <= limit["achieved"] <= limit["target"]
    kept = search.signature.mask(search.architecture)
    assert (kept & mask).sum() > 0.9 * mask.sum()
    for method in ("uniform", "magnitude"):
        smaller = searcher(method, model, budget=0.15, start=architecture)
        chosen = smaller.signature.mask(smaller.architecture)
        assert not (chosen & ~mask).any(), method
    paper = searcher("pas_paper", model, start=architecture)
    assert (paper.method.open() == mask).all()


# -- the published search


def two_layers() -> tuple[nn.Module, torch.Tensor]:
    """1 -> 4 -> 2 -> 1 channels of 1x1 convolutions on one pixel: 4 + 8 + 2 = 14 MACs."""
    widths = (1, 4, 2, 1)
    layers = [nn.Conv2d(a, b, 1, bias=False) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(*layers), torch.zeros(1, 1, 1, 1)


def paper(**options) -> pas.Search:
    model, example = two_layers()
    return pas.Search(model, example, budget=pas.Budget(macs=0.5), method="pas_paper", steps=100, **options)


def test_the_published_penalty_by_hand() -> None:
    """alpha (14/14 - 1/2)^2 = alpha / 4. Its slope by a gate is 2 alpha (1/2) dM/14. Only makers: dM = 1 for the first layer
    (reads one channel) and 4 for the second (reads four). Both sides: 1 + 2 and 4 + 1."""
    for both, first, second in ((0, 1, 4), (1, 3, 5)):
        search = paper(alpha=20, both_sides=both)
        penalty = search.penalty()
        assert penalty.item() == pytest.approx(5.0)
        penalty.backward()
        wanted = [20 * first / 14] * 4 + [20 * second / 14] * 2
        assert search.method.gates.value.grad.tolist() == pytest.approx(wanted)


def test_the_published_gates_start_at_one_decay_and_share_the_learning_rate() -> None:
    search = paper()
    assert search.method.gates.value.tolist() == [1.0] * 6
    group = search.param_groups(lr=0.3, weight_decay=0.01)[-1]
    assert (group["lr"], group["weight_decay"]) == (0.3, 0.01)
    assert paper(decay=0).param_groups(lr=0.3, weight_decay=0.01)[-1]["weight_decay"] == 0
    kernels, vectors = (searcher("pas_paper").param_groups(0.1, 0.5, decay_norms=True)[i]["weight_decay"] for i in (0, 1))
    assert kernels == vectors == 0.5


def test_concessions_can_be_switched_off() -> None:
    closed = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.2, 0.1])
    for guard, expected in ((1, [False, False, False, True, True, False]), (0, [False] * 6), (2, [False, False, True, True, True, True])):
        search = paper(guard=guard)
        with torch.no_grad():
            search.method.gates.value.copy_(closed)
        search.step()
        assert search.method.open()[search.method.problem.free].tolist() == expected
    search = paper(land=0, guard=0)
    with torch.no_grad():
        search.method.gates.value.copy_(torch.tensor([0.9, 0.9, 0.9, 0.1, 0.2, 0.1]))
    # the second layer would vanish, so its best channel stays: 3 + 3 + 1 = 7 MACs
    assert search.report()["budget"][0]["achieved"] == 7
    assert search.report()["budget"][0]["open"] == 3
    with torch.no_grad():
        search.method.gates.value.fill_(0.9)
    assert search.report()["budget"][0]["achieved"] == 14  # above the target, as the published search may end
    assert paper().report()["budget"][0]["achieved"] <= 7


def test_a_normalised_cost_presses_all_axes_alike() -> None:
    """Each slope is divided by its axis's mean, then by the number of gates: 1/6 for all; the pressure is 2 alpha (1/2) / 6."""
    search = paper(alpha=20, normalise=1)
    search.penalty().backward()
    assert search.method.gates.value.grad.tolist() == pytest.approx([20 / 6] * 6)


def test_a_multiplier_in_alphas_place() -> None:
    """Step 30 of 60 until the target is at its end, 1 - 0.5 * 30/60 = 0.75: error 1/0.75 - 1 = 1/3. From zero the multiplier
    grows by rate * e; the pressure is m + 2 e over the share of the target."""
    search = paper(multiplier=0.1)
    search.method.taken = 29
    search.step()
    assert search.method.multiplier == pytest.approx(0.1 / 3)
    search.penalty().backward()
    pressure = (0.1 / 3 + 2 / 3) / 0.5
    assert search.method.gates.value.grad[0].item() == pytest.approx(pressure / 14)


def test_initial_values_by_rank(digits) -> None:
    """From 0.75 to 1.25 inside each axis, the channel with the largest Taylor score highest."""
    search = searcher("pas_paper", spread=0.25)
    search.calibrate(itertools.islice(digits.epoch(0), 1), plain_loss)
    problem, value = search.method.problem, search.method.gates.value.detach().numpy()
    scores = taylor(search.backbone, search.signature, problem.free, itertools.islice(digits.epoch(0), 1), plain_loss, 1024)[problem.free]
    for number, axis in enumerate(problem.widths.axes):
        mine = problem.axis_index == number
        assert np.sort(value[mine]) == pytest.approx(np.linspace(0.75, 1.25, axis.size))
        assert value[mine].argmax() == scores[mine].argmax()


def test_the_published_search_reaches_its_budget_by_itself(digits) -> None:
    """With a strong penalty the open gates cost the target within a tenth, before any landing."""
    search = searcher("pas_paper", alpha=20, initial=0.6)
    for _ in range(4):
        train(search, digits, 20)
    limit = search.report()["budget"][0]
    assert limit["open"] == pytest.approx(limit["target"], rel=0.1)


# -- stochastic gates


def test_noise_opens_gates_with_the_probability_of_a_logistic(digits) -> None:
    """Value 1/2 + s ln 3 and noise of scale s: open with probability 3/4; without training, or without noise, always."""
    search = searcher("pas", noise=0.2)
    gates = search.method.gates
    with torch.no_grad():
        gates.value.fill_(0.5 + 0.2 * math.log(3))
    gates.train()
    share = np.mean([gates().detach()[gates.free].mean().item() for _ in range(200)])
    assert share == pytest.approx(0.75, abs=0.01)
    assert (gates.eval()() == 1).all()
    assert search.method.open().all()
    train(search, digits)
    assert search.report()["budget"][0]["achieved"] <= search.limits.each[0].target


# -- pas: worth


def test_the_last_of_an_axis_is_worth_most() -> None:
    """Second moments 4, 1, 3, 2 of four channels have ranks 1, 4, 2, 3; with scarcity 1 a worth is log(s n / r) less a constant:
    log 16, log 1, log 6, log(8 / 3).
    """
    method = searcher("pas").method
    inside = np.flatnonzero(method.problem.axis_index == 0)
    method._second = torch.ones(len(method._second))
    method._second[inside] = 1e-3  # the other twelve come last
    method._second[inside[:4]] = torch.tensor([4.0, 1.0, 3.0, 2.0])
    method._share = method._shares()
    worth = method._current_worth()[inside[:4]]
    assert (worth - worth[1]).tolist() == pytest.approx([math.log(16), 0, math.log(6), math.log(8 / 3)], abs=1e-5)
    method.scarcity = 0.0
    worth = method._current_worth()[inside[:4]]
    assert (worth - worth[1]).tolist() == pytest.approx([math.log(4), 0, math.log(3), math.log(2)], abs=1e-5)


def test_widths_do_not_alternate() -> None:
    """All channels of a plain chain alike: without scarcity the cost drives every second layer to its floor, with it none."""

    def widths(scarcity: float) -> np.ndarray:
        layers = [part for _ in range(6) for part in (nn.LazyConv2d(32, 3, padding=1), nn.ReLU())]
        chain = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(10))
        chain(torch.zeros(1, 3, 8, 8))
        search = pas.Search(chain, torch.zeros(1, 3, 8, 8), budget=pas.Budget(macs=0.25), steps=200, scarcity=scarcity, gate_lr=0.0)
        generator = torch.Generator().manual_seed(0)
        search.method._second = torch.rand(len(search.method._second), generator=generator) + 0.5
        search.method.judged = True
        for _ in range(200):
            search.method.step()
        return np.array(list(search.architecture.widths().values()))

    assert np.abs(np.diff(widths(0.0))).mean() > 2 * np.abs(np.diff(widths(1.0))).mean()
    assert widths(0.0).min() <= 4 < 8 <= widths(1.0).min()


def test_single_examples_judge_where_data_was_shown(digits) -> None:
    """What `taylor` measures, and the gradients of the warm-up change nothing of it, also not after a resume."""
    model = network()
    search = searcher("pas", model, samples=16)
    search.calibrate(digits.epoch(0), plain_loss)
    signature, free = search.signature, search.method.problem.free
    expected = torch.from_numpy(taylor(model, signature, free, digits.epoch(0), plain_loss, 16)[free]).float()
    assert torch.equal(search.method._second, expected)
    train(search, digits, 3)
    assert torch.equal(search.method._second, expected)
    again = searcher("pas", model, samples=16)
    again.load_state_dict(search.state_dict())
    train(again, digits, 2)
    assert torch.equal(again.method._second, expected)


# -- shrinking


@pytest.mark.parametrize("name", ["repvgg_nano", "mobilenetv2_mini", "cifar_resnet20"])
def test_shrinking_changes_nothing_but_the_size(digits, name: str) -> None:
    """In eval mode and fp64 the smaller search computes what the gated one computes; its cost, widths and export are the same."""
    search = searcher("pas", network(name), budget=0.3, round_to=4)
    train(search, digits, search.method.last_move)
    randomise(search.model.backbone, torch.randn(8, 1, 32, 32), torch.Generator().manual_seed(1))
    small = search.shrink()
    assert small is not search
    before, after = (sum(p.numel() for p in s.backbone.parameters()) for s in (search, small))
    assert after < 0.8 * before
    reference = copy.deepcopy(search.model)
    reference.backbone.load_state_dict(_settled(search, small))
    x = torch.randn(4, 1, 32, 32, dtype=torch.float64)
    assert error(run(reference.double().eval(), x), run(copy.deepcopy(small.model).double().eval(), x)) < 1e-10
    assert small.architecture == search.architecture
    assert small.report()["budget"] == search.report()["budget"]
    train(small, digits, STEPS - search.method.last_move, search.method.last_move)
    limit = small.report()["budget"][0]
    assert 0.985 * limit["target"] <= limit["achieved"] <= limit["target"]
    assert sum(p.numel() for p in small.export().parameters()) == pas.cost.params(small.signature, small.architecture)
    assert small.shrink().architecture == small.architecture


def test_shrinking_leaves_the_balance_of_the_axes(digits) -> None:
    """Channels that go on are worth as much more or less than each other as before: ranks don't count anew among the fewer."""
    search = searcher("pas", budget=0.3, round_to=4)
    train(search, digits, search.method.warmup_steps + search.method.ramp_steps)
    small = search.shrink()
    assert small is not search
    going_on = np.searchsorted(search.method.problem.free, small._origin[small.method.problem.free])
    change = small.method._current_worth() - search.method._current_worth()[going_on]
    assert change.max() - change.min() < 1e-5


def _settled(search: pas.Search, small: pas.Search) -> dict[str, torch.Tensor]:
    """The weights with the statistics of identity norms as the cut leaves them."""
    backbone = copy.deepcopy(search.backbone)
    mask = np.zeros(search.current.channels, dtype=bool)
    mask[small._origin] = True
    settle(backbone, search.current, mask)
    return backbone.state_dict()


def test_nothing_to_shrink_gives_the_same_search(digits) -> None:
    search = searcher("pas")
    assert search.shrink() is search
    paper = searcher("pas_paper")  # which knows of no channel that it can't come back
    assert paper.shrink() is paper


def test_every_method_is_listed_with_its_options() -> None:
    for name in METHODS:
        with pytest.raises(PasError, match="no option 'nonsense'"):
            searcher(name, nonsense=1.0)
