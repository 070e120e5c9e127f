"""Grouped one-shot pruning: what it drops, where it lands, and that it is stopped before training when a word is wrong."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import error, randomise, run
from searches import network
from torch import nn

import pas
from pas.compose import compose
from pas.criteria import WITH_DATA, WITHOUT_DATA
from pas.errors import PasError


def entropy(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(x), y)


def searcher(model: nn.Module, method: str = "spa", budget: float = 0.5, **options) -> pas.Search:
    example = torch.zeros(1, 1, 32, 32)
    return pas.Search(model, example, budget=pas.Budget(macs=budget), method=method, steps=8, **options)


def train(search: pas.Search, loader, steps: int, first: int = 0) -> None:
    optimizer = torch.optim.SGD(search.param_groups(lr=0.02, weight_decay=1e-4))
    search.model.train()
    for x, y in itertools.islice(loader.epoch(0), first, first + steps):
        (F.cross_entropy(search.model(x), y) + search.penalty()).backward()
        optimizer.step()
        optimizer.zero_grad()
        search.step()


def two_layers() -> nn.Module:
    """1 -> 4 -> 2 -> 1 channels of 1x1 convolutions on one pixel: 4 + 8 + 2 = 14 MACs; rows of 4, 3, 2, 1 and columns of zeros, then
    rows of zeros and columns of 5 and 7.
    """
    model = nn.Sequential(*(nn.Conv2d(a, b, 1, bias=False) for a, b in itertools.pairwise((1, 4, 2, 1))))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([4.0, 3.0, 2.0, 1.0]).view(4, 1, 1, 1))
        model[1].weight.zero_()
        model[2].weight.copy_(torch.tensor([5.0, 7.0]).view(1, 2, 1, 1))
    return model


def small(**options) -> pas.Search:
    return pas.Search(two_layers(), torch.zeros(1, 1, 1, 1), budget=pas.Budget(macs=0.5), method="spa", steps=10, **options)


def test_one_order_for_all_axes_by_hand() -> None:
    """Importances over their means: (1.6, 1.2, 0.8, 0.4) and (5/6, 7/6); w1 + w1 w2 + w2 MACs, of which half are 7. From the lowest on
    channels go until that holds: 3, 2 (11), 2, 2 (8), 2, 1 (5). Then what fits comes back, best first: 5/6 would make it 8, 0.8 makes
    3, 1 (7). Not normalised, 4, 3, 2, 1 and 5, 7: 3, 2, then 2, 2, then 1, 2 (5); 3 would make it 8, and so a channel of the second axis
    is exchanged for two of the first, as only 3, 1 lies in the band.
    """
    search = small()
    first, second = search.architecture.kept.values()
    assert (first, second) == ((0, 1, 2), (1,))
    wanted = [1.6, 1.2, 0.8, 0.4, 5 / 6, 7 / 6]
    assert search.method.importance()[search.method.problem.free] == pytest.approx(wanted)
    plain = small(normalise="none")
    assert plain.method.importance()[plain.method.problem.free].tolist() == [4, 3, 2, 1, 5, 7]
    assert tuple(plain.architecture.kept.values()) == ((0, 1, 2), (1,))


def test_importance_over_cost() -> None:
    """A channel of the first axis costs 1 + 2 MACs, one of the second 4 + 1: what is equal before goes 3 : 5 after."""
    model = two_layers()
    with torch.no_grad():
        model[0].weight.fill_(1)
        model[2].weight.fill_(1)
    orders = []
    for per_cost in (0, 1):
        search = pas.Search(model, torch.zeros(1, 1, 1, 1), budget=pas.Budget(macs=0.5), method="spa", steps=10, per_cost=per_cost)
        scores = search.method._weighed(search.method.importance())[search.method.problem.free]
        orders.append(scores / scores[0])
        assert search.method.importance()[search.method.problem.free] == pytest.approx(np.ones(6))
    assert orders[0] == pytest.approx(np.ones(6))
    assert orders[1] == pytest.approx([1, 1, 1, 1, 3 / 5, 3 / 5])


@pytest.mark.parametrize(
    ("name", "criterion"),
    [
        *(("repvgg_nano", criterion) for criterion in (*WITHOUT_DATA, *WITH_DATA)),
        *(("mobilenetv2_mini", criterion) for criterion in ("bn_scale", "grasp")),
    ],
)
def test_lands_in_the_band_and_on_the_ladder(digits, name: str, criterion: str) -> None:
    """The band after some steps, and then mask = slice = fuse in fp64; where no importance is negative, an optimality gap."""
    model = network(name)
    if (name, criterion) == ("repvgg_nano", "bn_scale"):
        with pytest.raises(PasError, match="says nothing of axis 'stem'"):
            searcher(model, criterion=criterion)
        return
    search = searcher(model, criterion=criterion, round_to=2, samples=8)
    if criterion in WITH_DATA:
        assert search.method.samples == 8
        assert search.method.importance() is None
        with pytest.raises(PasError, match="calibrate"):
            search.export()
        search.calibrate(itertools.islice(digits.epoch(0), 1), entropy)
    else:
        assert search.method.samples == 0
    chosen = search.architecture
    train(search, digits, 2)
    assert search.architecture == chosen
    limit = search.report()["budget"][0]
    assert 0.985 * limit["target"] <= limit["achieved"] <= limit["target"] == 0.5 * limit["dense"]
    importance = search.method.importance()
    assert (importance is None) or (importance >= 0).all()
    assert importance is not None or criterion in ("grasp", "fisher")
    randomise(search.backbone, torch.randn(8, 1, 32, 32), torch.Generator().manual_seed(1))
    settled, x = search.settled().double().eval(), torch.randn(2, 1, 32, 32, dtype=torch.float64)
    masked = run(pas.mask(settled, search.signature, chosen), x)
    sliced = pas.slice(settled, search.signature, chosen)
    assert error(masked, run(sliced, x)) < 1e-10
    assert error(masked, run(pas.fuse(sliced), x)) < 1e-10


def test_the_optimality_gap_is_reported(digits) -> None:
    found = searcher(network("repvgg_nano")).optimality()
    assert found is not None
    assert 0 < found.reached <= found.known <= found.bound <= 1
    undecided = searcher(network("repvgg_nano"), criterion="snip")
    assert undecided.method.importance() is None


def test_channels_that_carry_nothing_go_first(digits) -> None:
    """Kernels, scales and shifts of zero, and readers of zero: no criterion sees anything in these five channels."""
    model = network("cifar_resnet20")
    randomise(model, torch.randn(8, 1, 32, 32), torch.Generator().manual_seed(1))
    block = model.layer2[1]
    with torch.no_grad():
        for part in (block.conv1.weight[:5], block.bn1.weight[:5], block.bn1.bias[:5], block.conv2.weight[:, :5]):
            part.zero_()
    for criterion in ("bn_scale", "taylor_squared", "crop"):
        search = searcher(model, criterion=criterion, samples=16, budget=0.8)
        search.calibrate(digits.epoch(0), entropy)
        assert not set(search.architecture.kept["layer2.1.conv1"]) & set(range(5)), criterion


@pytest.mark.parametrize("criterion", ["random", "grasp", "taylor_abs"])
def test_killed_and_resumed_is_uninterrupted(digits, criterion: str) -> None:
    model = network("repvgg_nano")
    whole = searcher(model, criterion=criterion, samples=8)
    whole.calibrate(digits.epoch(0), entropy)
    train(whole, digits, 2)
    saved = copy.deepcopy(whole.state_dict())
    train(whole, digits, 2, first=2)
    other = searcher(model, criterion=criterion, samples=8)
    other.load_state_dict(saved)
    train(other, digits, 2, first=2)
    assert other.architecture == whole.architecture
    ours, theirs = other.model.state_dict(), whole.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    one, two = whole.method.importance(), other.method.importance()
    assert np.array_equal(one, two) if one is not None else two is None


def test_a_warm_start_comes_first() -> None:
    model = network("repvgg_nano")
    start = searcher(model, "uniform", budget=0.4).architecture
    for per_cost in (0, 1):
        search = searcher(model, start=start, budget=0.2, per_cost=per_cost)
        assert not (search.signature.mask(search.architecture) & ~search.signature.mask(start)).any()


@pytest.mark.parametrize("method", ["uniform", "magnitude"])
def test_baselines_take_criteria_of_the_weights(method: str) -> None:
    model = network("cifar_resnet20")
    randomise(model, torch.randn(8, 1, 32, 32), torch.Generator().manual_seed(1))
    found = []
    for criterion in ("group_l2", "bn_scale", "random"):
        search = searcher(model, method, criterion=criterion)
        limit = search.report()["budget"][0]
        assert 0.985 * limit["target"] <= limit["achieved"] <= limit["target"]
        assert search.architecture not in found
        found.append(search.architecture)


@pytest.mark.parametrize(
    ("method", "option", "value", "choices"),
    [
        ("spa", "criterion", "l3", "group_l1, group_l2, bn_scale, random, taylor_squared"),
        ("spa", "reduce", "median", "sum, mean, max, prod, first"),
        ("spa", "normalise", "lamp", "none, sum, mean, max, standardise, gaussian"),
        ("uniform", "criterion", "snip", "magnitude, l1, group_l1, group_l2, bn_scale, random"),
        ("magnitude", "criterion", "1", "magnitude, l1, group_l1, group_l2, bn_scale, random"),
    ],
)
def test_wrong_words_are_refused_with_the_choices(method: str, option: str, value: str, choices: str) -> None:
    """When a search is made, and when a run is composed, before anything is trained."""
    with pytest.raises(PasError, match=f"{option}={value}: must be one of {choices}"):
        searcher(two_layers(), method, **{option: value})
    with pytest.raises(PasError, match=f"method.options.{option}={value}: must be one of {choices}"):
        compose([f"method={method}", f"method.options.{option}={value}"])
