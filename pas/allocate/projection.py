"""The projection of gate values onto a budget: one shift for all, so that those that stay open just fit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Fits = Callable[[np.ndarray], bool]
"""Whether these gates (numbers of them) may be open together. What fits still fits without one of them."""


def common_shift(margin: np.ndarray, fits: Fits, guess: int, edge: float) -> tuple[float, np.ndarray]:
    """The shift that closes as few gates as the budget demands, and the numbers of those that stay open.

    `margin` (n,): the shift at which each gate closes, infinite for one that can't. A gate closes when its margin is not above the
    shift; the shift lies midway between the last gate to stay and the first to close, and `edge` below the last one
    where all stay. `guess`: about how many stay.
    """
    order = np.argsort(-margin, kind="stable")
    least = int(np.isinf(margin).sum())
    low = _most_that_fit(order, fits, least, guess)
    staying = float(margin[order[low - 1]]) if low else np.inf
    if low == len(order):
        return (staying - edge if np.isfinite(staying) else 0.0), order
    between = [m for m in (float(margin[order[low]]), staying) if np.isfinite(m)]
    return sum(between) / len(between), order[:low]


def best(value: np.ndarray, axis: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Numbers of the highest values of each axis, ``widths[a]`` of them (axes,). `axis` (n,): of each value, ascending."""
    order = np.lexsort((-value, axis))  # axis after axis, best first
    rank = np.arange(len(order)) - np.searchsorted(axis, axis)
    return order[rank < widths[axis]]


def _most_that_fit(order: np.ndarray, fits: Fits, least: int, guess: int) -> int:
    """How many, the first of the order, fit; `least` of them always do. Gallops away from the guess: from step to step little moves."""
    low, high, stride = least, len(order), 1
    guess = min(max(guess, low), high)
    while low < high:
        if fits(order[:guess]):
            low, guess = guess, guess + stride
        else:
            high, guess = guess - 1, guess - stride
        stride *= 2
        if not low < guess <= high:
            guess = (low + high + 1) // 2
    return low
