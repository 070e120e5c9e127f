"""Differentiable Model Scaling (ICML 2024, https://arxiv.org/abs/2405.07194): a differentiable top-k, one learned prune ratio an axis."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pas import distributed
from pas.gates.topk import TopK
from pas.methods.base import Problem
from pas.methods.soft import Normalised, SoftMethod


class Dms(SoftMethod):
    """Only how many channels an axis keeps is learned by gradients; which ones follows from their importance.

    - Mask (eq. 2-4): ``m = sigmoid(lambda N (c' - a))`` with c' the rank of a channel's importance in its axis and a the axis's prune
      ratio, which stays where at least the minimum width and at most all channels are open. The mask multiplies what reads the channel.
    - Importance (eq. 5): ``c <- decay c + (1 - decay) (m dL/dm)^2``, L the loss of the task.
    - Resource loss (eq. 8): ``weight log(R / target)`` while R exceeds the target; below it, ``below`` times the size of that. R counts
      channels with m >= 1/2, with the gradient of the soft counts; here it is the network's exact cost. The target falls as
      ``final^t`` over the `ramp`.

    Published values, in brackets, are those of the authors' EfficientNet and DeiT scripts: `steep`, lambda (1 for widths); `decay`
    (0.99); `weight` (1 and 100); `below` (0; their code knows 1, too); `ramp` (0.8; their scheduler's default is 0.6); `hold` (0: the
    network is cut and trained anew afterwards). Ratios have an optimiser of the RMSProp kind with a rate of 2e-5 in a search of 6,672
    steps, which with its momentum of 0.9 is a way of 1.3 at most: `structure_lr` is that way, whatever the number of steps (1.3).
    Depth isn't searched.

    Departures: the momentum of the ratios is 0, as in a search of a few hundred steps it alone would carry them far beyond the budget;
    and the export lands in the budget's band, by the log-odds of the masks, so that the order of the ranks inside each axis stays.
    """

    gates: TopK

    def __init__(
        self,
        problem: Problem,
        *,
        steep: float,
        decay: float,
        weight: float,
        below: float,
        structure_lr: float,
        warmup: float,
        ramp: float,
        hold: float,
    ) -> None:
        gates = TopK(problem.signature.channels, problem.free, problem.axis_index, steep)
        super().__init__(problem, gates, warmup=warmup, ramp=ramp, hold=hold)
        self.decay, self.weight, self.below, self.structure_lr = decay, weight, below, structure_lr
        sizes = gates.sizes.to(torch.float32)
        self._most = 1 - (torch.tensor(problem.widths.least) - 0.5) / sizes
        opened = torch.from_numpy(problem.open_at_start)
        shut = torch.zeros(len(sizes)).index_add(0, gates.axis, (~opened).float())
        with torch.no_grad():
            gates.value.copy_(opened.float() - 1)  # the decay brings those below 0 up to it, never above
            gates.ratio.copy_(torch.where(shut > 0, (shut + 0.5) / sizes, 0.0))
        self.normalised = {"ratio": Normalised(gates.ratio, torch.arange(len(sizes)))}
        self._seen: Tensor | None = None
        gates.value.register_hook(self._observe)

    def groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        del lr, weight_decay
        return self.moving(self.gates.ratio, self.structure_lr)

    def penalty(self) -> Tensor:
        if self.holds:
            return super().penalty()
        soft, hard = self.gates.masks(), self.gates.settled().detach()
        logs = torch.stack(self.spent(hard - soft.detach() + soft)).log()
        return self.weight * (logs.clamp_min(0) + self.below * (-logs).clamp_min(0)).sum().to(soft.dtype)

    def learn(self) -> None:
        gates = self.gates
        self._most = self._most.to(gates.ratio.device)
        gates.ratio.copy_(gates.ratio.clamp_min(0).minimum(self._most))
        gates.value.grad = None  # it was observed, and no optimiser takes it
        if self._seen is not None:
            seen, self._seen = self._seen, None
            new = self.decay * gates.value + (1 - self.decay) * seen
            gates.value.copy_(torch.where(seen.isfinite().all(), new, gates.value))

    def worth(self) -> Tensor:
        return self.gates.logits()

    def _observe(self, gradient: Tensor) -> Tensor:
        with torch.no_grad():
            square = (self.gates.quiet() * distributed.mean(gradient)).square()
        self._seen = square if self._seen is None else self._seen + square
        return gradient
