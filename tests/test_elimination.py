"""Costs as polynomials in widths, and bounds on what widths within a budget can be worth."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import timm
import torch
from test_latency_cost import made_up, network

import pas
from pas.allocate.chain import Chain, relaxed
from pas.allocate.elimination import Problem, best, bound
from pas.cost.latency import Calibration
from pas.cost.latency import build as latency
from pas.cost.macs import build
from pas.cost.polynomial import Polynomial, polynomial
from pas.cost.tabulated import of_latency, of_polynomial


@pytest.mark.parametrize("name", ["resnet18", "repvgg_a0", "mobilenetv2_100", "densenet121", "regnety_002", "vit_tiny_patch16_224"])
def test_polynomial_is_the_cost(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name).eval()
        signature = pas.signature(model, torch.zeros(1, 3, 224, 224))
    rng = np.random.default_rng(0)
    for cost in (build(signature, "macs"), build(signature, "params")):
        found = polynomial(cost, signature)
        for _ in range(3):
            architecture = signature.dense()
            for axis in signature.prunable:
                architecture = architecture.keep(axis.name, rng.choice(axis.size, rng.integers(1, axis.size + 1), replace=False))
            widths = [len(architecture.kept[axis.name]) for axis in signature.prunable]
            assert round(found.at(widths)) == cost.at(signature.mask(architecture))


def test_a_chain_by_hand() -> None:
    """3 -> a -> b -> 5 by 1x1 convolutions without bias on one pixel: 3a + ab + 5b."""
    model = torch.nn.Sequential(*(torch.nn.Conv2d(a, b, 1, bias=False) for a, b in ((3, 4), (4, 6), (6, 5))))
    signature = pas.signature(model, torch.zeros(1, 3, 1, 1))
    assert polynomial(build(signature, "macs"), signature).terms == {(0,): 3, (0, 1): 1, (1,): 5}


def instance(rng: np.random.Generator, axes: int) -> Problem:
    """Axes that meet in twos and threes, and squares."""
    choices = tuple(np.sort(rng.choice(np.arange(1, 9), int(rng.integers(2, 5)), replace=False)) for _ in range(axes))
    values = tuple(np.sort(rng.random(len(c)) * 3) for c in choices)
    terms = {(): 1.0, **{(a,): rng.uniform(0, 3) for a in range(axes)}, (0, 0): rng.uniform(0, 1)}
    for _ in range(axes + 1):
        terms[tuple(sorted(rng.choice(axes, int(rng.integers(2, 4)), replace=False).tolist()))] = rng.uniform(0.1, 1)
    return Problem(choices, values, of_polynomial(Polynomial((), terms), choices))


def test_the_best_at_a_price_and_the_bound_against_all_widths() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        problem = instance(rng, int(rng.integers(3, 6)))
        everything = list(itertools.product(*[range(len(c)) for c in problem.choices]))
        values = np.array([sum(v[k] for v, k in zip(problem.values, one, strict=True)) for one in everything])
        costs = np.array([problem.cost.at(one) for one in everything])
        price = float(rng.uniform(0, 1))
        chosen = everything.index(best(problem, price))
        assert (values - price * costs)[chosen] == pytest.approx((values - price * costs).max())
        budget = float(rng.uniform(costs.min(), costs.max()))
        found, optimum = bound(problem, budget), values[costs <= budget].max()
        assert found.cost <= budget
        assert found.value <= optimum + 1e-9 <= found.bound + 2e-9


def test_chains_have_the_bound_of_the_chain_solver() -> None:
    rng = np.random.default_rng(1)
    widths = np.arange(1, 9)
    values = tuple(np.cumsum(np.sort(rng.random(8))[::-1]) for _ in range(6))
    weights = rng.uniform(0.5, 2, 5)
    cost = Polynomial((), {(a, a + 1): w for a, w in enumerate(weights.tolist())})
    problem = Problem((widths,) * 6, values, of_polynomial(cost, (widths,) * 6))
    chain = Chain.of(values, [np.zeros(8)] * 6, [w * np.outer(widths, widths) for w in weights])
    assert bound(problem, 60).bound == pytest.approx(relaxed(chain, 60)[0].bound, rel=1e-6)


def test_refusals() -> None:
    choices = (np.arange(1, 3),) * 2
    problem = Problem(choices, (np.arange(2.0),) * 2, of_polynomial(Polynomial((), {(0, 1): 2.0}), choices))
    with pytest.raises(pas.PasError, match="the smallest widths cost 2, more than the budget of 1"):
        bound(problem, 1)
    with pytest.raises(pas.PasError, match="5 axes meet in this network"):
        of_polynomial(Polynomial((), {(0, 1, 2, 3, 4): 1.0}), (np.arange(1, 65),) * 5)
    pairs = dict.fromkeys(itertools.combinations(range(6), 2), 1.0)
    everyone = Problem((np.arange(1, 33),) * 6, (np.arange(32.0),) * 6, of_polynomial(Polynomial((), pairs), (np.arange(1, 33),) * 6))
    with pytest.raises(pas.PasError, match="6 axes meet in this network"):
        best(everyone, 1.0)


@pytest.mark.parametrize("name", ["small", "repvgg_nano", "mobilenetv2_mini"])
def test_latency_in_tables_is_the_latency(name: str) -> None:
    _, signature = network(name)
    cost = latency(signature, made_up(signature), block=4).calibrated(Calibration(1.5, 0.25))
    choices = [np.unique([1, axis.size // 2, axis.size]) for axis in signature.prunable]
    tables = of_latency(cost, signature, choices)
    rng = np.random.default_rng(0)
    for _ in range(5):
        picked = [int(rng.integers(len(widths))) for widths in choices]
        architecture = signature.dense()
        for axis, widths, k in zip(signature.prunable, choices, picked, strict=True):
            architecture = architecture.keep(axis.name, rng.choice(axis.size, widths[k], replace=False))
        assert round(tables.at(picked)) == cost.at(signature.mask(architecture))
