"""What methods with random gates have in common: a penalty on the expected cost, or a constraint on it with a multiplier."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from pas.criteria import Batch, Loss, taylor
from pas.gates.chance import Chance
from pas.methods.base import Problem
from pas.methods.soft import BOUND, Normalised, SoftMethod, spread

SAMPLES = 1024
"""Examples that rank the channels, where initial values are spread."""
RESPONSE = 2.0
"""What the pressure on the gates has of the excess itself, beside the multiplier."""


class ChanceMethod(SoftMethod):
    """Gates that are open with probability P. Independent as they are, they cost cost(P) on average, with cost the network's exact,
    multilinear cost.

    - `dual` above 0: the budget as a constraint, by dual ascent (Gallego-Posada et al., https://arxiv.org/abs/2208.04425, eq. 5-7). To the
      gradient of the loss comes ``k`` times that of ``cost(P) / target`` for each limit, with ``k = mu + 2 e``,
      ``mu <- mu + dual / steps e`` and ``e = cost / target - 1`` against the falling target. Three departures: k counts in such a unit
      that at 1 the cost's gradient is, over all gates, as large as that of the loss in one step, as that is mostly the noise of a
      mini-batch; the term of e itself takes the place of the paper's dual restarts, as without either a multiplier that has summed up an
      excess overshoots; and mu may fall below 0, as a budget is there to be used. `hard`: 1 measures e by the channels that an export
      would find open; 0, as published, by P.
    - `dual` 0: a penalty of fixed `strength`, as published, ``strength cost(P) / target``.
    - `gate_lr`: how far log alpha moves over the search when its gradient keeps its sign; the loss's gradients are divided by their root
      mean square over each axis, those of the cost by the same numbers.
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
        if self.holds or self.dual:
            return super().penalty()
        expected = self.gates.expected()
        self._follow()
        shares = [cost(expected) / limit.target for cost, limit in zip(self._costs, self.problem.limits.each, strict=True)]
        return self.strength * torch.stack(shares).sum().to(expected.dtype)

    def learn(self) -> None:
        if self.dual:
            excess = self._excess()
            pressure = self.multiplier.to(excess.device) + RESPONSE * excess
            self.multiplier = self.multiplier.to(excess.device) + self.dual / self.problem.steps * excess
            self.gates.value.sub_(self.gate_lr / self.problem.steps * self._push(pressure))
        self.gates.clamp()

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

    def _push(self, pressure: Tensor) -> Tensor:
        """The gradient of the costs (n,) in units of the loss's normalised ones. `pressure` (limits,): k."""
        gates, total = self.gates, torch.zeros_like(self.gates.value)
        root = self.normalised["value"].square.sqrt().to(total)[gates.axis]
        slope = gates.probability() * (1 - gates.probability())  # of a logistic function
        with torch.enable_grad():
            chances = gates.expected().detach().requires_grad_()
            spent = self.spent(chances)
        for k, share in zip(pressure, spent, strict=True):
            (by_chance,) = torch.autograd.grad(share, chances)
            push = torch.where(root > 0, by_chance[gates.free].to(total) * slope / root.clamp_min(1e-30), 0)
            total += k.to(total) * push / push.square().mean().sqrt().clamp_min(1e-30)
        return total.clamp(-BOUND, BOUND)

    def _begin(self, ranks: Tensor) -> None:
        """`ranks` (n,): from -1 to 1."""
        value = self.initial + self.spread * ranks
        with torch.no_grad():
            opened = torch.from_numpy(self.problem.open_at_start)
            self.gates.value.copy_(torch.where(opened, value, -self.gates.limit))
        self.gates.clamp()
