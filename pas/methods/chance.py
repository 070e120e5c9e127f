"""What methods with random gates have in common: a penalty on the expected cost, or a constraint on it with a multiplier."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from pas.criteria import Batch, Loss, taylor
from pas.gates.chance import Chance
from pas.methods.base import Problem
from pas.methods.soft import Normalised, SoftMethod, spread

SAMPLES = 1024
"""Examples that rank the channels, where initial values are spread."""
RESPONSE = 2.0
"""What the pressure on the gates has of the excess itself, beside the multiplier."""


class ChanceMethod(SoftMethod):
    """Gates that are open with probability P. Independent as they are, they cost cost(P) on average, with cost the network's exact,
    multilinear cost.

    - `dual` above 0: the budget as a constraint, by dual ascent (Gallego-Posada et al., https://arxiv.org/abs/2208.04425, eq. 5-7). The
      loss gets ``k cost(P) / target`` for each limit, with ``k = mu + 2 e``, ``mu <- mu + dual / steps e`` and ``e = cost / target - 1``
      against the falling target. Two departures: the term of e itself takes the place of the paper's dual restarts, as without either a
      multiplier that has summed up an excess overshoots; and mu may fall below 0, as a budget is there to be used. `hard`: 1 measures e by
      the channels that an export would find open; 0, as published, by P.
    - `dual` 0: a penalty of fixed `strength`, as published, ``strength cost(P) / target``.
    - `gate_lr`: how far log alpha moves over the search when its gradient keeps its sign; gradients are divided by their root mean square
      over each axis.
    - `initial`, `spread`: log alpha at first, so far below and above by Taylor rank inside each axis, where data was shown (`calibrate`).
      Equal values move a whole axis as a front.
    """

    gates: Chance

    def __init__(
        self,
        problem: Problem,
        gates: Chance,
        *,
        strength: float,
        dual: float,
        hard: float,
        gate_lr: float,
        initial: float,
        spread: float,
        warmup: float,
        ramp: float,
        hold: float,
    ) -> None:
        super().__init__(problem, gates, warmup=warmup, ramp=ramp, hold=hold)
        self.strength, self.dual, self.hard = strength, dual, bool(hard)
        self.gate_lr, self.initial, self.spread = gate_lr, initial, spread
        self.samples = SAMPLES if spread else 0
        self.multiplier = torch.zeros(len(problem.limits.each), dtype=torch.float64)
        self.normalised = {"value": Normalised(gates.value, gates.axis)}
        self._begin(torch.zeros(len(problem.free)))

    def calibrate(self, batches: Iterable[Batch], loss: Loss) -> None:
        if self.samples:
            problem = self.problem
            self._begin(spread(problem, taylor(self._backbone, problem.signature, problem.free, batches, loss, self.samples)))

    def groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        del lr, weight_decay
        return self.moving(self.gates.value, self.gate_lr)

    def penalty(self) -> Tensor:
        if self.holds:
            return super().penalty()
        expected = self.gates.expected()
        if not self.dual:
            self._follow()
            shares = [cost(expected) / limit.target for cost, limit in zip(self._costs, self.problem.limits.each, strict=True)]
            return self.strength * torch.stack(shares).sum().to(expected.dtype)
        with torch.no_grad():
            pressure = self.multiplier.to(expected.device) + RESPONSE * self._excess()
        return (pressure * torch.stack(self.spent(expected))).sum().to(expected.dtype)

    def learn(self) -> None:
        self.gates.clamp()
        if self.dual:
            excess = self._excess()
            self.multiplier = self.multiplier.to(excess.device) + self.dual / self.problem.steps * excess

    def worth(self) -> Tensor:
        return self.gates.value

    def state_dict(self) -> dict[str, Tensor]:
        return {**super().state_dict(), "multiplier": self.multiplier}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        self.multiplier = state["multiplier"].clone()

    def _excess(self) -> Tensor:
        """e of each limit (limits,)."""
        return torch.stack(self.spent(self.gates.settled() if self.hard else self.gates.expected())).detach() - 1

    def _begin(self, ranks: Tensor) -> None:
        """`ranks` (n,): from -1 to 1."""
        value = self.initial + self.spread * ranks
        with torch.no_grad():
            opened = torch.from_numpy(self.problem.open_at_start)
            self.gates.value.copy_(torch.where(opened, value, -self.gates.limit))
        self.gates.clamp()
