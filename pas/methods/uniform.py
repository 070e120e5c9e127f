"""Uniform widths, the first baseline: one share for all axes, the channels of largest magnitude, decided once."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from pas.allocate.uniform import uniform
from pas.criteria import magnitude
from pas.gates.binary import THRESHOLD
from pas.methods.base import Method


class Uniform(Method):
    """Decides before the first step and keeps the gates fixed while the weights adapt."""

    def wrap(self, backbone: nn.Module) -> nn.Module:
        problem = self.problem
        importance = magnitude(backbone, problem.signature)
        self._mask = uniform(problem.widths, importance, problem.limits.load)
        self._importance = importance
        with torch.no_grad():
            self.gates.value.copy_(torch.from_numpy(self._mask[problem.free]).to(self.gates.value))
        self.gates.value.requires_grad_(False)
        return super().wrap(backbone)

    def step(self) -> None:
        """Nothing moves."""

    def scores(self) -> np.ndarray:
        kept = self.gates.value.detach().cpu().numpy() > THRESHOLD
        scores = np.full(self.problem.signature.channels, np.inf)
        scores[self.problem.free] = np.where(kept, 1.0, 0.0)
        return scores
