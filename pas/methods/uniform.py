"""Uniform widths, the first baseline: one share for all axes, the channels that weigh most."""

from __future__ import annotations

import numpy as np
from torch import nn

from pas.allocate.uniform import uniform
from pas.criteria import CRITERIA
from pas.methods.base import Problem
from pas.methods.once import Once


class Uniform(Once):
    """Every axis keeps the same share of its channels. `criterion`: which of `pas.criteria.CRITERIA` picks them."""

    def __init__(self, problem: Problem, *, criterion: str) -> None:
        super().__init__(problem)
        self.criterion = CRITERIA[criterion]

    def judge(self, backbone: nn.Module) -> np.ndarray:
        return self.criterion(backbone, self.problem.signature)

    def choose(self, scores: np.ndarray) -> np.ndarray:
        return uniform(self.problem.widths, scores, self.problem.limits.load)
