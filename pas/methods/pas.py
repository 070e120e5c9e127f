"""Pruning-as-Search with the budget as a constraint.

From the paper (https://arxiv.org/abs/2206.01198): one binary gate a channel with a straight-through gradient, trained together
with the weights. Where the paper adds ``alpha (MACs - target)^2`` to the loss, here the gates are projected after every step:
with v the gate values, c the gradient of the cost with respect to the gates and b = [v > 1/2],

    v <- v - lambda c,   lambda such that cost(b) is the largest that does not exceed target(t).

lambda is the multiplier of the constraint; nothing is to be tuned, and the cost never exceeds target(t), which falls
linearly from the dense cost to the budget.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from pas.gates.binary import THRESHOLD
from pas.methods.base import Method, Problem


class Pas(Method):
    """Learned binary gates under an exact constraint.

    The search has three phases. *Warm-up* (the first share of the steps): gates open, gradients are observed. Then gates start at
    an order of importance, and the target falls (*ramp*). Then it *holds*.

    - Importance: the running second moment of the gate gradients. With b dL/db near zero on average at a trained network, the
      first moment is noise; the second one is the empirical Fisher information of switching the channel off.
    - Gate gradients are divided by their running root mean square per axis, so that `gate_lr` means the same in every layer,
      network and batch size: with random gradients a gate drifts by about `gate_lr` over the whole search.
    - The cost gradient reaches a gate from what makes and from what reads its channel. It is averaged over each axis and raised
      to `cost_power`: with 1, expensive early layers are emptied first; with 0, cost does not steer at all.
    - A closed gate stays within `reach` of the threshold, so that its gradient can revive it; the best channels of an axis,
      `floor` of its width (and never fewer than `min_width`), can't close.
    """

    def __init__(self, problem: Problem, *, gate_lr: float, warmup: float, ramp: float, cost_power: float, floor: float,
                 reach: float, memory: float) -> None:  # fmt: skip
        super().__init__(problem)
        self.gate_lr, self.cost_power, self.reach, self.memory = gate_lr, cost_power, reach, memory
        self.warmup_steps = max(1, round(warmup * problem.steps))
        self.ramp_steps = max(1, round(ramp * problem.steps))
        self.taken = 0
        self.multiplier = 0.0
        self._axis = torch.from_numpy(problem.axis_index)
        self._sizes = torch.bincount(self._axis)
        self._second = torch.zeros(len(self._axis))
        self._seen: Tensor | None = None
        self._costs = [limit.cost for limit in problem.limits.each]
        self._guard_widths = self._guards(floor)

    def wrap(self, backbone: nn.Module) -> nn.Module:
        self.gates.value.register_hook(self._observe)
        return super().wrap(backbone)

    def groups(self) -> list[dict[str, object]]:
        return [{"params": [self.gates.value], "lr": self.gate_lr * 0.1 / math.sqrt(self.problem.steps), "weight_decay": 0.0}]

    def step(self) -> None:
        self.taken += 1
        self._update_moment()
        with torch.no_grad():
            if self.taken == self.warmup_steps:
                self.gates.value.copy_(self._initial())
            if self.taken >= self.warmup_steps:
                self._project()

    def scores(self) -> np.ndarray:
        scores = np.full(self.problem.signature.channels, np.inf)
        scores[self.problem.free] = self.gates.value.detach().cpu().numpy()
        return scores

    def state(self) -> dict[str, Tensor]:
        return {"taken": torch.tensor(self.taken), "multiplier": torch.tensor(self.multiplier), "second": self._second}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.taken, self.multiplier = int(state["taken"]), float(state["multiplier"])
        self._second = state["second"].clone()

    def target(self) -> float:
        """How far the target has fallen: 0 at the dense cost, 1 at the budget."""
        return min(1.0, max(0.0, (self.taken - self.warmup_steps) / self.ramp_steps))

    def _observe(self, gradient: Tensor) -> Tensor:
        """Called in the backward pass with the gates' gradient; what it returns is what the optimiser gets."""
        seen = gradient.detach()
        self._seen = seen if self._seen is None else self._seen + seen
        if self.taken < self.warmup_steps:
            return torch.zeros_like(gradient)
        return gradient / self._rms(self._second).to(gradient.device)

    def _update_moment(self) -> None:
        if self._seen is None:
            return
        seen, self._seen = self._seen, None
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(seen)
            seen /= dist.get_world_size()
        square = seen.square().cpu()
        keep = min(self.memory, 1 - 1 / self.taken)  # a plain mean first, exponential later
        self._second = keep * self._second + (1 - keep) * square

    def _rms(self, second: Tensor) -> Tensor:
        """The root mean square of the gradients in each channel's axis."""
        mean = torch.zeros(len(self._sizes)).index_add(0, self._axis, second) / self._sizes
        return mean.sqrt().clamp_min(1e-20)[self._axis]

    def _initial(self) -> Tensor:
        """Gate values in [1/2, 1] by rank of log(second moment) - log(cost of the channel)."""
        steer = self._cost_gradient(torch.ones(self.problem.signature.channels))
        score = self._second.clamp_min(1e-30).log() - steer.clamp_min(1e-30).log()
        rank = score.argsort(stable=True).argsort(stable=True)
        return (THRESHOLD + 0.5 * (rank + 1) / len(rank)).to(self.gates.value)

    def _cost_gradient(self, gates: Tensor) -> Tensor:
        """d cost / d gate over the free channels, averaged over each axis, raised to `cost_power`, with mean 1."""
        with torch.enable_grad():
            leaf = gates.detach().clone().requires_grad_()
            total = sum(cost(leaf) / limit.target for cost, limit in zip(self._costs, self.problem.limits.each, strict=True))
            (gradient,) = torch.autograd.grad(total, leaf)
        free = gradient[torch.from_numpy(self.problem.free)].float()
        mean = torch.zeros(len(self._sizes)).index_add(0, self._axis, free) / self._sizes
        steer = mean.clamp_min(1e-30).pow(self.cost_power)
        return (steer / (steer * self._sizes).sum() * self._sizes.sum())[self._axis]

    def _project(self) -> None:
        """Shift all gates along the cost gradient so that the open ones cost as much as target(t) allows, and no more."""
        value = self.gates.value.detach().cpu()
        steer = self._cost_gradient(self.gates().cpu())
        margin = ((value - THRESHOLD) / steer).numpy()  # the multiplier at which each gate closes
        margin[self._guard(value)] = np.inf
        order = np.argsort(-margin, kind="stable")
        low, high = int(np.isinf(margin).sum()), len(order)  # how many stay open
        while low < high:
            middle = (low + high + 1) // 2
            if self._fits(order[:middle]):
                low = middle
            else:
                high = middle - 1
        last = margin[order[low - 1]] if low else np.inf
        first = margin[order[low]] if low < len(order) else -np.inf
        if low == len(order):
            self.multiplier = min(0.0, float(last))
        else:
            self.multiplier = float(first if np.isinf(last) else (first + last) / 2)
        moved = value - self.multiplier * steer
        is_open = torch.zeros(len(order), dtype=torch.bool)
        is_open[torch.from_numpy(order[:low])] = True
        edge = 1e-4
        moved = torch.where(is_open, moved.clamp(THRESHOLD + edge, THRESHOLD + self.reach), moved.clamp(THRESHOLD - self.reach, THRESHOLD))
        self.gates.value.copy_(moved)

    def _fits(self, kept: np.ndarray) -> bool:
        mask = np.ones(self.problem.signature.channels, dtype=bool)
        mask[self.problem.free] = False
        mask[self.problem.free[kept]] = True
        fallen = self.target()
        return all(limit.cost.at(mask) <= limit.dense + (limit.target - limit.dense) * fallen for limit in self.problem.limits.each)

    def _guard(self, value: Tensor) -> np.ndarray:
        """Numbers of the free channels that can't close: the best of each axis."""
        axis = self._axis.numpy()
        order = np.lexsort((-value.numpy(), axis))  # axis after axis, best first
        start = np.cumsum(np.concatenate([[0], self._sizes.numpy()[:-1]]))
        rank = np.arange(len(order)) - start[axis[order]]
        return order[rank < self._guard_widths[axis[order]]]

    def _guards(self, floor: float) -> np.ndarray:
        """The guarded width of each axis; when the budget is too small for the floor, the least legal widths."""
        widths = self.problem.widths
        wanted = [max(least, math.ceil(floor * axis.size)) for axis, least in zip(widths.axes, widths.least, strict=True)]
        order = [np.arange(axis.size) for axis in widths.axes]
        fits = self.problem.limits.load(widths.mask(order, wanted)) <= 1
        return np.array(wanted if fits else widths.least)
