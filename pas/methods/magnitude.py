"""Global magnitude: the channels of the whole network in one order, the smallest dropped until the budget holds."""

from __future__ import annotations

import numpy as np
from torch import nn

from pas.allocate.landing import land
from pas.criteria import CRITERIA
from pas.methods.base import Problem
from pas.methods.once import Once


class Magnitude(Once):
    """One threshold for all axes on a criterion of the weights, which is comparable between layers: the mean of each layer is one.

    `criterion`: which of `pas.criteria.CRITERIA`.
    """

    def __init__(self, problem: Problem, *, criterion: str) -> None:
        super().__init__(problem)
        self.criterion = CRITERIA[criterion]

    def judge(self, backbone: nn.Module) -> np.ndarray:
        return self.criterion(backbone, self.problem.signature)

    def choose(self, scores: np.ndarray) -> np.ndarray:
        return land(self.problem.widths, scores, self.problem.limits.load)
