"""Widths that are known beforehand, and the two controls without which a table of searched widths shows nothing."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from pas.errors import PasError
from pas.methods.base import Problem
from pas.methods.once import Once


class Given(Once):
    """Keeps exactly the channels of the start, whatever the budget says."""

    lands = False

    def __init__(self, problem: Problem) -> None:
        if problem.start is None:
            raise PasError("this method needs an architecture to start from: Search(start=...), or options.start=FILE")
        super().__init__(problem)

    def judge(self, backbone: nn.Module) -> np.ndarray:
        assert self.problem.start is not None
        return self.problem.start.astype(np.float64)

    def choose(self, scores: np.ndarray) -> np.ndarray:
        assert self.problem.start is not None
        return self.problem.start


class Random(Given):
    """The widths of the start, with channels drawn at random from torch's generator: what the choice of channels is worth."""

    def choose(self, scores: np.ndarray) -> np.ndarray:
        assert self.problem.start is not None
        mask = self.problem.start.copy()
        for axis in self.problem.widths.axes:
            order = torch.randperm(axis.size).numpy()
            mask[axis.start : axis.start + axis.size] = mask[axis.start : axis.start + axis.size][order]
        return mask


class Scratch(Given):
    """The channels of the start with fresh weights, trained for as long as all stages together: what the widths are worth."""

    inherits = False
