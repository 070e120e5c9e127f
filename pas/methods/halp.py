"""Hardware-aware latency pruning (Shen et al. 2022, https://arxiv.org/abs/2210.06659)."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from pas.allocate.knapsack import prefix
from pas.allocate.landing import ranked
from pas.allocate.linear import linearised
from pas.axes.ids import Table
from pas.axes.signature import Signature
from pas.methods.base import Problem
from pas.methods.progressive import Progressive
from pas.surgery.forms import norms

RESOLUTION = 10_000
"""Costs are whole numbers of so many parts of the target."""
Parameter = tuple[str, int, Table]
"""A parameter, the dimension of it along which channels lie, and their positions (n, k)."""


class Halp(Progressive):
    """Channels close in a few rounds, each a knapsack of importance under latency (or whatever is limited), and never come back.

    - Importance: ``|gamma g_gamma + beta g_beta|`` of a channel's batch norms, the first-order effect on the loss of what they put out;
      summed over all norms of the channel (those of coupled layers, and of the branches of a block), the absolute value last, averaged over
      the steps of a round. An axis without a norm has ``weight * gradient`` of what makes it.
    - Rounds: `prunings` at equal intervals over the first `ramp` of the steps; the allowed cost falls geometrically from the start's to the
      budget. Then the masks rest. Published: 30 rounds, 40 iterations apart, from the first iteration of 90 epochs on (about one epoch).
    - Knapsack: items are groups of channels, an axis after the other, the most important first; what a group costs is the marginal cost of
      its width, what an axis reads staying as it is (`pas.allocate.linear`, the output view). Groups are the steps between an axis's legal
      widths, so those of the device where widths are snapped to a latency table (published: the latency step of each layer, 32 to 128
      channels of a ResNet-50, for coupled layers the largest). Costs are rounded to 1/10,000 of the target (published: to microseconds).

    Departures: the last round is landed in the budget's band, which may reopen a channel; the smallest legal width of an axis is not an item
    but given (published: the stem is forced by an importance of 10,000 and a layer may vanish); importances aren't rounded.
    """

    def __init__(self, problem: Problem, *, ramp: float, prunings: float) -> None:
        length = round(ramp * problem.steps)
        super().__init__(problem, first=0, length=length, count=round(prunings), schedule="exp2", accumulate="average")

    def wrap(self, backbone: nn.Module) -> nn.Module:
        self.gates.value.requires_grad_(False)
        self._places = torch.full((self.problem.signature.channels,), -1)
        self._places[torch.from_numpy(self.problem.free)] = torch.arange(len(self.problem.free))
        for name, dim, table in _judges(backbone, self.problem.signature):
            parameter = backbone.get_parameter(name)
            if parameter.requires_grad:
                parameter.register_hook(partial(self._see, parameter, dim, self._places[torch.from_numpy(table)]))
        return super().wrap(backbone)

    def choose(self, worth: np.ndarray, allowed: float) -> np.ndarray:
        widths, limits, now = self.problem.widths, self.problem.limits, self.open()
        order = ranked(widths.axes, np.where(now, worth, -1.0))  # those that are closed come last, and aren't counted
        costs = linearised(limits, widths, now, reads=0.0, makes=1.0)
        ladders, gains, weights, given = [], [], [], 0.0
        for a, (axis, best, cost) in enumerate(zip(widths.axes, order, costs, strict=True)):
            rungs = np.array(widths.ladder(a))
            rungs = rungs[: max(1, int((rungs <= now[axis.start : axis.start + axis.size].sum()).sum()))]
            ladders.append(rungs)
            gains.append(np.diff(np.cumsum(worth[axis.start + best])[rungs - 1]))
            weights.append(np.diff(np.rint(RESOLUTION * cost[: len(rungs)]).astype(np.int64)))
            given += float(cost[0])
        room = int(np.floor(RESOLUTION * (allowed - float(limits.load(now)) - given)))
        counts = prefix(gains, weights, room)
        return widths.mask(order, [int(rungs[count]) for rungs, count in zip(ladders, counts, strict=True)])

    def hopeless(self) -> np.ndarray:
        """Closed channels."""
        return ~self.open()

    def _see(self, parameter: Tensor, dim: int, places: Tensor, gradient: Tensor) -> None:
        """Called in the backward pass with the gradient of a parameter: its product with the parameter, by channel."""
        effect = (parameter.detach() * gradient).transpose(0, dim).flatten(1).sum(1) if gradient.dim() > 1 else parameter.detach() * gradient
        ...


def _judges(model: nn.Module, signature: Signature) -> list[Parameter]:
    """The scales and shifts of norms and, of channels that have none, the weights that make them."""
    found: list[Parameter] = []
    for norm in norms(model, signature):
        if norm.channels is not None:
            found += [(name, 0, norm.channels) for name in (norm.weight, norm.bias) if name is not None]
    return found
