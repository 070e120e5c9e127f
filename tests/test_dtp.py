"""Transportation pruning: the shift against scipy, the plan against Sinkhorn, the gradient by finite differences, the mass exact."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import searches
import soft
import torch
from scipy.optimize import brentq

import pas
from pas.errors import PasError
from pas.gates.transport import MOST, root, share_shifts, transported
from pas.methods.dtp import uniform_share


@pytest.fixture(scope="module")
def digits():
    return soft.digits()


# -- solvers


def test_shifts_of_axes_against_scipy() -> None:
    """Random logits, from nearly equal to far apart, and shares from a hundredth to nearly one."""
    rng = np.random.default_rng(0)
    for _ in range(60):
        sizes = rng.integers(1, 40, 4)
        group = np.repeat(np.arange(4), sizes)
        logits = rng.normal(size=len(group)) * 10.0 ** rng.uniform(-3, 2) + rng.normal() * 30
        share = float(rng.uniform(0.01, 0.999))
        found = share_shifts(torch.from_numpy(logits), torch.from_numpy(group), torch.from_numpy(sizes), share)
        for a in range(4):
            mine = logits[group == a]
            mass = lambda f, z=mine, k=share: (1 / (1 + np.exp(-np.clip(z + f, -700, 700)))).mean() - k  # noqa: E731
            assert mass(float(found[a])) == pytest.approx(0, abs=1e-10)
            assert float(found[a]) == pytest.approx(brentq(mass, -mine.max() - 40, 40 - mine.min(), xtol=1e-13), abs=1e-6)


def test_all_mass_is_nearly_all() -> None:
    shift = share_shifts(torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.long), torch.tensor([3]), 1.0)
    assert torch.sigmoid(shift).item() == pytest.approx(MOST)


def test_roots_against_scipy_and_of_steps() -> None:
    rng = np.random.default_rng(1)
    for _ in range(100):
        place, steep = rng.uniform(-30, 30), 10.0 ** rng.uniform(-1, 3)
        smooth = lambda x, p=place, s=steep: math.tanh(s * (x - p)) + 1e-3 * (x - p)  # noqa: E731
        assert root(smooth, -50, 50) == pytest.approx(brentq(smooth, -50, 50, xtol=1e-13), abs=1e-8)
        step = lambda x, p=place: -1.0 if x < p else 5.0  # noqa: E731
        assert root(step, -50, 50) == pytest.approx(place, abs=1e-6)
    assert root(lambda x: x + 60, -50, 50) == -50
    assert root(lambda x: x - 60, -50, 50) == 50


# -- the mask is the plan of transport


def sinkhorn(scores: np.ndarray, share: float, epsilon: float, cost_scale: float = 1.0) -> np.ndarray:
    """n P_(i, keep) of the entropic plan between uniform mass on the scores and shares k, 1 - k at 1 and 0, by alternate scaling."""
    n = len(scores)
    kernel = np.exp(-cost_scale * np.stack([(scores - 1) ** 2, scores**2], 1) / epsilon)
    rows, columns = np.ones(n), np.ones(2)
    for _ in range(5000):
        rows = (1 / n) / (kernel @ columns)
        columns = np.array([share, 1 - share]) / (kernel.T @ rows)
    return n * rows * kernel[:, 0] * columns[0]


def test_a_mask_is_the_plan_that_sinkhorn_finds() -> None:
    """One step of an axis of four channels; the proximal sum of two steps of scores s, t is the plan of their mean at half the epsilon,
    as (s - 1)^2 - s^2 = 1 - 2 s is linear in the score.
    """
    search = soft.two_layers("dtp", scope="axis", epsilon=0.3, steps=1, initial=0)
    gates = search.method.gates
    first, second = np.array([0.2, 0.9, 0.4, 0.55]), np.array([0.6, 0.1, 0.3, 0.8])
    with torch.no_grad():
        gates.share.fill_(0.4)
        gates.value[:4] = torch.from_numpy(first)
    assert gates.quiet()[:4].tolist() == pytest.approx(sinkhorn(first, 0.4, 0.3).tolist(), abs=1e-6)
    gates.proceed()
    with torch.no_grad():
        gates.value[:4] = torch.from_numpy(second)
    assert gates.quiet()[:4].tolist() == pytest.approx(sinkhorn((first + second) / 2, 0.4, 0.15).tolist(), abs=1e-6)


# -- gradients


@pytest.mark.parametrize("scope", ["axis", "global"])
def test_the_gradient_goes_through_the_shift(scope: str) -> None:
    """By finite differences, with a cost that is a product of widths; moving all scores alike changes nothing."""
    search = soft.two_layers("dtp", scope=scope, epsilon=0.5, steps=1, initial=0, ramp=0.0)
    search.method.taken = 1
    search.method._constrain()
    gates = search.method.gates
    logits = torch.randn(6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: transported(z, gates.solve), (logits,), eps=1e-6, atol=1e-7)
    weight = torch.randn(6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((transported(logits, gates.solve) * weight).sum(), logits)
    assert gradient.abs().max() > 1e-2
    assert gradient.sum().item() == pytest.approx(0, abs=1e-12)


# -- the mass


def test_the_uniform_share_by_hand() -> None:
    """4 k + 8 k^2 + 2 k = 7 has k = (-6 + sqrt(36 + 224)) / 16."""
    problem = soft.two_layers("dtp").method.problem
    assert uniform_share(problem, [7.0]) == pytest.approx((-6 + math.sqrt(260)) / 16)
    assert uniform_share(problem, [14.0]) == 1


@pytest.mark.parametrize("scope", ["axis", "global"])
def test_masks_cost_the_target_at_every_step(digits, scope: str) -> None:
    """float32 gates, so 1e-6. In the axis scope all axes keep the same share."""
    search = soft.searcher("dtp", scope=scope, steps=12, ramp=0.5, hold=0.0)
    search.calibrate(itertools.islice(digits.epoch(0), 1), searches.plain_loss)
    optimizer = soft.optimizer_of(search)
    for step in range(8):
        soft.train(search, digits, 1, step, optimizer)
        (limit,), gates = search.limits.each, search.method.gates
        assert float(limit.cost(gates.still().detach())) == pytest.approx(search.method.targets()[0], rel=1e-6)
        shares = torch.zeros(len(gates.sizes)).index_add(0, gates.axis, gates.still().detach()[gates.free]) / gates.sizes
        assert (shares.max() - shares.min() < 1e-5) == (scope == "axis")
    assert search.method.targets() == [search.limits.each[0].target]


def test_masks_sharpen_by_themselves(digits) -> None:
    """The temperature falls like 1 / t: at the same scores, after twice as many steps, the logits are twice as large."""
    search = soft.searcher("dtp", steps=10, score_lr=0.0, ramp=0.0, hold=0.0)
    search.calibrate(itertools.islice(digits.epoch(0), 1), searches.plain_loss)
    gates = search.method.gates
    for _ in range(3):
        search.step()
    at_three = gates.prior.clone()
    for _ in range(3):
        search.step()
    assert torch.allclose(gates.prior, 2 * at_three)
    assert at_three.tolist() == pytest.approx((3 * (2 * gates.value.double() - 1) / (0.02 * 10)).tolist())
    still = soft.searcher("dtp", steps=10, proximal=0.0)
    still.step()
    assert not still.method.gates.prior.any()
    assert still.method.gates.temperature == 0.02


def test_the_search_comes_to_its_budget_by_itself(digits) -> None:
    """Masks are nearly hard at the end: what is open costs the target within a tenth."""
    search = soft.searcher("dtp", steps=40, hold=0.0)
    search.calibrate(itertools.islice(digits.epoch(0), 2), searches.plain_loss)
    soft.train(search, digits, 40)
    limit = search.report()["budget"][0]
    assert limit["open"] == pytest.approx(limit["target"], rel=0.1)


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(PasError, match="scope='layer': choose from axis, global"):
        soft.searcher("dtp", scope="layer")
    with pytest.raises(PasError, match="above 0"):
        soft.searcher("dtp", epsilon=0.0)
    assert "scope" in pas.methods.DEFAULTS["dtp"]
