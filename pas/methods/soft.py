"""What methods have in common whose gates are not 0 or 1 while they train: a target that falls, gradients of one size, a hold."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pas import distributed
from pas.budget import Limits
from pas.gates.gated import Gated, scale
from pas.gates.soft import Soft
from pas.methods.base import Method, Problem, axis_mean

MEMORY = 0.9
"""Decay of the running mean square that gradients are divided by, as in RMSProp."""
BOUND = (1 - MEMORY) ** -0.5
"""No normalised gradient is larger; in RMSProp none can be, as the mean square holds the gradient at hand, too."""


class Normalised:
    """Divides the gradient of a parameter (n,), before the optimiser sees it, by its running root mean square over each group, so that a
    learning rate means the same distance in every layer, network and batch size. The first gradient is only looked at.

    `group` (n,): the number of each element's group. Of several processes the mean gradient counts, which all of them get.
    """

    def __init__(self, parameter: nn.Parameter, group: Tensor) -> None:
        self.group = group
        self.sizes = torch.bincount(group)
        self.square = torch.zeros(len(self.sizes))
        self.count = torch.tensor(0)
        self._seen: Tensor | None = None
        parameter.register_hook(self._observe)

    def _observe(self, gradient: Tensor) -> Tensor:
        gradient = distributed.mean(gradient)  # first, as a clamped mean isn't the mean of what was clamped
        self.group, self.square = self.group.to(gradient.device), self.square.to(gradient.device)
        self._seen = gradient if self._seen is None else self._seen + gradient
        root = self.square.sqrt()[self.group].to(gradient.dtype)
        return torch.where(root > 0, (gradient / root.clamp_min(1e-30)).clamp(-BOUND, BOUND), 0)

    def update(self) -> None:
        """Take what was seen since the last step into the mean square; what isn't finite is skipped."""
        if self._seen is None:
            return
        seen, self._seen = self._seen, None
        mean = axis_mean(seen.square().float(), self.group, self.sizes.to(seen.device))
        good = mean.isfinite().all()
        self.count = self.count.to(seen.device) + good
        keep = torch.minimum(torch.tensor(MEMORY), 1 - 1 / self.count.clamp_min(1))  # a plain mean first
        self.square = torch.where(good, keep * self.square + (1 - keep) * mean, self.square)


class SoftMethod(Method):
    """Gates of any value, folded into weights.

    The search has phases, in shares of its steps. For the first, `warmup`, the target is the cost of the start. During `ramp` it falls to
    the budget as ``start (budget / start)^t``, by the same factor in each step. For the last share, `hold`, gates are exactly
    the 0/1 mask that an export would have kept when it began, so that weights settle to what is exported; without it the multipliers of the
    channels that stay go into the exported weights. What the landing in the band then closes and reopens is remembered (`forced`).
    """

    gates: Soft

    def __init__(self, problem: Problem, gates: Soft, *, warmup: float, ramp: float, hold: float) -> None:
        super().__init__(problem, gates)
        self.warmup_steps, self.ramp_steps = round(warmup * problem.steps), max(1, round(ramp * problem.steps))
        self.last_move = max(1, problem.steps - round(hold * problem.steps))
        self.taken = 0
        self.normalised: dict[str, Normalised] = {}
        self._held = torch.zeros(len(problem.free))  # what `worth` said when gates came to rest
        self._costs = [limit.cost for limit in problem.limits.each]
        start = np.ones(problem.signature.channels, dtype=bool) if problem.start is None else problem.start
        self._from = [limit.cost.at(start) for limit in problem.limits.each]

    @abstractmethod
    def learn(self) -> None:
        """What happens after a step of the optimiser while gates move."""

    @abstractmethod
    def worth(self) -> Tensor:
        """How much each free channel deserves to stay, as the gates say it now (n,)."""

    def wrap(self, backbone: nn.Module) -> nn.Module:
        self._backbone = backbone
        return Gated(backbone, self.problem.signature, self.gates, fold=scale)

    def step(self) -> None:
        rested = self.holds
        self.taken += 1
        if rested:
            return
        self._follow()
        with torch.no_grad():
            for one in self.normalised.values():
                one.update()
            self.learn()
            if self.holds:
                self._held = self.worth().detach().cpu().clone()
                now, mask = self.open(), self.problem.land(self.scores())
                self.forced = int((now & ~mask).sum()), int((~now & mask).sum())
                self.gates.hold(mask)

    def moving(self, parameter: nn.Parameter, way: float) -> list[dict[str, Any]]:
        """The optimiser group of a parameter that moves at most so far over the search, in steps of normalised gradients."""
        return [{"params": [parameter], "lr": way / self.problem.steps, "weight_decay": 0.0, "momentum": 0.0, "clip": False}]

    @property
    def holds(self) -> bool:
        """Whether gates rest."""
        return self.last_move < self.problem.steps and self.taken >= self.last_move

    def scores(self) -> np.ndarray:
        scores = np.full(self.problem.signature.channels, np.inf)
        with torch.no_grad():
            scores[self.problem.free] = (self._held if self.holds else self.worth()).cpu().numpy()
        return scores

    def settle(self, backbone: nn.Module, mask: np.ndarray) -> None:
        """Multiply what reads each channel by its gate; a channel that is 0 and comes back for the budget's sake is as it was trained."""
        with torch.no_grad():
            gates = self.gates.still()
            folded = Gated(backbone, self.problem.signature, self.gates, fold=scale).folded(torch.where(gates > 0, gates, 1))
            for name, weight in folded.items():
                attrgetter(name)(backbone).copy_(weight)

    def relimit(self, limits: Limits) -> None:
        start = np.ones(self.problem.signature.channels, dtype=bool)
        before = [limit.cost.at(start) for limit in self.problem.limits.each]
        after = [limit.cost.at(start) for limit in limits.each]
        self._from = [round(first * now / was) for first, now, was in zip(self._from, after, before, strict=True)]
        super().relimit(limits)
        self._costs = [limit.cost.to(self.gates.value.device) for limit in limits.each]

    def targets(self) -> list[float]:
        """What each limit allows now, in its own unit."""
        fallen = min(1.0, max(0.0, (self.taken - self.warmup_steps) / self.ramp_steps))
        each = zip(self.problem.limits.each, self._from, strict=True)
        return [first * (limit.target / first) ** fallen for limit, first in each]

    def spent(self, gates: Tensor) -> list[Tensor]:
        """What gates over all channels (channels,) cost, over what each limit allows now; float64, differentiable."""
        self._follow()
        return [cost(gates) / target for cost, target in zip(self._costs, self.targets(), strict=True)]

    def state_dict(self) -> dict[str, Tensor]:
        state = {"taken": torch.tensor(self.taken), "held": self._held, "forced": torch.tensor(self.forced)}
        for name, one in self.normalised.items():
            state |= {f"{name}.square": one.square, f"{name}.count": one.count}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.taken, self._held = int(state["taken"]), state["held"].clone()
        closed, reopened = state["forced"].tolist()
        self.forced = closed, reopened
        for name, one in self.normalised.items():
            one.square, one.count = state[f"{name}.square"].clone(), state[f"{name}.count"].clone()

    def _follow(self) -> None:
        """To the device on which the gates are now."""
        device = self.gates.value.device
        if self._costs and self._costs[0].counts.owner.device != device:
            self._costs = [limit.cost.to(device) for limit in self.problem.limits.each]


def spread(problem: Problem, scores: np.ndarray) -> Tensor:
    """The rank of each free channel inside its axis as a number from -1 for the lowest score to 1 for the highest (n,)."""
    placed = [
        2 * scores[axis.start : axis.start + axis.size].argsort(kind="stable").argsort(kind="stable") / max(axis.size - 1, 1) - 1
        for axis in problem.widths.axes
    ]
    return torch.from_numpy(np.concatenate(placed)).float()
