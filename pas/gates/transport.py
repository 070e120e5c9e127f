"""The soft masks of Differentiable Transportation Pruning (https://arxiv.org/abs/2307.08483, section 3).

A uniform mass over n scores is transported to two places, "keep" at 1 and "drop" at 0, which take shares k and 1 - k of it. With
the squared distance as cost and an entropy of weight epsilon the plan has a closed form in one unknown:

    m_i = n P_(i, keep) = sigmoid((2 s_i - 1 + f) / epsilon),    f such that mean(m) = k,

so the mass that is kept is exact at every step, and no penalty is needed. The unknown is found by safeguarded Newton steps, and its
derivative by the implicit function theorem. One proximal (Bregman) step an iteration, instead of a solution from scratch, adds up the
logits of all steps: the temperature falls by itself, like epsilon / t.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from pas.gates.soft import Soft

MOST = 0.999
"""The largest share of mass that is asked for: that of 1 takes an infinite f."""
EXACT = 1e-12
ITERATIONS = 100
PRIOR = 20.0
"""Log-odds against a channel that is closed at the start."""

FAR = 40.0
"""Log-odds that are 0 or 1 in float64."""


class Priced(Protocol):
    """What masks over all channels cost, differentiable."""

    def __call__(self, gates: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Solution:
    """What a constraint demands: the shift of each group (groups,), the group of each logit (n,), and the derivative of its constraint by
    each multiplier (n,). float64.
    """

    shift: Tensor
    group: Tensor
    weight: Tensor


Solve = Callable[[Tensor], Solution]


class _Transport(torch.autograd.Function):
    """sigmoid(logits + shift(logits)): ``dm_i = m'_i (dz_i + df)`` with ``sum_j w_j dm_j = 0`` over everything that has the same shift."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, solve: Solve) -> Tensor:
        found = solve(logits)
        mask = torch.sigmoid(logits + found.shift[found.group])
        ctx.save_for_backward(mask, found.weight, found.group)
        ctx.groups = len(found.shift)
        return mask

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        mask, weight, group = ctx.saved_tensors
        slope = mask * (1 - mask)
        zeros = slope.new_zeros(ctx.groups)
        by_shift, by_mass = zeros.index_add(0, group, gradient * slope), zeros.index_add(0, group, weight * slope)
        moved = by_shift / by_mass.clamp_min(1e-300)
        return slope * (gradient - weight * moved[group]), None


def transported(logits: Tensor, solve: Solve) -> Tensor:
    """The multipliers (n,) of logits (n,), float64."""
    mask: Tensor = _Transport.apply(logits, solve)
    return mask


def share_shifts(logits: Tensor, group: Tensor, sizes: Tensor, share: float) -> Tensor:
    """f (groups,) with ``mean(sigmoid(logits + f)) = share`` in each group, for float64 logits (n,) on a CPU.

    `group` (n,): the group of each; `sizes` (groups,).
    """
    wanted = torch.logit(torch.tensor(min(share, MOST), dtype=torch.float64))
    largest, smallest = (
        torch.zeros(len(sizes), dtype=torch.float64).scatter_reduce(0, group, logits, how, include_self=False) for how in ("amax", "amin")
    )
    low, high = wanted - largest, wanted - smallest
    shift = (low + high) / 2
    for _ in range(ITERATIONS):
        mask = torch.sigmoid(logits + shift[group])
        zeros = torch.zeros_like(shift)
        excess = zeros.index_add(0, group, mask) / sizes - min(share, MOST)
        if float(excess.abs().max()) < EXACT:
            break
        slope = zeros.index_add(0, group, mask * (1 - mask)) / sizes
        low, high = torch.where(excess < 0, shift, low), torch.where(excess > 0, shift, high)
        newton = shift - excess / slope.clamp_min(1e-300)
        shift = torch.where((newton > low) & (newton < high), newton, (low + high) / 2)
    return shift


def root(excess: Callable[[float], float], low: float, high: float) -> float:
    """Where a non-decreasing function crosses zero, between a place where it is negative and one where it is positive (or that end
    where it isn't): regula falsi (Illinois) and bisection by turns, which a step can't stop.
    """
    at_low, at_high = excess(low), excess(high)
    if at_low >= 0 or at_high <= 0:
        return low if at_low >= 0 else high
    for turn in range(ITERATIONS):
        middle = (low + high) / 2
        if turn % 3 < 2:
            secant = high - at_high * (high - low) / (at_high - at_low)
            middle = secant if low < secant < high else middle
        value = excess(middle)
        if abs(value) < EXACT or high - low < EXACT * max(1.0, abs(high)):
            return middle
        if value < 0:
            low, at_low, at_high = middle, value, at_high / 2
        else:
            high, at_high, at_low = middle, value, at_low / 2
    return low


class Transport(Soft):
    """Masks whose mass is given. `value` (n,): the scores s. `prior` (n,): the logits of all steps so far. `temperature`: epsilon of
    a step. `start`: the channels that are open at first, booleans (n,).
    """

    prior: Tensor

    def __init__(self, channels: int, free: np.ndarray, axis: np.ndarray, *, temperature: float, start: np.ndarray) -> None:
        super().__init__(channels, free, axis)
        self.temperature = temperature
        self.register_buffer("prior", -PRIOR * torch.from_numpy(~start).double())

    def solve(self, logits: Tensor) -> Solution:
        """What the constraint of now makes of logits (n,), float64."""
        raise NotImplementedError

    def logits(self) -> Tensor:
        """The sum of (2 s - 1) / epsilon over all steps, this one too, (n,) in float64, without the shift."""
        return self.prior.double() + (2 * self.value.double() - 1) / self.temperature

    def quiet(self) -> Tensor:
        return transported(self.logits(), self.solve).to(self.value.dtype)

    def kept(self) -> Tensor:
        """m >= 1/2."""
        return (self.log_odds() >= 0).to(self.value.dtype)

    def log_odds(self) -> Tensor:
        """The logits with their shift (n,), float64."""
        logits = self.logits().detach()
        found = self.solve(logits)
        return logits + found.shift[found.group]

    def proceed(self) -> None:
        """Take this step's plan for the prior of the next one."""
        with torch.no_grad():
            self.prior.copy_(self.logits())


class AxisTransport(Transport):
    """As published: of each axis the same share of mass stays, `share` ()."""

    share: Tensor

    def __init__(self, channels: int, free: np.ndarray, axis: np.ndarray, *, temperature: float, start: np.ndarray) -> None:
        super().__init__(channels, free, axis, temperature=temperature, start=start)
        self.register_buffer("share", torch.tensor(1.0, dtype=torch.float64))

    def solve(self, logits: Tensor) -> Solution:
        shift = share_shifts(logits.cpu(), self.axis.cpu(), self.sizes.cpu(), float(self.share))
        return Solution(shift.to(logits.device), self.axis, torch.ones_like(logits))


class CostTransport(Transport):
    """One shift for all channels, such that the masks cost, in the tightest of some limits, what is `allowed` (limits,)."""

    allowed: Tensor

    def __init__(
        self, channels: int, free: np.ndarray, axis: np.ndarray, *, costs: Sequence[Priced], temperature: float, start: np.ndarray
    ) -> None:
        super().__init__(channels, free, axis, temperature=temperature, start=start)
        self.costs = tuple(costs)
        self.register_buffer("allowed", torch.full((len(self.costs),), torch.inf, dtype=torch.float64))

    def solve(self, logits: Tensor) -> Solution:
        z, free, allowed = logits.detach().cpu(), self.free.cpu(), self.allowed.tolist()

        def loads(mask: Tensor) -> Tensor:
            everywhere = torch.ones(self.channels, dtype=torch.float64).index_copy(0, free, mask)
            return torch.stack([cost(everywhere) / most for cost, most in zip(self.costs, allowed, strict=True)])

        with torch.no_grad():
            shift = root(lambda f: float(loads(torch.sigmoid(z + f)).max()) - 1, -float(z.max()) - FAR, FAR - float(z.min()))
        mask = torch.sigmoid(z + shift).requires_grad_()
        with torch.enable_grad():
            (weight,) = torch.autograd.grad(loads(mask).max(), mask)
        return Solution(logits.new_tensor([shift]), torch.zeros_like(self.axis), weight.to(logits.device))
