"""Hard concrete and Gumbel gates: distributions by sampling, gradients, the penalty and the multiplier by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import searches
import soft
import torch

from pas.errors import PasError
from pas.gates.gumbel import Gumbel
from pas.gates.hard_concrete import BETA, GAMMA, ZETA, HardConcrete


@pytest.fixture(scope="module")
def digits():
    return soft.digits()


def gates_of(made: type, *values: float):
    gates = made(1 + len(values), np.arange(1, 1 + len(values)), np.zeros(len(values), dtype=np.int64))
    with torch.no_grad():
        gates.value.copy_(torch.tensor(values))
    return gates.train()


def test_hard_concrete_gates_at_test_time_by_hand() -> None:
    """sigmoid(log alpha) is 1/2, 1/12 and 11/12 at 0, -log 11 and log 11; times 1.2 less 0.1 that is 1/2, 0 and 1; the last is cut at 0."""
    gates = gates_of(HardConcrete, 0, -math.log(11), math.log(11), -4).eval()
    assert gates()[1:].tolist() == pytest.approx([0.5, 0, 1, 0], abs=1e-6)
    assert gates_of(HardConcrete, 0, -2.3, 3, -4).settled().tolist() == [1, 1, 1, 1, 0]


def test_hard_concrete_gates_are_open_with_their_probability() -> None:
    """P(z > 0) = sigmoid(log alpha - beta log(-gamma / zeta)): by 20,000 draws, 4 standard deviations; so is P(z = 1) by symmetry."""
    values = (-2.0, 0.0, 1.5)
    gates = gates_of(HardConcrete, *values)
    with torch.no_grad():
        drawn = torch.stack([gates()[1:] for _ in range(20_000)])
    tolerance = 4 * 0.5 / 20_000**0.5
    expected = [1 / (1 + math.exp(-(v - BETA * math.log(-GAMMA / ZETA)))) for v in values]
    assert gates.probability().tolist() == pytest.approx(expected)
    assert (drawn > 0).double().mean(0).tolist() == pytest.approx(expected, abs=tolerance)
    ones = [1 / (1 + math.exp(-(v + BETA * math.log(-GAMMA / ZETA)))) for v in values]
    assert (drawn == 1).double().mean(0).tolist() == pytest.approx(ones, abs=tolerance)
    assert ((drawn >= 0) & (drawn <= 1)).all()


def test_the_gradient_of_a_drawn_hard_concrete_gate() -> None:
    """dz/d log alpha = (zeta - gamma) s (1 - s) / beta where z isn't cut, and 0 where it is."""
    gates = gates_of(HardConcrete, *[0.3] * 200)
    torch.manual_seed(0)
    drawn = gates()[1:]
    drawn.sum().backward()
    s = (drawn.detach() - GAMMA) / (ZETA - GAMMA)
    inside = (drawn > 0) & (drawn < 1)
    assert 20 < inside.sum() < 180
    assert torch.allclose(gates.value.grad, torch.where(inside, (ZETA - GAMMA) * s * (1 - s) / BETA, 0), atol=1e-5)


def test_gumbel_gates_are_binary_and_learn_as_concrete_ones() -> None:
    """Exactly 0 or 1 while training, open with sigmoid(log alpha); the gradient is s (1 - s) / tau at the same noise."""
    gates = gates_of(Gumbel, -1.0, 0.0, 2.0)
    with torch.no_grad():
        drawn = torch.stack([gates()[1:] for _ in range(20_000)])
    assert set(drawn.unique().tolist()) == {0, 1}
    expected = [1 / (1 + math.exp(-v)) for v in (-1.0, 0.0, 2.0)]
    assert drawn.double().mean(0).tolist() == pytest.approx(expected, abs=4 * 0.5 / 20_000**0.5)
    assert gates.probability().tolist() == pytest.approx(expected)
    gates.tau.fill_(0.7)
    torch.manual_seed(3)
    gates()[1:].sum().backward()
    torch.manual_seed(3)
    s = torch.sigmoid((gates.logistic() + gates.value.detach()) / 0.7)
    assert torch.allclose(gates.value.grad, s * (1 - s) / 0.7)
    assert gates.eval()().tolist() == gates.settled().tolist() == [1, 0, 0, 1]


def test_the_temperature_falls_by_the_same_factor() -> None:
    """From 2 to 1/2 over 4 steps: 2^(1/2) down each."""
    search = soft.two_layers("gumbel", hot=2.0, cold=0.5, steps=4, hold=0.0)
    found = [search.method.gates.tau.item()]
    for _ in range(4):
        search.step()
        found.append(search.method.gates.tau.item())
    assert found == pytest.approx([2, 2**0.5, 1, 0.5**0.5, 0.5])
    with pytest.raises(PasError, match="above 0"):
        soft.two_layers("gumbel", cold=0.0)


@pytest.mark.parametrize("method", ["l0", "gumbel"])
def test_the_cost_of_probabilities_is_the_mean_cost_of_independent_gates(method: str) -> None:
    """The cost is multilinear: by 4,000 draws of gates that are open or not, four standard errors."""
    search = soft.two_layers(method)
    gates, (limit,) = search.method.gates, search.limits.each
    with torch.no_grad():
        gates.value.copy_(torch.tensor([-3.0, -1.5, 0.0, 1.5, -2.0, -0.5]))
        costs = torch.stack([limit.cost((gates.train()() > 0).float()) for _ in range(4_000)])
        assert float(limit.cost(gates.expected())) == pytest.approx(costs.mean().item(), abs=4 * costs.std().item() / 4_000**0.5)


@pytest.mark.parametrize("method", ["l0", "gumbel"])
def test_a_penalty_of_fixed_strength_by_hand(method: str) -> None:
    """cost = n1 + n1 n2 + n2 with n1 = 4 p, n2 = 2 p. By a probability its slope is 1 + n2 or 1 + n1; times p (1 - p), over 7."""
    search = soft.two_layers(method, dual=0.0, strength=0.3, initial=0.4)
    gates = search.method.gates
    p = gates.probability()[0].item()
    penalty = search.penalty()
    assert penalty.item() == pytest.approx(0.3 * (4 * p + 8 * p * p + 2 * p) / 7)
    penalty.backward()
    slope = [0.3 / 7 * p * (1 - p) * (1 + n) for n in (2 * p, 4 * p)]
    assert search.method.normalised["value"]._seen.tolist() == pytest.approx([slope[0]] * 4 + [slope[1]] * 2)


@pytest.mark.parametrize("hard", [0.0, 1.0])
def test_the_multiplier_by_hand(hard: float) -> None:
    """Against the final target 7, everything likely open costs 14: e = 1; the expected cost is less. From 0 the multiplier moves by
    dual / steps e; the pressure is k = mu + 2 e, below 0 where almost nothing is open. By a probability the cost's slope is 1 + 2 p in the
    first axis and 1 + 4 p in the second, over roots of 1 and 2 of the loss's gradients; the mean square of (1 + 2 p) p (1 - p), four times,
    and (1 + 4 p) p (1 - p) / 2, twice, is made one. Log alpha moves by gate_lr / steps = 0.1 times that.
    """
    search = soft.two_layers("gumbel", dual=5.0, hard=hard, ramp=0.0, initial=0.4, gate_lr=10.0)
    method, value = search.method, search.method.gates.value
    method.taken = 10
    method.normalised["value"].square = torch.tensor([1.0, 4.0])
    method.multiplier = torch.tensor([0.5], dtype=torch.float64)
    p = method.gates.probability()[0].item()
    e = 1 if hard else (4 * p + 8 * p * p + 2 * p) / 7 - 1
    ways = np.array([1 + 2 * p] * 4 + [(1 + 4 * p) / 2] * 2)
    search.step()
    assert method.multiplier.tolist() == pytest.approx([0.5 + 5 / 100 * e])
    assert value.tolist() == pytest.approx(0.4 - 0.1 * (0.5 + 2 * e) * ways / np.sqrt((ways**2).mean()))
    assert search.penalty().item() == 0
    with torch.no_grad():
        value.fill_(-7.0)
    before = method.multiplier.item()
    search.step()
    assert -5.001 / 100 < method.multiplier.item() - before < -4 / 100
    assert (value > -7).all()


def test_log_alpha_is_clamped_and_spread(digits) -> None:
    """Initial values 1 - 1/2 to 1 + 1/2 by rank inside each axis; whatever an optimiser does, log alpha stays within log 100."""
    search = soft.searcher("l0", initial=1.0, spread=0.5)
    search.calibrate(itertools.islice(digits.epoch(0), 1), searches.plain_loss)
    problem, gates = search.method.problem, search.method.gates
    for number, axis in enumerate(problem.widths.axes):
        mine = gates.value.detach().numpy()[problem.axis_index == number]
        assert np.sort(mine) == pytest.approx(np.linspace(0.5, 1.5, axis.size))
    with torch.no_grad():
        gates.value.copy_(torch.linspace(-50, 50, len(gates.value)))
    search.step()
    assert (gates.value.min().item(), gates.value.max().item()) == pytest.approx((-math.log(100), math.log(100)))


@pytest.mark.parametrize("method", ["l0", "gumbel"])
def test_the_search_comes_to_its_budget_by_itself(digits, method: str) -> None:
    """What is likely open costs the target within a tenth, before any landing."""
    search = soft.searcher(method, steps=60, hold=0.0)
    search.calibrate(itertools.islice(digits.epoch(0), 2), searches.plain_loss)
    soft.train(search, digits, 60)
    limit = search.report()["budget"][0]
    assert limit["open"] == pytest.approx(limit["target"], rel=0.1)
