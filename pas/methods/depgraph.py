"""DepGraph: channels made small together by a group norm, then cut (Fang et al., CVPR 2023, https://arxiv.org/abs/2301.12900).

All channels are open while the weights train. With w_k the coupled slices of channel k (rows and columns of kernels, scales of norms)
and I_k^2 = sum ||w_k||^2 over them, the loss gets (eqs. 4 and 5)

    R = reg / 2  sum_k gamma_k I_k^2,    gamma_k = alpha^((max I - I_k) / (max I - min I)),

max and min over the channels of the axis, gamma held fixed where R is differentiated: the gradient of every slice gets
reg gamma_k w_k, so that the weakest channels decay `alpha` times as fast as the strongest.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pas.methods.base import Method, Problem, axis_mean
from pas.surgery.groups import Groups, slices


class DepGraph(Method):
    """The group-norm pruner with sparse learning.

    Published values, in brackets: `reg`, the strength times the steps of the search (5e-4 and 1e-4 times 39,100 steps of CIFAR-10, at a
    rate of 0.01, are 19.6 and 3.9): what makes channels small is strength times rate times steps. The default is less, as within some
    hundred steps 3.9 takes more from a trained network than it recovers. `alpha` (2^4). `sl`: 0 leaves the sparse
    learning out; the weights then train as long without it, where the published rows without it are cut at once.

    In the end channels are ranked over all axes by I_k^2 over its mean in the axis, as in Torch-Pruning's `GroupMagnitudeImportance`; the
    paper divides by the mean of the largest N of the axis (eq. 6). Biases and shifts of norms belong to no slice, as there.

    Departures: the widths are those that meet the budget in one cut, where the published script cuts in up to 400 small steps until the
    multiply-adds are few enough; blocks of several branches are regularised branch by branch, in axes of the fused form, so that an
    identity branch ties nothing: the scale of its norm counts as a norm of what the block writes and as a column of what it reads.
    Channels that are closed at the start stay so while the weights train.
    """

    def __init__(self, problem: Problem, *, reg: float, alpha: float, sl: float) -> None:
        super().__init__(problem)
        self.sparse = bool(sl)
        self.reg, self.alpha = reg / problem.steps, alpha
        self.gates.value.data.copy_(torch.from_numpy(problem.open_at_start))
        self._axis = torch.from_numpy(problem.axis_index)
        self._sizes = torch.bincount(self._axis)
        self._free = torch.from_numpy(problem.free)

    def wrap(self, backbone: nn.Module) -> nn.Module:
        self.gates.value.requires_grad_(False)
        tensors = dict(backbone.named_parameters())
        parts = slices(backbone, self.problem.signature)
        coupled = [one for one in parts if tensors[one.parameter].dim() > 1 or one.parameter.endswith("weight")]
        self.coupled = Groups(backbone, coupled, self.problem.signature.channels)
        return super().wrap(backbone)

    def penalty(self) -> Tensor:
        if not self.sparse:
            return super().penalty()
        squares = self.squares()
        found: Tensor = _Shrinkage.apply(self.coupled, self.reg * self.gamma(squares), squares, *self.coupled.parameters)
        return found

    def step(self) -> None:
        """Nothing moves but the weights."""

    def squares(self) -> Tensor:
        """I^2 of each channel, the sum of squares of its slices (channels,)."""
        with torch.no_grad():
            return self.coupled.dot(self.coupled.parameters, self.coupled.parameters)

    def gamma(self, squares: Tensor) -> Tensor:
        """How much harder than the strongest of its axis each channel is pressed (channels,): 1 to `alpha`, 0 for those that stay whole.

        `squares`: I^2 (channels,).
        """
        self._follow(squares.device)
        importance = squares[self._free].sqrt()
        empty = importance.new_zeros(len(self._sizes))
        most, least = (empty.scatter_reduce(0, self._axis, importance, kind, include_self=False)[self._axis] for kind in ("amax", "amin"))
        spread = (most - least).clamp_min(torch.finfo(importance.dtype).tiny)  # all alike: 1 for all
        everywhere = importance.new_zeros(self.problem.signature.channels)
        return everywhere.index_copy(0, self._free, self.alpha ** ((most - importance) / spread))

    def scores(self) -> np.ndarray:
        problem, squares = self.problem, self.squares()
        self._follow(squares.device)
        squares = squares[self._free]
        relative = (squares / axis_mean(squares, self._axis, self._sizes).clamp_min(1e-30)[self._axis]).double().cpu().numpy()
        scores = np.full(problem.signature.channels, np.inf)
        scores[problem.free] = relative - (relative.max() + 1) * ~problem.open_at_start
        return scores

    def _follow(self, device: torch.device) -> None:
        """The indices to the device on which the weights are."""
        if self._free.device != device:
            self._free, self._axis, self._sizes = (index.to(device) for index in (self._free, self._axis, self._sizes))


class _Shrinkage(torch.autograd.Function):
    """``sum_k strength_k ||w_k||^2 / 2`` over the slices of the parameters, from the norms' known squares, without a graph of many small
    steps.
    """

    @staticmethod
    def forward(ctx: Any, groups: Groups, strength: Tensor, squares: Tensor, *parameters: Tensor) -> Tensor:
        ctx.groups = groups
        ctx.save_for_backward(strength, *parameters)
        return (strength * squares).sum() / 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        strength, *parameters = ctx.saved_tensors
        spread = ctx.groups.spread(strength * gradient)
        return tuple(chain((None, None, None), (w * sum(parts) for w, parts in zip(parameters, spread, strict=True))))
