"""Hardware-aware latency pruning (Shen et al. 2022, https://arxiv.org/abs/2210.06659)."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from pas.allocate.knapsack import prefix
from pas.allocate.landing import ranked
from pas.allocate.linear import linearised, options
from pas.axes.ids import Table
from pas.methods.base import Problem
from pas.methods.progressive import Progressive
from pas.surgery.forms import norms

RESOLUTION = 10_000
"""Costs are whole numbers of so many parts of the target."""
Judge = tuple[str, int, Table]
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

    Where the given widths alone cost more than is allowed, every axis goes to its smallest legal width, for good.

    Departures: the last round is landed in the budget's band, which may reopen a channel; the smallest legal width of an axis is not an
    item but given (published: the stem is forced by an importance of 10,000 and a layer may vanish); importances aren't rounded.
    """

    def __init__(self, problem: Problem, *, ramp: float, prunings: float) -> None:
        length = round(ramp * problem.steps)
        super().__init__(problem, first=0, length=length, count=round(prunings), schedule="exp2", accumulate="average")

    def wrap(self, backbone: nn.Module) -> nn.Module:
        self.gates.value.requires_grad_(False)
        judges = [one for one in _judges(backbone, self.problem) if backbone.get_parameter(one[0]).requires_grad]
        for i, (name, dim, _) in enumerate(judges):
            parameter = backbone.get_parameter(name)
            parameter.register_hook(partial(self._see, i, parameter, dim))
        home = np.full(self.problem.signature.channels, len(self.problem.free))  # where what belongs to no free channel goes
        home[self.problem.free] = np.arange(len(self.problem.free))
        self._tables = [home[table] for _, _, table in judges]
        self._places = torch.from_numpy(np.concatenate([np.zeros(0, dtype=np.int64), *(table.ravel() for table in self._tables)]))
        self._effects: dict[int, Tensor] = {}
        return super().wrap(backbone)

    def choose(self, worth: np.ndarray, allowed: float) -> np.ndarray:
        widths, limits, now = self.problem.widths, self.problem.limits, self.open()
        order = ranked(widths.axes, np.where(now, worth, -1.0))  # those that are closed come last, and aren't counted
        left = [int(now[axis.start : axis.start + axis.size].sum()) for axis in widths.axes]
        rungs = [rung[: max(1, int((rung <= most).sum()))] for rung, most in zip(options(widths), left, strict=True)]
        costs = linearised(limits, widths, rungs, now, reads=0.0, makes=1.0)
        sums = [np.cumsum(worth[axis.start + best])[rung - 1] for axis, best, rung in zip(widths.axes, order, rungs, strict=True)]
        weights = [np.diff(np.rint(RESOLUTION * cost).astype(np.int64)) for cost in costs]
        room = RESOLUTION * (allowed - float(limits.load(now)) - sum(float(cost[0]) for cost in costs))
        counts = prefix([np.diff(each) for each in sums], weights, math.floor(room))
        return widths.mask(order, [int(rung[count]) for rung, count in zip(rungs, counts, strict=True)])

    def hopeless(self) -> np.ndarray:
        """Closed channels."""
        return ~self.open()

    def step(self) -> None:
        if self._effects:
            some = next(iter(self._effects.values()))
            each = [self._effects.get(i, some.new_zeros(len(table)))[:, None].expand(table.shape) for i, table in enumerate(self._tables)]
            self._places = self._places.to(some.device)
            total = some.new_zeros(len(self.problem.free) + 1).index_add(0, self._places, torch.cat([one.flatten() for one in each]))
            self.observe(total[:-1])
            self._effects.clear()
        super().step()

    def _see(self, number: int, parameter: Tensor, dim: int, gradient: Tensor) -> None:
        """Called in the backward pass with the gradient of a parameter: keeps the sums of parameter * gradient along one dimension."""
        effect = (parameter.detach() * gradient).movedim(dim, 0).reshape(gradient.shape[dim], -1).sum(1)
        self._effects[number] = self._effects[number] + effect if number in self._effects else effect


def _judges(model: nn.Module, problem: Problem) -> list[Judge]:
    """The scales and shifts of norms and, for axes that have none, the weights that make them."""
    found: list[Judge] = []
    for norm in norms(model, problem.signature):
        if norm.channels is not None:
            found += [(name, 0, norm.channels) for name in (norm.weight, norm.bias) if name is not None]
    judged = {channel for _, _, table in found for channel in table.ravel().tolist()}
    left = {c for axis in problem.widths.axes for c in range(axis.start, axis.start + axis.size) if axis.start not in judged}
    read = {(slot.parameter, slot.dim) for slot in problem.signature.readers}
    names = [name for name, parameter in model.named_parameters() if parameter.dim() > 1 and name in problem.signature.dims]
    for name in names:
        for dim, made in enumerate(problem.signature.dims[name]):
            if made is not None and (name, dim) not in read and not left.isdisjoint(made.ravel().tolist()):
                found.append((name, dim, made))
    return found
