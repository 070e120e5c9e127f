"""OTO: the half-space step and the adapted strength by hand, zero-invariance exactly, and the budget's band."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from networks import error, randomise, run
from searches import network, train
from torch import nn

import pas
from pas.gates.gated import Gated, Gates
from pas.methods.oto import adapted

STEPS = 20


def searcher(name: str = "repvgg_nano", **options) -> pas.Search:
    return pas.Search(network(name), torch.zeros(1, 1, 32, 32), budget=pas.Budget(macs=0.5), method="oto", steps=STEPS, **options)


def chain(**options) -> pas.Search:
    """Two linear layers over two channels, whose groups are (weight, bias) = (3, 4) and (0.6, 0.8); 4 MACs, so that half of them is
    one channel.
    """
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0], [0.6]]))
        model[0].bias.copy_(torch.tensor([4.0, 0.8]))
    values = {"warmup": 0.1, "shrink": 0.5, **options}
    return pas.Search(model, torch.zeros(1, 1), budget=pas.Budget(macs=0.5), method="oto", steps=10, **values)


def move(search: pas.Search, weight: tuple[float, float], bias: tuple[float, float]) -> torch.Tensor:
    """What the optimiser would do, less, to the first layer; then the method's step. Its groups (2, 2)."""
    first = search.backbone[0]
    with torch.no_grad():
        first.weight -= torch.tensor(weight)[:, None]
        first.bias -= torch.tensor(bias)
    search.step()
    return torch.cat([first.weight.detach(), first.bias.detach()[:, None]], 1)


# -- by hand


def test_the_adapted_strength_by_hand() -> None:
    """l = 0.1, amplify 2, cap 10. With ||x|| = 2:

    - <x, d> = 0.4 lessens the norm anyway: l. 0 as well.
    - <x, d> = -0.4, ||d||^2 = 1: least 0.2, most 5; twice the least is 0.4.
    - <x, d> = -0.04: twice the least is 0.04, below l: 0.1.
    - <x, d> = -4, ||d||^2 = 100: twice the least is 4, above 10 l: 1.
    - <x, d> = -0.4, ||d||^2 = 0.05: most 0.25, below 0.4: the mean of 0.2 and 0.25.
    - <x, d> = -0.04, ||d||^2 = 0.001: most 0.05, below 0.1: the mean of 0.02 and 0.05 is below l: 0.1.
    """
    slope = torch.tensor([0.4, 0.0, -0.4, -0.04, -4.0, -0.4, -0.04])
    length = torch.tensor([1.0, 1.0, 1.0, 1.0, 100.0, 0.05, 0.001])
    found = adapted(torch.full((7,), 0.1), torch.full((7,), 2.0), slope, length, 2.0, 10.0)
    assert found.tolist() == pytest.approx([0.1, 0.1, 0.4, 0.1, 1.0, 0.225, 0.1])


def test_the_adapted_step_descends_on_loss_and_norm() -> None:
    """s = d + l x / ||x|| has <s, x> > 0 and <s, d> > 0 for 2000 random pairs, unless the cap holds it back."""
    torch.manual_seed(0)
    x, d = (torch.randn(2000, 5, dtype=torch.float64) * torch.rand(2000, 1, dtype=torch.float64) for _ in range(2))
    norm, slope, length = x.norm(dim=1), (x * d).sum(1), d.square().sum(1)
    pull = adapted(torch.full((2000,), 1e-6, dtype=torch.float64), norm, slope, length, 2.0, 1e9)
    step = d + pull[:, None] * x / norm[:, None]
    against = slope < 0
    assert 800 < int(against.sum()) < 1200
    assert ((step * x).sum(1) > 0).all()
    assert ((step * d).sum(1) > 0).all()


def test_the_step_by_hand() -> None:
    """Of the groups (3, 4) and (0.6, 0.8), norms 5 and 1, the second is the redundant one, and alone penalised: l = 1 / 5. After that first
    step the optimiser takes (0.06, 0.08) of it, and l x / ||x|| another (0.12, 0.16): (0.42, 0.56) is left, and of the
    other group what the optimiser left.

    After it |x| = 0.7. Nothing more from the optimiser: 0.2 less a step, so 0.5, 0.3, 0.1, and then <x'', x> = -0.1 * 0.1 < 0: zero. It
    stays zero when the optimiser moves it again, and the gate is closed.
    """
    search = chain()
    free = search.method.problem.free
    move(search, (0.0, 0.0), (0.0, 0.0))
    groups = move(search, (0.3, 0.06), (0.4, 0.08))
    assert groups.flatten().tolist() == pytest.approx([2.7, 3.6, 0.42, 0.56])
    for left in (0.5, 0.3, 0.1):
        groups = move(search, (0.0, 0.0), (0.0, 0.0))
        assert groups[1].norm().item() == pytest.approx(left)
        assert search.method.open()[free].all()
        assert search.method.scores()[free].tolist() == pytest.approx([3 - 0.5 + 0.5 - 0.5, left])
    assert move(search, (0.0, 0.0), (0.0, 0.0))[1].tolist() == [0.0, 0.0]
    assert search.method.open()[free].tolist() == [True, False]
    assert move(search, (0.0, 0.5), (0.0, 0.5))[1].tolist() == [0.0, 0.0]
    assert search.report()["closed_by_export"] == search.report()["reopened_by_export"] == 0


def test_the_half_space_test_by_hand() -> None:
    """epsilon = 0.6: from norm 1, a step of 0.1 and l = 0.2 leave <x'', x> = 0.7, not below 0.6; a step of 0.25 leaves 0.55: zero."""
    small, large = chain(epsilon=0.6), chain(epsilon=0.6)
    for search in (small, large):
        move(search, (0.0, 0.0), (0.0, 0.0))
    assert move(small, (0.0, 0.06), (0.0, 0.08))[1].norm().item() == pytest.approx(0.7)
    assert move(large, (0.0, 0.15), (0.0, 0.20))[1].tolist() == [0.0, 0.0]


def test_the_redundancy_by_hand() -> None:
    """In a warm-up of two steps the loss lessens the first group along itself in sum, cosine 1, and the second at a right angle, cosine 0:
    normalised (1, 0). Then norms are 4.5 and sqrt(1 + 0.01), means 2.25 and sqrt(1.01) / 2, their inverses over
    sqrt(1 / 2.25^2 + 4 / 1.01): the large group is the redundant one.
    """
    search = chain(warmup=0.2)
    move(search, (0.6, 0.0), (-0.1, 0.0))
    move(search, (-0.3, 0.08), (0.5, -0.06))
    inverse = np.array([1 / 2.25, 2 / 1.01**0.5])
    expected = -(np.array([1, 0]) + inverse / np.sqrt((inverse**2).sum())) / 2
    assert search.method._salience[search.method.problem.free].tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    assert search.architecture.kept[search.signature.prunable[0].name] == (1,)


# -- on networks


@pytest.mark.parametrize("name", ["repvgg_nano", "mobilenetv2_mini", "cifar_resnet20"])
def test_a_zeroed_group_is_a_closed_channel(digits, name: str) -> None:
    """Groups of every axis zeroed, of tied axes those of all makers: in fp64 the network computes the same, exactly, whether their gates
    are open or closed (with the statistics that norms of zeros have), and something else than before.
    """
    search = searcher(name, warmup=0.05, shrink=0.05)
    search.model.double()
    randomise(search.backbone, torch.randn(8, 1, 32, 32, dtype=torch.float64), torch.Generator().manual_seed(1))
    method, free = search.method, search.method.problem.free
    method._before = [parameter.detach().clone() for parameter in method.made.parameters]
    x = torch.randn(2, 1, 32, 32, dtype=torch.float64)
    whole = run(copy.deepcopy(search.backbone).eval(), x)
    second = np.concatenate([np.arange(axis.start, axis.start + axis.size, 2) for axis in search.widths.axes])
    method._penalised = torch.zeros_like(method._penalised).index_fill(0, torch.from_numpy(second), True)
    method._salience, method._strength = method._judge(None), method._norms()  # as after a partition that chose these
    for _ in range(3):
        search.step()
    closed = ~method.open()
    assert np.flatnonzero(closed).tolist() == sorted(second.tolist())
    settled = search.settled().eval()
    gates = Gates(search.signature.channels, free).double()
    gated = Gated(settled, search.signature, gates).eval()
    opened = run(gated, x)
    with torch.no_grad():
        gates.value.copy_(torch.from_numpy(~closed[free]))
    assert error(opened, run(gated, x)) < 1e-12
    assert error(whole, opened) > 1e-3


@pytest.mark.parametrize("name", ["repvgg_nano", "mobilenetv2_mini"])
def test_it_lands_in_the_band_and_is_exact(digits, name: str) -> None:
    search = searcher(name, round_to=2)
    train(search, digits)
    limit = search.report()["budget"][0]
    assert 0.985 * limit["target"] <= limit["achieved"] <= limit["target"]
    settled = search.settled().double().eval()
    x = torch.randn(2, 1, 32, 32, dtype=torch.float64)
    masked, small = (cut(settled, search.current, search.remaining) for cut in (pas.mask, pas.slice))
    assert error(run(masked, x), run(small, x)) < 1e-10
    assert error(run(small, x), run(pas.fuse(small), x)) < 1e-10


def test_training_zeroes_what_the_budget_demands_and_momentum_brings_nothing_back(digits) -> None:
    search = searcher(shrink=0.1)
    optimizer = train(search, digits, 0, 16)
    method = search.method
    closed = ~method.open()
    assert (closed == method._penalised.numpy()).all()
    assert (closed == ~search.landed()).all()
    train(search, digits, 16, STEPS, optimizer)
    zero = method.made.dot(method.made.parameters, method.made.parameters) == 0
    assert (zero.numpy()[method.problem.free] == closed[method.problem.free]).all()
    report = search.report()
    assert report["closed_by_export"] == report["reopened_by_export"] == 0
    assert report["budget"][0]["open"] == report["budget"][0]["achieved"]


def test_a_start_is_kept_to() -> None:
    model = network()
    architecture = pas.signature(model, torch.zeros(1, 1, 32, 32)).dense()
    for name, size in architecture.widths().items():
        architecture = architecture.keep(name, range(0, size, 2))
    search = pas.Search(model, torch.zeros(1, 1, 32, 32), budget=pas.Budget(macs=0.15), method="oto", steps=STEPS, start=architecture)
    inside = search.signature.mask(architecture)
    assert (search.method.open() == inside).all()
    for _ in range(5):
        search.step()
    assert not (search.landed() & ~inside).any()


@pytest.mark.parametrize("killed", [2, 9])
def test_killed_and_resumed_it_goes_on_bit_for_bit(digits, killed: int) -> None:
    """Before and after the partition."""
    whole, first, again = searcher(), searcher(), searcher()
    train(whole, digits, 0, 14)
    before = train(first, digits, 0, killed)
    again.load_state_dict(copy.deepcopy(first.state_dict()))
    optimizer = torch.optim.SGD(again.param_groups(lr=0.02, weight_decay=1e-4), momentum=0.9)
    optimizer.load_state_dict(copy.deepcopy(before.state_dict()))
    train(again, digits, killed, 14, optimizer)
    for part in ("model", "method"):
        for name, tensor in whole.state_dict()[part].items():
            assert torch.equal(tensor, again.state_dict()[part][name]), name
    assert again.architecture == whole.architecture
    assert not whole.method.open().all()
