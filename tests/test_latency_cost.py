"""Latency as a cost: what a table says of the channels that stay, with gradients, calibrated."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from test_latency_table import HEADER, Small
from torch import nn

import pas
from pas import models
from pas.axes.signature import Signature
from pas.cost.grid import Grid
from pas.cost.latency import NANOSECONDS, Calibration, Latency, build, calibrate
from pas.cost.operators import Key, operators
from pas.cost.table import Table, points, wanted
from pas.errors import PasError


def made_up(signature: Signature) -> dict[Key, Grid]:
    """A table in which time rises with the product of an operator's widths."""
    table, axes = Table(HEADER), wanted(operators(signature), signature, 1)
    for key, widths in points(axes):
        table.add(key, widths, 0.01 + 1e-5 * math.prod(widths))
    return table.grids(axes)


def network(name: str) -> tuple[nn.Module, Signature]:
    if name == "small":
        model: nn.Module = Small().eval()
        return model, pas.signature(model, torch.zeros(1, 3, 16, 16))
    model = models.create(name, num_classes=10, in_chans=3).eval()
    return model, pas.signature(model, torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("name", ["small", "repvgg_nano", "mobilenetv2_mini"])
def test_the_sum_over_the_operators(name: str) -> None:
    """Products of widths are linear in each width, so that interpolation is exact, whichever widths stay."""
    _, signature = network(name)
    cost = build(signature, made_up(signature))
    rng = np.random.default_rng(0)
    found = operators(signature)
    for _ in range(3):
        architecture = signature.dense()
        for axis in signature.prunable:
            width = rng.integers(axis.size // 4 + 1, axis.size + 1)
            architecture = architecture.keep(axis.name, rng.choice(axis.size, width, replace=False))
        mask = signature.mask(architecture)
        expected = sum(0.01 + 1e-5 * math.prod(one.kept(mask)) for one in found)
        assert cost.at(mask) == pytest.approx(NANOSECONDS * expected, rel=1e-9)
    assert cost.calibrated(Calibration(2.0, 1.0)).at(mask) == pytest.approx(NANOSECONDS * (2 * expected + 1), rel=1e-9)


@pytest.mark.parametrize("name", ["small", "mobilenetv2_mini"])
def test_gradient_is_the_difference(name: str) -> None:
    """Between points of the grid, where the made-up table is smooth: at gates of 0.95."""
    _, signature = network(name)
    cost = build(signature, made_up(signature))
    gates = torch.full((signature.channels,), 0.95, dtype=torch.float64)
    gates[0] = 1
    gates.requires_grad_()
    (gradient,) = torch.autograd.grad(cost(gates), gates)
    rng = np.random.default_rng(0)
    for channel in rng.choice(np.arange(1, signature.channels), 12, replace=False):
        step = torch.zeros_like(gates)
        step[channel] = 1e-3
        with torch.no_grad():
            expected = float(cost(gates + step) - cost(gates - step)) / 2e-3
        assert float(gradient[channel]) == pytest.approx(expected, rel=1e-4, abs=1e-3)


def test_gradient_to_makers_only() -> None:
    """The classifier and others read the first axis without making it: these shares are left out."""
    _, signature = network("small")
    cost = build(signature, made_up(signature))
    gates = torch.full((signature.channels,), 0.6, dtype=torch.float64, requires_grad=True)
    both, makers = (torch.autograd.grad(cost(gates, both_sides=flag), gates)[0] for flag in (True, False))
    axis = signature.prunable[0]
    a = slice(axis.start, axis.start + axis.size)
    assert (makers[a] > 0).all()
    assert (makers[a] < both[a]).all()


def test_many_masks_at_once() -> None:
    _, signature = network("small")
    cost = build(signature, made_up(signature))
    masks = np.random.default_rng(0).random((5, signature.channels)) < 0.7
    masks[:, 0] = True
    together = cost(torch.from_numpy(masks))
    assert torch.equal(together.round().long(), torch.tensor([cost.at(mask) for mask in masks]))


def test_an_operator_that_the_table_lacks_is_an_error() -> None:
    _, signature = network("small")
    table = {key: grid for key, grid in made_up(signature).items() if key.kind != "mean"}
    with pytest.raises(PasError, match="the table has no mean; measure it with pas profile"):
        build(signature, table)


def test_calibration_by_hand() -> None:
    """1, 2, 4 measured as 2.5, 4.5, 8.5: twice the sum and a half; as 1.5, 3.5, 7.5: a half less. One network gives a scale. 1, 2 measured
    as 0.9, 2.9 would be 2 x - 1.1, more than half of 2 less; with a scale alone, the shares 1/0.9 and 2/2.9 give
    (1/0.9 + 2/2.9) / (1/0.81 + 4/8.41) = 1.0533.
    """
    found = calibrate([1, 2, 4], [2.5, 4.5, 8.5])
    assert (found.scale, found.offset) == pytest.approx((2, 0.5))
    assert calibrate([2], [5]).scale == pytest.approx(2.5)
    found = calibrate([1, 2, 4], [1.5, 3.5, 7.5])
    assert (found.scale, found.offset) == pytest.approx((2, -0.5))
    assert calibrate([1, 2], [0.9, 2.9]).scale == pytest.approx((1 / 0.9 + 2 / 2.9) / (1 / 0.81 + 4 / 8.41))
    assert calibrate([1, 2], [0.9, 2.9]).offset == 0


def test_a_latency_moves_between_devices() -> None:
    _, signature = network("small")
    cost = build(signature, made_up(signature))
    mask = np.ones(signature.channels, dtype=bool)
    moved = cost.to(torch.device("cpu"))
    assert isinstance(moved, Latency)
    assert moved.at(mask) == cost.at(mask)
