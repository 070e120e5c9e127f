"""The differentiable top-k: ranks, masks, importance and the resource loss by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import soft
import torch

from pas.gates.topk import TopK, ranks


def gates_of(*sizes: int, steep: float = 1.0) -> TopK:
    """Axes of these sizes, whose channels begin at 1."""
    axis = np.repeat(np.arange(len(sizes)), sizes)
    return TopK(1 + len(axis), np.arange(1, 1 + len(axis)), axis, steep).double()


def test_ranks_against_counting() -> None:
    """c' N = #{j: c_i >= c_j} inside each axis, ties too, on random axes."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        sizes = torch.randint(1, 9, (5,), generator=generator)
        axis = torch.repeat_interleave(torch.arange(5), sizes)
        value = torch.randint(0, 4, (len(axis),), generator=generator).double()
        expected = ((value[:, None] >= value) & (axis[:, None] == axis)).sum(1)
        assert ranks(value, axis, sizes).tolist() == expected.tolist()


def test_a_mask_by_hand() -> None:
    """Importances 3, 1, 2, 4 of N = 4 rank 3, 1, 2, 4. With a = 0.6: lambda (rank - 2.4) = 0.6, -1.4, -0.4, 1.6 times 2."""
    gates = gates_of(4, steep=2.0)
    with torch.no_grad():
        gates.value.copy_(torch.tensor([3.0, 1, 2, 4]))
        gates.ratio.fill_(0.6)
    expected = [1 / (1 + math.exp(-2 * d)) for d in (0.6, -1.4, -0.4, 1.6)]
    assert gates()[1:].tolist() == pytest.approx(expected)
    assert gates.settled().tolist() == [1, 1, 0, 0, 1]


def test_the_gradients_of_a_mask() -> None:
    """By finite differences for the ratio; m = sigmoid(N (c' - a)) has dm/da = -N m (1 - m). That of an importance is that of m."""
    gates = gates_of(5, 3)
    with torch.no_grad():
        gates.value.copy_(torch.rand(8, generator=torch.Generator().manual_seed(0)))
        gates.ratio.copy_(torch.tensor([0.3, 0.7]))
    weight = torch.arange(1.0, 9, dtype=torch.float64)

    def by_ratio(ratio: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(gates, {"ratio": ratio}, ())

    assert torch.autograd.gradcheck(by_ratio, (gates.ratio.detach().requires_grad_(),))
    mask = gates()[1:]
    (mask * weight).sum().backward()
    slope = -weight * mask.detach() * (1 - mask.detach()) * gates.sizes[gates.axis]
    assert gates.ratio.grad.tolist() == pytest.approx([slope[:5].sum().item(), slope[5:].sum().item()])
    assert torch.equal(gates.value.grad, weight)


def test_a_ratio_is_the_share_that_is_off() -> None:
    """Whatever the importances, the soft mass of a wide axis is N (1 - a) + 1/2 and that many channels are on."""
    gates = gates_of(200)
    with torch.no_grad():
        gates.value.copy_(torch.randn(200).exp())
        gates.ratio.fill_(0.4)
    assert gates()[1:].sum().item() == pytest.approx(120.5, abs=0.01)
    assert gates.settled()[1:].sum() == 121  # ranks 80 to 200


def test_the_resource_loss_by_hand() -> None:
    """14 MACs against a target that stays 7: weight log 2. The cost is n1 + n1 n2 + n2, so d/dn1 = 1 + 2 and d/dn2 = 1 + 4 at the hard
    widths 4 and 2; dn/da = -N sum m (1 - m) of the soft ones. Below the target it is nothing.
    """
    search = soft.two_layers("dms", weight=3.0, ramp=0.0)
    method = search.method
    method.taken = 5
    gates = method.gates
    with torch.no_grad():
        gates.value.copy_(torch.tensor([1.0, 2, 3, 4, 1, 2]))
    penalty = search.penalty()
    assert penalty.item() == pytest.approx(3 * math.log(2))
    penalty.backward()
    spread = [sum(s * (1 - s) for s in (1 / (1 + math.exp(-r)) for r in range(1, n + 1))) for n in (4, 2)]
    assert method.normalised["ratio"]._seen.tolist() == pytest.approx([-3 * 3 / 14 * 4 * spread[0], -3 * 5 / 14 * 2 * spread[1]])
    with torch.no_grad():
        gates.ratio.copy_(torch.tensor([0.7, 0.6]))  # ranks 3, 4 of 4 and 2 of 2: 2 + 2 + 1 = 5 MACs
    assert method.open()[method.problem.free].tolist() == [False, False, True, True, False, True]
    assert search.penalty().item() == 0
    method.below = 0.5
    assert search.penalty().item() == pytest.approx(0.5 * 3 * math.log(7 / 5))


def test_importance_by_hand() -> None:
    """c = 0.99 c + 0.01 (m dL/dm)^2, of two backward passes the sum; the one that isn't finite is left out."""
    search = soft.two_layers("dms")
    gates = search.method.gates
    with torch.no_grad():
        gates.value.copy_(torch.arange(1.0, 7))
    weight = torch.tensor([1.0, -2, 3, 0, 1, 1])
    mask = gates.quiet().detach()
    for _ in range(2):
        (gates()[gates.free] * weight).sum().backward()
    search.step()
    expected = 0.99 * torch.arange(1.0, 7) + 0.01 * 2 * (mask * weight).square()
    assert gates.value.tolist() == pytest.approx(expected.tolist())
    assert gates.value.grad is None
    (gates()[gates.free] * weight * math.inf).sum().backward()
    search.step()
    assert gates.value.tolist() == pytest.approx(expected.tolist())


def test_the_minimum_width_stays_open() -> None:
    """A ratio that runs away leaves the minimum width of three channels on, and one below zero none off."""
    search = soft.searcher("dms", min_width=3)
    gates = search.method.gates
    with torch.no_grad():
        gates.value.copy_(torch.rand(len(gates.value), generator=torch.Generator().manual_seed(0)))
        gates.ratio.fill_(5.0)
    search.step()
    on = torch.zeros(len(gates.sizes)).index_add(0, gates.axis, gates.settled()[gates.free].detach())
    assert on.tolist() == [3] * len(gates.sizes)
    with torch.no_grad():
        gates.ratio.fill_(-1.0)
    search.step()
    assert gates.ratio.tolist() == [0] * len(gates.sizes)


def test_the_landing_keeps_the_order_of_ranks() -> None:
    search = soft.searcher("dms")
    gates, problem = search.method.gates, search.method.problem
    with torch.no_grad():
        gates.value.copy_(torch.rand(len(gates.value), generator=torch.Generator().manual_seed(0)))
        gates.ratio.uniform_(0, 0.6, generator=torch.Generator().manual_seed(1))
    kept = search.landed()[problem.free]
    for a in range(len(gates.sizes)):
        mine = problem.axis_index == a
        value = gates.value.detach().numpy()[mine]
        assert kept[mine].any()
        assert kept[mine].all() or value[kept[mine]].min() > value[~kept[mine]].max()


def test_the_search_comes_to_its_budget_by_itself() -> None:
    """The open channels cost the target within a tenth, before any landing; every axis has at least one."""
    search = soft.searcher("dms", steps=100)
    soft.train(search, soft.digits(), 100)
    limit = search.report()["budget"][0]
    assert limit["open"] == pytest.approx(limit["target"], rel=0.1)
    assert 0 < search.method.gates.ratio.max().item() < 1
