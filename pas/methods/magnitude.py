"""Global magnitude: the channels of the whole network in one order, the smallest dropped until the budget holds."""

from __future__ import annotations

import numpy as np

from pas.methods.once import Weighed


class Magnitude(Weighed):
    """One threshold for all axes on a criterion of the weights, comparable between layers: the mean of each layer is one."""

    def choose(self, scores: np.ndarray) -> np.ndarray:
        return self.problem.land(scores)
