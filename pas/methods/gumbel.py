"""Straight-through Gumbel gates (https://arxiv.org/abs/1611.01144, https://arxiv.org/abs/1611.00712) under a budget."""

from __future__ import annotations

from pas.errors import PasError
from pas.gates.gumbel import Gumbel
from pas.methods.base import Problem
from pas.methods.chance import ChanceMethod


class GumbelGates(ChanceMethod):
    """Gates that are drawn as 0 or 1 in each step, with the gradient of the concrete distribution, whose temperature falls from `hot` to
    `cold` over the search, by the same factor in each step.

    Published values, in brackets: `hot` (1), `cold` (0.5) of the categorical case. The papers know no budget: see `ChanceMethod`.
    """

    gates: Gumbel

    def __init__(self, problem: Problem, *, hot: float, cold: float, **options: float) -> None:
        if not (hot > 0 and cold > 0):
            raise PasError(f"hot={hot}, cold={cold}: temperatures are above 0")
        super().__init__(problem, Gumbel(problem.signature.channels, problem.free, problem.axis_index), **options)
        self.hot, self.cold = hot, cold
        self.gates.tau.fill_(hot)

    def learn(self) -> None:
        super().learn()
        self.gates.tau.fill_(self.hot * (self.cold / self.hot) ** min(1.0, self.taken / self.problem.steps))
