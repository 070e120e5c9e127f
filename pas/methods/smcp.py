"""Soft masking for cost-constrained channel pruning (Humble et al. 2022, https://arxiv.org/abs/2211.02206)."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter

import numpy as np
import torch
from torch import Tensor, nn

from pas.allocate.knapsack import multiple_choice
from pas.allocate.landing import ranked
from pas.allocate.linear import linearised, options
from pas.axes.signature import rows
from pas.gates.gated import Gated, through
from pas.gates.rescaled import Rescaled
from pas.methods.base import Method, Problem
from pas.methods.progressive import Progressive
from pas.surgery.forms import Norm, norms, readers


class Smcp(Progressive):
    """Masks on what reads a channel, re-wired every few steps by a knapsack, so that channels come back when they earn it.

    - Soft masks: the network runs with ``W = m Theta``, m in {0, 1} constant over an input channel, while the gradient passes as if m were
      1, ``dL/dTheta := dL/dW``. Masked weights also decay: ``lambda_p (1 - m) Theta`` is added to their gradient, here by the penalty
      ``lambda_p / 2 |(1 - m) Theta|^2`` (published: `decay` = 2e-4, beside the ordinary decay).
    - Importance: ``I_c = | sum_readers sum_{o, taps} Theta g |``, the first-order effect of the channel on the loss, masked ones too: the
      sum over outputs that are off is zero by itself. It is the gradient of a gate on the reader. Between two re-wirings it is
      accumulated (`accumulate`: "latest", "average" or "momentum", an exponential mean of 0.9), afterwards it starts anew. Steps with
      gradients that aren't finite don't count.
    - Re-wiring: each axis gets a width, its most important channels, by a multiple-choice knapsack of importance under what the widths cost
      when all others stay as they are. `reads` and `makes` weigh the sides of a layer (`pas.allocate.linear`): w and 1 - w as published.
      Released is w = 1, which leaves out that a narrower axis is also cheaper to make: where importance is noisy, from few steps, the cost
      of such choices swings around what is allowed by tens of percent. Here w is a half. If no widths fit the linear costs, the cheapest
      are taken.
    - Schedule: no pruning for `warmup` of the steps, then `rewirings` at equal intervals over `ramp` of them, while the allowed cost falls
      from the start's to the budget (`schedule`: "exp", "exp2", "linear"), then masks rest. Published: 10, 55 and 25 of 90 epochs, and
      a re-wiring every 20,480 images, about 62 an epoch.
    - Norms (`norm_scale`): "none" as released; "channels" or "importance" scale the norm after a layer by the share of its input channels,
      or of their importance, that is left (`pas.gates.rescaled`). Only a batch norm that gets the layer's output directly: where several
      layers feed one axis, each through a norm of its own, each norm has its layer's share; a norm that follows a sum or a concatenation
      (pre-activation networks) is not scaled, nor is that of a depth-wise layer, whose channels are its inputs.

    Departures: the last re-wiring is landed in the budget's band, so that what rests is what is exported; a channel of an identity branch
    is read by the scale of its norm, which is masked and decays like a weight; of several limits the tightest one is spent; of axes with
    very many legal widths 64 are options; axes keep their minimum widths, so no layer is removed.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        decay: float,
        accumulate: str,
        schedule: str,
        warmup: float,
        ramp: float,
        rewirings: float,
        reads: float,
        makes: float,
        norm_scale: str,
    ) -> None:
        begin, length = round(warmup * problem.steps), round(ramp * problem.steps)
        super().__init__(problem, first=begin, length=length, count=round(rewirings), schedule=schedule, accumulate=accumulate)
        self.decay, self.reads, self.makes, self.norm_scale = decay, reads, makes, norm_scale
        self._decaying: list[tuple[Tensor, int, Tensor]] | None = None
        self._factors: Tensor | None = None

    def wrap(self, backbone: nn.Module) -> nn.Module:
        self.gates.value.register_hook(self.observe)
        self._backbone, signature = backbone, self.problem.signature
        self._norms = [] if self.norm_scale == "none" else [norm for norm in norms(backbone, signature) if self._reads(norm)]
        if not self._norms:
            return Gated(backbone, signature, self.gates, through)
        self._network = Rescaled(backbone, signature, self.gates, through, tuple(norm.weight for norm in self._norms))
        if self._factors is not None:
            self._network.factors.copy_(self._factors)
        return self._network

    def penalty(self) -> Tensor:
        if self._decaying is None:
            self._decaying = self._masked()
        total = super().penalty()
        for weight, dim, closed in self._decaying:
            total = total + weight.index_select(dim, closed).square().sum()
        return self.decay / 2 * total

    def step(self) -> None:
        self.gates.value.grad = None  # which no optimiser takes, nor empties
        super().step()

    def choose(self, worth: np.ndarray, allowed: float) -> np.ndarray:
        widths, limits, now = self.problem.widths, self.problem.limits, self.open()
        order = ranked(widths.axes, worth)
        rungs = options(widths)
        values = [np.cumsum(worth[axis.start + best])[rung - 1] for axis, best, rung in zip(widths.axes, order, rungs, strict=True)]
        costs = linearised(limits, widths, rungs, now, reads=self.reads, makes=self.makes)
        capacity = max(allowed - float(limits.load(now)), sum(float(cost.min()) for cost in costs))
        choices = multiple_choice(values, costs, capacity).choices
        return widths.mask(order, [int(rung[k]) for rung, k in zip(rungs, choices, strict=True)])

    def rewired(self) -> None:
        self._decaying = None
        if self._norms:
            factors = [self._left(norm) for norm in self._norms]
            self._network.factors.copy_(torch.tensor(factors).to(self._network.factors))

    def hopeless(self) -> np.ndarray:
        """Masked channels, once masks rest."""
        return ~self.open() if self.rests else super().hopeless()

    def settle(self, backbone: nn.Module, mask: np.ndarray) -> None:
        del mask
        with torch.no_grad():
            for i, norm in enumerate(self._norms):
                backbone.get_parameter(norm.weight).mul_(self._network.factors[i])

    def carry(self, before: Method, index: np.ndarray) -> None:
        super().carry(before, index)
        assert isinstance(before, Smcp)
        self._factors = before._network.factors.clone() if before._norms else None

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        self._decaying = None  # the masks are the gates, which the network loads

    def _masked(self) -> list[tuple[Tensor, int, Tensor]]:
        """Weights that are trained, a dimension of each, and its slices that are off."""
        mask, found = self.open(), []
        for reader in readers(self._backbone, self.problem.signature):
            weight = attrgetter(reader.parameter)(self._backbone)
            closed = np.flatnonzero(~rows(reader.table, mask, weight.shape[reader.dim]))
            if weight.requires_grad and len(closed):
                found.append((weight, reader.dim, torch.from_numpy(closed).to(weight.device)))
        return found

    def _reads(self, norm: Norm) -> bool:
        """Whether the layer before a norm reads channels that may be off."""
        return norm.reads is not None and bool(np.isin(norm.reads, self.problem.free).any())

    def _left(self, norm: Norm) -> float:
        """The share of the inputs of the layer before a norm that is left, above 0."""
        assert norm.reads is not None
        kept, size = rows(norm.reads, self.open(), len(norm.reads)), len(norm.reads)
        weights = np.ones(size) if self.norm_scale == "channels" else self._worth[norm.reads].mean(1)
        total = float(weights.sum())
        return max(float(weights[kept].sum()) / total, 1 / size) if total else 1.0
