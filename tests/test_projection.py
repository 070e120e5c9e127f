"""The projection against counting one by one."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pas.allocate.projection import best, common_shift


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_as_many_stay_as_fit(data: st.DataObject) -> None:
    """Gates open one after the other, the highest margin first, until one more would not fit."""
    n = data.draw(st.integers(1, 40))
    margin = np.array(data.draw(st.lists(st.one_of(st.floats(-5, 5), st.just(np.inf)), min_size=n, max_size=n)))
    cost = np.array(data.draw(st.lists(st.floats(0, 3), min_size=n, max_size=n)))
    guarded = cost[np.isinf(margin)].sum()
    room = guarded + data.draw(st.floats(0, 30))
    asked = []

    def fits(kept: np.ndarray) -> bool:
        asked.append(len(kept))
        return bool(np.isin(np.flatnonzero(np.isinf(margin)), kept).all()) and cost[kept].sum() <= room + 1e-9

    shift, kept = common_shift(margin, fits, data.draw(st.integers(0, 50)), 1e-4)
    order = sorted(range(n), key=lambda i: -margin[i])
    expected = max(k for k in range(int(np.isinf(margin).sum()), n + 1) if cost[order[:k]].sum() <= room + 1e-9)
    assert kept.tolist() == order[:expected]
    closed = np.setdiff1d(np.arange(n), kept)
    assert (margin[kept] >= shift).all()
    assert (margin[closed] <= shift).all()
    assert len(asked) <= 2 * np.log2(n + 1) + 3
    if not len(closed) and np.isfinite(margin).any():
        assert shift == margin[np.isfinite(margin)].min() - 1e-4


def test_a_good_guess_takes_two_questions() -> None:
    """Unit costs and room for 700 of 1000: at 700 it fits, at 701 it doesn't."""
    asked = []

    def fits(kept: np.ndarray) -> bool:
        asked.append(len(kept))
        return len(kept) <= 700

    _, kept = common_shift(np.arange(1000.0), fits, 700, 1e-4)
    assert len(kept) == 700
    assert asked == [700, 701]


def test_the_best_of_each_axis() -> None:
    """Two of (1, 3, 2), one of (5, 5), none of (9,): equal values go by their order."""
    value, axis = np.array([1.0, 3, 2, 5, 5, 9]), np.array([0, 0, 0, 1, 1, 2])
    assert sorted(best(value, axis, np.array([2, 1, 0])).tolist()) == [1, 2, 3]
