"""Pruning-as-Search with the budget as a constraint.

From the paper (https://arxiv.org/abs/2206.01198): one binary gate a channel with a straight-through gradient, trained
together with the weights. Where the paper adds ``alpha (MACs - target)^2`` to the loss, here the gates are projected
after every step: with v the gate values and b = [v > 1/2],

    v <- v - lambda,   lambda such that cost(b) is the largest that does not exceed target(t).

A gate's value is the log of what its channel is worth per unit of cost, so a channel stays when its importance exceeds
``exp(lambda)`` times its cost: lambda is the (log) multiplier of the constraint. Nothing is to be tuned, and the cost
never exceeds target(t), which falls linearly from the cost of the start, the dense one, to the budget.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from pas import distributed
from pas.allocate.landing import shares
from pas.allocate.projection import best, common_shift
from pas.budget import Limits
from pas.criteria import Batch, Loss, taylor
from pas.gates.binary import THRESHOLD
from pas.gates.gated import Gates
from pas.methods.base import Method, Problem, axis_mean

EDGE = 1e-4
"""An open gate lies at least so far above the threshold."""


class Pas(Method):
    """Learned binary gates under an exact constraint.

    The search has four phases, in shares of its steps. *Warm-up*: gates open, gradients are observed. *Ramp*: the
    target falls. Then gates move at the full budget, and for the last share, *hold*, they rest while the weights
    settle.

    - Worth: ``log E[g^2] - log c - scarcity log(r / n)``, with g the gate's gradient, c its cost, and r the rank of the channel
      among the n of its axis. With g near zero on average at a trained network the first moment is noise; the second one is
      the empirical Fisher information of switching the channel off. It is taken over single examples before the search
      (`calibrate`), or, where no data was shown, over the batches of the warm-up. It is not followed further: in the network
      that the ramp is damaging, every gradient grows. c is the gradient of the exact cost at the gates as they are (`follow`),
      towards what makes the channel and what reads it, averaged over its axis.
    - Scarcity: the cost of a layer is the product of two widths. A worth that is linear in the channels has its optimum at
      extremes under such a cost: every second layer wide, the others at their floor. With r / n to the power of 1 the last
      channel of an axis is worth what its second moment says, the r-th n / r times as much, which makes the whole a geometric
      programme with one optimum inside.
    - Learning: the straight-through gradient moves a gate on top of that. It is divided by its running root mean square
      per axis, so that `gate_lr` means the same in every layer, network and batch size: the distance, in units of log
      worth, that a gate drifts over the whole search under random gradients.
    - Start: channels that are closed at the start are handicapped by `reach`: they come back when learning asks for it.
    - Noise: with `noise` above 0 the gates are stochastic while they train.
    - Revival: a closed gate stays within `reach` of the threshold. The best channels of an axis, `floor` of its width
      and never fewer than `min_width`, can't close.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        gate_lr: float,
        warmup: float,
        ramp: float,
        hold: float,
        memory: float,
        floor: float,
        reach: float,
        scarcity: float,
        follow: float,
        samples: float,
        noise: float,
    ) -> None:
        super().__init__(problem, Gates(problem.signature.channels, problem.free, noise))
        self.scarcity, self.follow, self.samples = scarcity, bool(follow), round(samples)
        self.judged = False
        self.gate_lr, self.reach, self.memory = gate_lr, reach, memory
        self.warmup_steps = max(1, round(warmup * problem.steps))
        self.ramp_steps = max(1, round(ramp * problem.steps))
        self.last_move = problem.steps - round(hold * problem.steps)
        self.taken = 0
        self.multiplier = 0.0
        self._axis = torch.from_numpy(problem.axis_index)
        self._sizes = torch.bincount(self._axis)
        self._second = torch.zeros(len(self._axis))
        self._share = torch.ones(len(self._axis))
        self._worth = torch.zeros(len(self._axis))
        self._scale = torch.zeros(len(self._sizes))
        outside = torch.from_numpy(~problem.open_at_start)
        self._handicap = reach * outside.float()
        self._rest = 1 - self._handicap
        self.gates.value.data.copy_(self._rest)
        start = np.ones(problem.signature.channels, dtype=bool) if problem.start is None else problem.start
        self._from = [limit.cost.at(start) for limit in problem.limits.each]
        self._kept = len(self._axis)
        self._seen: Tensor | None = None
        self._guard_widths = self._guards(floor)

    def wrap(self, backbone: nn.Module) -> nn.Module:
        self.gates.value.register_hook(self._observe)
        self._backbone = backbone
        return super().wrap(backbone)

    def calibrate(self, batches: Iterable[Batch], loss: Loss) -> None:
        if self.samples:
            scores = taylor(self._backbone, self.problem.signature, self.problem.free, batches, loss, self.samples)
            self._second, self.judged = torch.from_numpy(scores[self.problem.free]).float(), True

    def groups(self, lr: float, weight_decay: float) -> list[dict[str, object]]:
        del lr, weight_decay
        return [
            {
                "params": [self.gates.value],
                "lr": self.gate_lr * 0.1 / math.sqrt(self.problem.steps),
                "weight_decay": 0.0,
                "clip": False,  # gate gradients are normalised: a norm over all groups would be theirs
            }
        ]

    def step(self) -> None:
        self.taken += 1
        self._update_moment()
        with torch.no_grad():
            if self.warmup_steps <= self.taken <= self.last_move:
                first = self.taken == self.warmup_steps
                if first:  # ranks count in the network of the start: in one that shrank they would be among fewer
                    self._share = self._shares()
                worth = self._current_worth()
                value = self.gates.value.detach().cpu()
                value = worth - self._handicap + THRESHOLD if first else value + worth - self._worth
                self._worth, self._rest = worth, self._project(value)
            self.gates.value.copy_(self._rest)  # also undoes what an optimiser's momentum does to resting gates

    def scores(self) -> np.ndarray:
        scores = np.full(self.problem.signature.channels, np.inf)
        scores[self.problem.free] = self.gates.value.detach().cpu().numpy()
        return scores

    def relimit(self, limits: Limits) -> None:
        whole = np.ones(self.problem.signature.channels, dtype=bool)
        before = [limit.cost.at(whole) for limit in self.problem.limits.each]
        after = [limit.cost.at(whole) for limit in limits.each]
        self._from = [round(first * now / was) for first, now, was in zip(self._from, after, before, strict=True)]
        super().relimit(limits)

    def importance(self) -> np.ndarray | None:
        """What the gates say: a channel stays when its worth, ``exp(value - 1/2)`` of its cost now, exceeds that cost. None before they
        move.
        """
        if self.taken < self.warmup_steps:
            return None
        cost = self.problem.cost_per_axis(self.open()).numpy()[self.problem.axis_index]
        found = np.zeros(self.problem.signature.channels)
        found[self.problem.free] = np.exp(self.gates.value.detach().cpu().double().numpy() - THRESHOLD) * cost
        return found

    def hopeless(self) -> np.ndarray:
        """Gates that lie further below the threshold than random gradients move one in three whole searches.

        The multiplier only grows until the budget is reached, so what is far away before stays so.
        """
        hopeless = np.zeros(self.problem.signature.channels, dtype=bool)
        if self.taken > self.warmup_steps:
            value = self.gates.value.detach().cpu().numpy()
            hopeless[self.problem.free] = value < THRESHOLD - min(3 * self.gate_lr, 0.9 * self.reach)
        return hopeless

    def carry(self, before: Method, index: np.ndarray) -> None:
        super().carry(before, index)
        assert isinstance(before, Pas)
        chosen = torch.from_numpy(index)
        axes = torch.from_numpy(before.problem.axis_index[index])[np.unique(self.problem.axis_index, return_index=True)[1]]
        self.taken, self.multiplier, self.judged, self._from = before.taken, before.multiplier, before.judged, before._from
        self._second, self._share = before._second[chosen], before._share[chosen]
        self._worth, self._rest = before._worth[chosen], before._rest[chosen]
        self._scale = before._scale[axes]
        self._guard_widths = np.minimum(before._guard_widths[axes.numpy()], self._sizes.numpy())
        self._kept = min(before._kept, len(index))

    def state_dict(self) -> dict[str, Tensor]:
        return {
            "taken": torch.tensor(self.taken),
            "judged": torch.tensor(self.judged),
            "multiplier": torch.tensor(self.multiplier, dtype=torch.float64),
            "second": self._second,
            "share": self._share,
            "worth": self._worth,
            "scale": self._scale,
            "rest": self._rest,
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.taken, self.multiplier, self.judged = int(state["taken"]), float(state["multiplier"]), bool(state["judged"])
        self._second, self._share = state["second"].clone(), state["share"].clone()
        self._worth, self._scale, self._rest = state["worth"].clone(), state["scale"].clone(), state["rest"].clone()

    def target(self) -> float:
        """How far the target has fallen: 0 at the cost of the start, 1 at the budget."""
        return min(1.0, max(0.0, (self.taken - self.warmup_steps) / self.ramp_steps))

    def _observe(self, gradient: Tensor) -> Tensor:
        """Called in the backward pass with the gates' gradient; what it returns is what the optimiser gets."""
        seen = gradient.detach()
        self._seen = seen if self._seen is None else self._seen + seen
        if not self.warmup_steps <= self.taken < self.last_move:
            return torch.zeros_like(gradient)
        return gradient / self._scale.sqrt().clamp_min(1e-20)[self._axis].to(gradient)

    def _update_moment(self) -> None:
        if self._seen is None:
            return
        seen, self._seen = self._seen, None
        seen = distributed.mean(seen).cpu()  # the gradient of the mean loss, alike on every process
        if not bool(seen.isfinite().all()):  # an overflow, whose step a gradient scaler skips
            return
        square = seen.square()
        keep = min(self.memory, 1 - 1 / self.taken)  # a plain mean first, exponential later
        self._scale = keep * self._scale + (1 - keep) * axis_mean(square, self._axis, self._sizes)
        if self.taken <= self.warmup_steps and not self.judged:
            self._second += square

    def _floored(self) -> Tensor:
        """The second moments (n,), none of them zero."""
        return self._second.clamp_min(max(1e-8 * float(self._second.mean()), 1e-38))

    def _shares(self) -> Tensor:
        """Rank over size of the axis of each free channel (n,)."""
        everywhere = np.full(self.problem.signature.channels, np.inf)
        everywhere[self.problem.free] = self._floored().numpy()
        return torch.from_numpy(shares(self.problem.widths, everywhere)[self.problem.free]).float()

    def _current_worth(self) -> Tensor:
        """log(second moment) - log(cost) - scarcity log(rank / size of the axis) of each free channel (n,), with mean zero."""
        now = self.open() if self.follow else np.ones(self.problem.signature.channels, dtype=bool)
        cost = self.problem.cost_per_axis(now).log().float()[self._axis]
        worth = self._floored().log() - cost - self.scarcity * self._share.log()
        return worth - worth.mean()

    def _project(self, value: Tensor) -> Tensor:
        """Shift all gates alike so that the open ones cost as much as target(t) allows, and no more."""
        margin = (value - THRESHOLD).numpy().copy()  # the multiplier at which each gate closes
        margin[best(value.numpy(), self.problem.axis_index, self._guard_widths)] = np.inf
        shift, kept = common_shift(margin, self._fits, self._kept, EDGE)
        self.multiplier += shift
        self._kept = len(kept)
        moved = value - shift
        is_open = torch.zeros(len(value), dtype=torch.bool)
        is_open[torch.from_numpy(kept)] = True
        return torch.where(is_open, moved.clamp_min(THRESHOLD + EDGE), moved.clamp(THRESHOLD - self.reach, THRESHOLD))

    def _fits(self, kept: np.ndarray) -> bool:
        mask = np.ones(self.problem.signature.channels, dtype=bool)
        mask[self.problem.free] = False
        mask[self.problem.free[kept]] = True
        fallen = self.target()
        return all(
            limit.cost.at(mask) <= first + (limit.target - first) * fallen
            for limit, first in zip(self.problem.limits.each, self._from, strict=True)
        )

    def _guards(self, floor: float) -> np.ndarray:
        """The guarded width of each axis; when the budget is too small for the floor, the least legal widths."""
        widths = self.problem.widths
        wanted = [
            max(least, math.ceil(floor * axis.size)) for axis, least in zip(widths.axes, widths.least, strict=True)
        ]
        order = [np.arange(axis.size) for axis in widths.axes]
        fits = self.problem.limits.load(widths.mask(order, wanted)) <= 1
        return np.array(wanted if fits else widths.least)
