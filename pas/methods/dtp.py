"""Differentiable Transportation Pruning (ICCV 2023, https://arxiv.org/abs/2307.08483): soft masks whose mass is exact at every step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from pas.budget import Limits
from pas.criteria import Batch, Loss, taylor
from pas.errors import PasError
from pas.gates.transport import AxisTransport, CostTransport, Transport, root
from pas.methods.base import Problem
from pas.methods.soft import Normalised, SoftMethod, spread

SAMPLES = 1024
"""Examples that rank the channels, where initial scores are spread."""
SCOPES = ("axis", "global")


class Dtp(SoftMethod):
    """One score a channel, trained with the weights; masks are a plan of transport of the scores (`pas.gates.transport`).

    - `scope`: "axis", as published, keeps the same share of mass in every axis, here the one that the budget leaves when all axes have it
      alike. "global" has one shift for all channels instead, such that the masks cost exactly what the budget allows now: then widths are
      found, too, and the gradient of a score is what its channel is worth less what its cost takes from all others.
    - `proximal`: 1, as published, adds up the plans of all steps; 0 makes every step's anew, at the temperature of the end.
    - `epsilon`: the temperature of the whole search's sum; a single step has that times the number of steps.
    - `score_lr`: how far a score moves over the search when its gradient keeps its sign; gradients are divided by their root mean square
      over each axis (or, with one shift, over all).
    - `initial`: initial scores lie so far below and above 1/2, by Taylor rank inside each axis, where data was shown (`calibrate`).

    Departures: the mass falls to the budget over the `ramp`, and the export lands in the budget's band. The paper's learning rates and
    temperatures weren't at hand; these were chosen on small networks.
    """

    gates: Transport

    def __init__(
        self,
        problem: Problem,
        *,
        scope: str,
        proximal: float,
        epsilon: float,
        score_lr: float,
        initial: float,
        warmup: float,
        ramp: float,
        hold: float,
    ) -> None:
        if scope not in SCOPES:
            raise PasError(f"scope={scope!r}: choose from {', '.join(SCOPES)}")
        if not epsilon > 0:
            raise PasError(f"epsilon={epsilon}: a temperature is above 0")
        place = (problem.signature.channels, problem.free, problem.axis_index)
        how: dict[str, Any] = {"temperature": epsilon * (problem.steps if proximal else 1), "start": problem.open_at_start}
        gates: Transport
        if scope == "axis":
            gates = AxisTransport(*place, **how)
        else:
            gates = CostTransport(*place, **how, costs=[limit.cost for limit in problem.limits.each])
        super().__init__(problem, gates, warmup=warmup, ramp=ramp, hold=hold)
        self.proximal, self.score_lr, self.initial = bool(proximal), score_lr, initial
        self.samples = SAMPLES if initial else 0
        with torch.no_grad():
            gates.value.fill_(0.5)
        group = gates.axis if scope == "axis" else torch.zeros_like(gates.axis)
        self.normalised = {"score": Normalised(gates.value, group)}
        self._constrain()

    def calibrate(self, batches: Iterable[Batch], loss: Loss) -> None:
        if self.samples:
            problem = self.problem
            scores = taylor(self._backbone, problem.signature, problem.free, batches, loss, self.samples)
            with torch.no_grad():
                self.gates.value.copy_(0.5 + self.initial * spread(problem, scores))

    def groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        del lr, weight_decay
        return self.moving(self.gates.value, self.score_lr)

    def learn(self) -> None:
        if self.proximal:
            self.gates.proceed()
        self._constrain()

    def worth(self) -> Tensor:
        return self.gates.log_odds()

    def relimit(self, limits: Limits) -> None:
        super().relimit(limits)
        if isinstance(self.gates, CostTransport):
            self.gates.costs = tuple(limit.cost for limit in limits.each)
        self._constrain()

    def _constrain(self) -> None:
        """Tell the gates how much mass there is now."""
        gates = self.gates
        if isinstance(gates, CostTransport):
            gates.allowed.copy_(torch.tensor(self.targets()))
        elif isinstance(gates, AxisTransport):
            gates.share.fill_(uniform_share(self.problem, self.targets()))


def uniform_share(problem: Problem, targets: list[float]) -> float:
    """The share of every axis that may stay, so that no limit costs more than its target."""
    free = torch.from_numpy(problem.free)
    one = torch.ones(problem.signature.channels, dtype=torch.float64)

    def excess(share: float) -> float:
        gates = one.index_fill(0, free, share)
        return max(float(limit.cost(gates)) / target for limit, target in zip(problem.limits.each, targets, strict=True)) - 1

    return root(excess, 0.0, 1.0)
