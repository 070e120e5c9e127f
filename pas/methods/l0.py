"""L0 regularisation with hard concrete gates (Louizos, Welling, Kingma, ICLR 2018, https://arxiv.org/abs/1712.01312)."""

from __future__ import annotations

from pas.gates.hard_concrete import HardConcrete
from pas.methods.base import Problem
from pas.methods.chance import ChanceMethod


class L0(ChanceMethod):
    """The penalty counts the cost that gates other than 0 make on average, ``P(z > 0)``, instead of the number of weights.

    Published values, in brackets: `strength` (0.1 to 1 over the number of examples, on the number of weights); `initial`, log alpha at
    first (0, a dropout rate of 0.5; -0.85 to 0.85 elsewhere, with a deviation of 0.01); `spread` (0). Gates get the learning rate of the
    weights there, under Adam. The budget as a constraint (`dual`), the falling target and the final `hold` aren't in the paper.
    """

    def __init__(self, problem: Problem, **options: float) -> None:
        super().__init__(problem, HardConcrete(problem.signature.channels, problem.free, problem.axis_index), **options)
