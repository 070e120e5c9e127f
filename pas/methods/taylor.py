"""One-shot Taylor pruning per cost: the squared first-order effect of each channel on the loss, over what the channel costs."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import numpy as np
from torch import nn

from pas.allocate.landing import land
from pas.criteria import Batch, Loss, taylor
from pas.methods.base import Problem
from pas.methods.once import Once


class Taylor(Once):
    """Per-sample gradients of the dense network, `samples` examples, then one threshold for all axes on

        log E[g^2] - log c,

    c the mean cost of a channel of the axis: in the dense network or, with `recost` above 1, counted anew so many times on the
    way down, at the widths reached so far (which are what it will be read by).
    """

    def __init__(self, problem: Problem, *, samples: float, recost: float) -> None:
        super().__init__(problem)
        self.samples, self.recost = max(1, round(samples)), max(1, round(recost))
        self._importance: np.ndarray | None = None

    def judge(self, backbone: nn.Module) -> None:
        return None

    def calibrate(self, batches: Iterable[Batch], loss: Loss) -> None:
        problem = self.problem
        scores = taylor(self._backbone, problem.signature, problem.free, batches, loss, self.samples)
        free = scores[problem.free]
        self._importance = np.zeros(len(scores))
        self._importance[problem.free] = free
        scores[problem.free] = np.log(np.maximum(free, max(1e-8 * free.max(), 1e-38)))
        self._decide(scores)

    def importance(self) -> np.ndarray | None:
        """The squared first-order effect on the loss; None before data was seen."""
        return self._importance

    def choose(self, scores: np.ndarray) -> np.ndarray:
        problem = self.problem
        value = scores[problem.free]
        mask = np.ones(problem.signature.channels, dtype=bool)
        dense = float(problem.limits.load(mask))
        for round_ in range(1, self.recost + 1):
            worth = np.full(problem.signature.channels, np.inf)
            worth[problem.free] = value - np.log(problem.cost_per_axis(mask).numpy())[problem.axis_index]
            allowed = dense + (1 - dense) * round_ / self.recost  # the load falls to 1
            mask = land(problem.widths, worth, partial(_load, problem, allowed), self._importance)
        return mask


def _load(problem: Problem, allowed: float, mask: np.ndarray) -> np.ndarray:
    return problem.limits.load(mask) / allowed
