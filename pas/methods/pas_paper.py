"""Pruning-as-Search as published: binary gates and a squared penalty on the cost with a fixed strength.

From the paper (https://arxiv.org/abs/2206.01198) and, where its text is silent, the authors' code of June 2021:

    L = CE + alpha (M(b) / M_full - r)^2,    b = [w > 1/2],    db/dw = 1,

with gates w that start at 1, share the learning rate and the weight decay of the weights, and get the gradient of M only as
makers of channels (the number of channels that a layer reads is detached there). M is in shares of the dense cost: the
authors' 5 (GMACs)^-2 for ResNet-50 and 0.1 for RepVGG-B1 are 69 and 14 in this form, and would vanish on a small network.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from pas.budget import Limits
from pas.criteria import Batch, Loss, taylor
from pas.gates.binary import THRESHOLD
from pas.gates.gated import Gates
from pas.methods.base import Method, Problem, axis_mean

EDGE = 1e-4
"""A gate that the guard opens lies so far above the threshold."""
SMALLEST = 1e-12
SAMPLES = 1024
"""Examples that rank the channels, where initial values are spread."""


class PasPaper(Method):
    """The published search, and options that turn it step by step into something else.

    Published values, in brackets: `alpha`, strength of the penalty (14 to 69); `initial`, first value of a gate (1.0);
    `decay`, share of the weights' decay that gates get (1); `both_sides`, whether the cost's gradient goes to readers too
    (0 for ResNet and RepVGG; the authors' code for MobileNetV2 has 1).

    Concessions, which 0 switches off: `guard`, the number of channels of an axis that can't close (published: 0, a layer may
    vanish; what is exported then still keeps one channel, whatever `min_width` and `round_to` say); `land`, whether the export
    closes and reopens gates until the budget's band holds (published: 0). Two concessions can't be switched off: axes that an
    addition or a depth-wise convolution ties share their gates, without which a network can't be cut; and M counts every
    convolution and matrix product of the fused network exactly, where the authors' tables leave out the classifier and the
    convolutions of shortcuts.

    Changes, for ablations: `normalise`, the cost's gradient divided by its mean over each axis, so that all layers feel the
    same pressure (all channels of an axis cost the same, so `both_sides` makes no difference then); `multiplier`, learning
    rate of a multiplier that takes alpha's place: k = m + 2 max(0, e), m <- max(0, m + rate e), with e the relative error (of
    several limits the largest moves m) against a target that falls linearly over the first 60 % of the steps; `spread`,
    initial values from `initial` - spread to `initial` + spread by Taylor rank inside each axis (`calibrate`), where equal
    ones move a whole layer as a front; `noise`, scale of logistic noise on the gates.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        alpha: float,
        initial: float,
        decay: float,
        both_sides: float,
        guard: float,
        land: float,
        normalise: float,
        multiplier: float,
        spread: float,
        noise: float,
    ) -> None:
        super().__init__(problem, Gates(problem.signature.channels, problem.free, noise))
        self.alpha, self.decay, self.rate = alpha, decay, multiplier
        self.both_sides, self.normalise = bool(both_sides), bool(normalise)
        self.guard, self.spread, self.initial = round(guard), spread, initial
        self.lands = bool(land)
        self.samples = SAMPLES if spread else 0
        self.taken, self.multiplier = 0, 0.0
        self._axis = torch.from_numpy(problem.axis_index)
        self._sizes = torch.bincount(self._axis)
        self.gates.value.data.copy_(torch.from_numpy(np.where(problem.open_at_start, initial, 0.0)))
        self._costs = [limit.cost for limit in problem.limits.each]

    def wrap(self, backbone: nn.Module) -> nn.Module:
        self._backbone = backbone
        return super().wrap(backbone)

    def calibrate(self, batches: Iterable[Batch], loss: Loss) -> None:
        if not self.samples:
            return
        problem = self.problem
        importance = taylor(self._backbone, problem.signature, problem.free, batches, loss, self.samples)
        values = []
        for axis in problem.widths.axes:
            rank = importance[axis.start : axis.start + axis.size].argsort(kind="stable").argsort(kind="stable")
            values.append(self.initial + self.spread * (2 * rank / max(axis.size - 1, 1) - 1))
        value = torch.from_numpy(np.where(problem.open_at_start, np.concatenate(values), 0.0))
        with torch.no_grad():
            self.gates.value.copy_(value.to(self.gates.value))

    def groups(self, lr: float, weight_decay: float) -> list[dict[str, object]]:
        return [{"params": [self.gates.value], "lr": lr, "weight_decay": self.decay * weight_decay}]

    def penalty(self) -> Tensor:
        self._follow()
        return torch.stack([self._of_limit(i) for i in range(len(self._costs))]).sum().to(self.gates.value.dtype)

    def step(self) -> None:
        self._follow()
        self.taken += 1
        if self.rate:
            self.multiplier = max(0.0, self.multiplier + self.rate * self._error())
        if self.guard:
            with torch.no_grad():
                self._open_best()

    def relimit(self, limits: Limits) -> None:
        super().relimit(limits)
        self._costs = [limit.cost.to(self._axis.device) for limit in limits.each]

    def scores(self) -> np.ndarray:
        scores = np.full(self.problem.signature.channels, np.inf)
        scores[self.problem.free] = self.gates.value.detach().cpu().numpy()
        return scores

    def carry(self, before: Method, index: np.ndarray) -> None:
        super().carry(before, index)
        assert isinstance(before, PasPaper)
        self.taken, self.multiplier = before.taken, before.multiplier

    def state_dict(self) -> dict[str, Tensor]:
        return {"taken": torch.tensor(self.taken), "multiplier": torch.tensor(self.multiplier, dtype=torch.float64)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.taken, self.multiplier = int(state["taken"]), float(state["multiplier"])

    def _follow(self) -> None:
        """To the device on which the gates are now."""
        device = self.gates.value.device
        if self._axis.device != device:
            self._axis, self._sizes = self._axis.to(device), self._sizes.to(device)
            self._costs = [limit.cost.to(device) for limit in self.problem.limits.each]

    def _of_limit(self, index: int) -> Tensor:
        """One limit's part of the penalty."""
        limit, cost = self.problem.limits.each[index], self._costs[index]
        share = limit.target / limit.dense
        if not self.normalise:
            spent = cost(self.gates.settled(), both_sides=self.both_sides) / limit.dense
            return self._pull(spent, share)
        leaf = self.gates.settled().detach().requires_grad_()
        spent = cost(leaf, both_sides=self.both_sides) / limit.dense
        (gradient,) = torch.autograd.grad(spent, leaf)
        slope = gradient[self.gates.free].double()
        mean = axis_mean(slope, self._axis, self._sizes).clamp_min(SMALLEST)
        slope = slope / mean[self._axis] / len(slope)  # all gates together still weigh one dense cost
        value = self.gates.value.double()
        return self._pull(spent.detach() + (slope * (value - value.detach())).sum(), share)

    def _pull(self, spent: Tensor, share: float) -> Tensor:
        """The penalty on a spent share of the dense cost, whose gradient is the pressure on the gates."""
        if not self.rate:
            return self.alpha * (spent - share).square()
        error = float(spent.detach()) / self._target(share) - 1
        return (self.multiplier + 2 * max(error, 0.0)) * spent / share

    def _error(self) -> float:
        """The largest relative error against the falling target."""
        gates = self.gates.settled().detach()
        return max(
            float(cost(gates)) / limit.dense / self._target(limit.target / limit.dense) - 1
            for limit, cost in zip(self.problem.limits.each, self._costs, strict=True)
        )

    def _target(self, share: float) -> float:
        """Of the dense cost, what is allowed now; used by the multiplier."""
        return 1 + (share - 1) * min(1.0, self.taken / max(1.0, 0.6 * self.problem.steps))

    def _open_best(self) -> None:
        """Open the highest gates of each axis that has fewer than `guard` open ones."""
        value = self.gates.value
        start = 0
        for size in self._sizes.tolist():
            part = value[start : start + size]
            best = part.topk(min(self.guard, size)).indices
            part[best] = part[best].clamp_min(THRESHOLD + EDGE)
            start += size
