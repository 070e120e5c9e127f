"""Interpolation of measured costs: exact at points, never dearer when narrower, with gradients that lead over plateaus."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pas.cost.grid import Grid, Grids, envelope, grid

numbers = st.floats(0.1, 10, allow_nan=False)
tables = st.tuples(st.integers(1, 5), st.integers(1, 5)).flatmap(
    lambda shape: st.lists(numbers, min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]).map(lambda v: np.array(v).reshape(shape))
)


def at(function: Grid, widths: torch.Tensor, block: int = 1) -> torch.Tensor:
    """Its values (...) at widths (..., D), among grids of fewer and of more dimensions."""
    others = [grid([[4, 5]], np.array([7.0, 8.0])), grid([[1], [2], [3]], np.ones((1, 1, 1)))]
    filled = torch.cat([widths, torch.ones(*widths.shape[:-1], 3 - widths.shape[-1], dtype=widths.dtype)], -1)
    return Grids.of([others[0], function, others[1]])(filled[..., None, :], torch.tensor([1]), torch.tensor([[block, 1, 1]]))[..., 0]


def points(n: int) -> list[int]:
    return [8 * (i + 1) ** 2 for i in range(n)]


@given(tables)
def test_points_are_met_and_narrower_never_costs_more(values: np.ndarray) -> None:
    axes = [points(n) for n in values.shape]
    found = grid(axes, values)
    for i, a in enumerate(axes[0]):
        for j, b in enumerate(axes[1]):
            assert float(at(found, torch.tensor([float(a), float(b)], dtype=torch.float64))) == pytest.approx(values[i:, j:].min())
    lines = [torch.linspace(axis[0], axis[-1], 23, dtype=torch.float64) for axis in axes]
    surface = at(found, torch.stack(torch.meshgrid(*lines, indexing="ij"), -1))
    for d in range(2):
        assert (surface.diff(dim=d) >= -1e-9).all()


def test_by_hand() -> None:
    """One dimension, 8 16 24 32 -> 1 3 2 2: the envelope is 1 2 2 2. At 12 it is 1.5. The slope is 1/8 in the first cell; in the second
    2 - 1 over 24 - 8, and in the third 2 - 1 over 32 - 8, as nothing cheaper lies nearer.
    """
    found = grid([[8, 16, 24, 32]], np.array([1.0, 3.0, 2.0, 2.0]))
    assert envelope(np.array([1.0, 3.0, 2.0, 2.0])).tolist() == [1, 2, 2, 2]
    for place, value, slope in ((12.0, 1.5, 1 / 8), (20.0, 2.0, 1 / 16), (32.0, 2.0, 1 / 24), (40.0, 2.0, 1 / 24), (4.0, 1.0, 1 / 8)):
        width = torch.tensor([place], dtype=torch.float64, requires_grad=True)
        result = at(found, width)
        assert result.item() == pytest.approx(value)
        (gradient,) = torch.autograd.grad(result, width)
        assert float(gradient) == pytest.approx(slope)


def test_blocks_are_filled_up() -> None:
    """Of blocks of 16: 17 to 32 channels cost what 32 cost, at the end of the grid 40 cost what 40 cost, and 33 channels too. The slope at
    17 is that of the cell below 32.
    """
    found = grid([[16, 32, 40]], np.array([1.0, 2.0, 2.5]))
    for place, value, slope in ((16, 1, 1 / 16), (17, 2, 1 / 16), (32, 2, 1 / 16), (33, 2.5, 1 / 16), (40, 2.5, 1 / 16)):
        width = torch.tensor([float(place)], dtype=torch.float64, requires_grad=True)
        result = at(found, width, block=16)
        assert result.item() == pytest.approx(value)
        (gradient,) = torch.autograd.grad(result, width)
        assert float(gradient) == pytest.approx(slope)


@given(st.integers(2, 5), st.integers(2, 5), st.data())
def test_where_it_rises_the_gradient_is_the_difference(n: int, m: int, data: st.DataObject) -> None:
    """A strictly rising table inside a cell: as finite differences have it."""
    rises = lambda k: np.cumsum([data.draw(numbers) for _ in range(k)])  # noqa: E731
    found = grid([points(n), points(m)], rises(n)[:, None] * rises(m)[None, :])
    here = torch.tensor([data.draw(st.floats(9, points(n)[-1] - 1)), data.draw(st.floats(9, points(m)[-1] - 1))], dtype=torch.float64)
    here.requires_grad_()
    (gradient,) = torch.autograd.grad(at(found, here), here)
    for d in range(2):
        step = torch.zeros(2, dtype=torch.float64)
        step[d] = 1e-4
        edges = torch.tensor(points((n, m)[d]), dtype=torch.float64)
        if (edges - here[d]).abs().min() < 1e-3:
            continue  # a kink
        expected = (at(found, (here + step).detach()) - at(found, (here - step).detach())) / 2e-4
        assert float(gradient[d]) == pytest.approx(float(expected), rel=1e-6, abs=1e-6)
