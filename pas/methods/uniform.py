"""Uniform widths, the first baseline: one share for all axes, the channels that weigh most."""

from __future__ import annotations

import numpy as np

from pas.allocate.uniform import uniform
from pas.methods.once import Weighed


class Uniform(Weighed):
    """Every axis keeps the same share of its channels; `criterion` picks them."""

    def choose(self, scores: np.ndarray) -> np.ndarray:
        return uniform(self.problem.widths, scores, self.problem.limits.load)
