"""Interpolation of measured costs: exact at points, never dearer when narrower, with gradients that lead over plateaus."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pas.cost.grid import envelope, grid

numbers = st.floats(0.1, 10, allow_nan=False)
tables = st.tuples(st.integers(1, 5), st.integers(1, 5)).flatmap(
    lambda shape: st.lists(numbers, min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]).map(lambda v: np.array(v).reshape(shape))
)


def points(n: int) -> list[int]:
    return [8 * (i + 1) ** 2 for i in range(n)]


@given(tables)
def test_points_are_met_and_narrower_never_costs_more(values: np.ndarray) -> None:
    axes = [points(n) for n in values.shape]
    found = grid(axes, values)
    for i, a in enumerate(axes[0]):
        for j, b in enumerate(axes[1]):
            assert float(found(torch.tensor([float(a), float(b)], dtype=torch.float64))) == pytest.approx(values[i:, j:].min())
    lines = [torch.linspace(axis[0], axis[-1], 23, dtype=torch.float64) for axis in axes]
    surface = found(torch.stack(torch.meshgrid(*lines, indexing="ij"), -1))
    for d in range(2):
        assert (surface.diff(dim=d) >= -1e-9).all()


def test_by_hand() -> None:
    """One dimension, 8 16 24 32 -> 1 3 2 2: the envelope is 1 2 2 2. At 12 it is 1.5. The slope is 1/8 in the first cell; in the second
    2 - 1 over 24 - 8, and in the third 2 - 1 over 32 - 8, as nothing cheaper lies nearer.
    """
    found = grid([[8, 16, 24, 32]], np.array([1.0, 3.0, 2.0, 2.0]))
    assert envelope(np.array([1.0, 3.0, 2.0, 2.0])).tolist() == [1, 2, 2, 2]
    for at, value, slope in ((12.0, 1.5, 1 / 8), (20.0, 2.0, 1 / 16), (32.0, 2.0, 1 / 24), (40.0, 2.0, 1 / 24), (4.0, 0.5, 1 / 8)):
        width = torch.tensor([at], dtype=torch.float64, requires_grad=True)
        result = found(width)
        assert result.item() == pytest.approx(value)
        (gradient,) = torch.autograd.grad(result, width)
        assert float(gradient) == pytest.approx(slope)


@given(st.integers(2, 5), st.integers(2, 5), st.data())
def test_where_it_rises_the_gradient_is_the_difference(n: int, m: int, data: st.DataObject) -> None:
    """A strictly rising table inside a cell: as finite differences have it."""
    rises = lambda k: np.cumsum([data.draw(numbers) for _ in range(k)])  # noqa: E731
    found = grid([points(n), points(m)], rises(n)[:, None] * rises(m)[None, :])
    at = torch.tensor([data.draw(st.floats(9, points(n)[-1] - 1)), data.draw(st.floats(9, points(m)[-1] - 1))], dtype=torch.float64)
    at.requires_grad_()
    (gradient,) = torch.autograd.grad(found(at), at)
    for d in range(2):
        step = torch.zeros(2, dtype=torch.float64)
        step[d] = 1e-4
        edges = torch.tensor(points((n, m)[d]), dtype=torch.float64)
        if (edges - at[d]).abs().min() < 1e-3:
            continue  # a kink
        expected = (found((at + step).detach()) - found((at - step).detach())) / 2e-4
        assert float(gradient[d]) == pytest.approx(float(expected), rel=1e-6, abs=1e-6)
