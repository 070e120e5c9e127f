"""Only-Train-Once: groups of weights driven to exact zero while they train (Chen et al., OTO v1, NeurIPS 2021,
https://arxiv.org/abs/2107.07467; v2, ICLR 2023, https://arxiv.org/abs/2303.06862).

A zero-invariant group x_g is all that makes a channel: rows of kernels with their biases, scales and shifts of norms, depth-wise kernels
in between; of a channel that an addition ties, those of all its makers. Where it is zero, so is the channel, and nothing changes when it
is cut. With x_t the groups before and x' those after the optimiser's own step, d = x_t - x' (the rate times the gradient, with momentum
and decay), every penalised group takes the rest of a step of the half-space stochastic projected gradient (v1, algorithm 2),

    x'' = x' - l_g x_t / ||x_t||,    x_{t+1} = 0 if <x'', x_t> < epsilon ||x_t||^2 else x'',

where l_g is the rate times lambda_g. Which groups are penalised, and l_g, are v2's (DHSPG).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from pas.methods.base import Method, Problem
from pas.surgery.groups import Groups, slices

SAFE = 1e-6
"""Added to mean norms that are divided by, as in the authors' code."""


class Oto(Method):
    """Half-space projection of as many redundant groups as the budget demands.

    *Warm-up*: the optimiser's plain steps, for the share `warmup` of the steps. *Partition*, once, after them: the redundancy of a group is

        normalise(cos(x_g, d_g)) / 2 + normalise(size_g / ||x_g||) / 2,

    each over the l2 norm over all groups: it is high where the loss asks for less magnitude, and where there is little; in the cosine x is
    that of the start and d the way of the whole warm-up. Penalised are the
    groups without which the rest lies in the budget's band. *Projection*, from then on: l_g is the default strength l where the loss's own
    step already lessens the norm, <x_t, d> >= 0. Elsewhere it is `amplify` times the least at which the norm still falls,
    -<x_t, d> / ||x_t||, within [l, `cap` l]; where that is not below the most at which the loss still falls,
    -||d||^2 ||x_t|| / <x_t, d>, it is the mean of the two bounds (v2, section 3.2). A group that is zero stays so, and its gate closes,
    which changes nothing.

    Published values, in brackets: `epsilon` (0 in v2, up to 0.95 in v1), `amplify` (2 for SGD), `cap` (10).

    Departures: `shrink` in the place of one lambda for all groups (published: 1e-3 at rate 0.1, about a tenth of a training of 300 epochs
    of CIFAR-10 for a group of norm 1): l is such that a group on which the loss has no say falls to zero within this share of the steps,
    whatever its norm, the optimiser and the rate. The published d of the partition is that of its step alone, of which in a short search
    half is noise. l_g never falls below l, also where the loss asks for less: at a trained network steps are so small that penalised groups
    would not arrive within a short search. The published target is a share of groups, of which the most redundant ones are penalised; here
    they are ranked alike but landed in the budget, and groups that aren't zero in the end are cut all the same, those with the least norm
    left first. A group's activations must map zero to zero; where they don't, the closed gate makes the difference. Memory: one more copy
    of the groups' parameters.
    """

    def __init__(self, problem: Problem, *, warmup: float, shrink: float, epsilon: float, amplify: float, cap: float) -> None:
        super().__init__(problem)
        self.epsilon, self.amplify, self.cap = epsilon, amplify, cap
        self.warmup_steps = max(1, round(warmup * problem.steps))
        self.shrink_steps = max(1, round(shrink * problem.steps))
        self.taken = 0
        self.gates.value.data.copy_(torch.from_numpy(problem.open_at_start))
        self._salience: np.ndarray | None = None  # of each channel (channels,), from the partition on
        self._penalised = torch.zeros(problem.signature.channels, dtype=torch.bool)
        self._strength = torch.zeros(problem.signature.channels)  # l of each group

    def wrap(self, backbone: nn.Module) -> nn.Module:
        self.gates.value.requires_grad_(False)
        made = [one for one in slices(backbone, self.problem.signature) if not one.reads]
        self.made = Groups(backbone, made, self.problem.signature.channels)
        self._before = [parameter.detach().clone() for parameter in self.made.parameters]
        return super().wrap(backbone)

    def step(self) -> None:
        self.taken += 1
        with torch.no_grad():
            self._follow()
            if self.taken < self.warmup_steps:  # what was before the first step stays known
                return
            taken = [was - new for was, new in zip(self._before, self.made.parameters, strict=True)]
            if self._salience is None:
                self._partition(taken)
            else:
                self._project(taken)
            self._remember()

    def scores(self) -> np.ndarray:
        """Zeroed groups lowest, then penalised ones by the share of their norm that is left, up to 1; then the others by salience."""
        problem = self.problem
        with torch.no_grad():
            self._follow()
            salience = self._judge(None) if self._salience is None else self._salience
            norms = self._norms()
            left = (norms / (self._strength * self.shrink_steps).clamp_min(torch.finfo(norms.dtype).tiny)).clamp(0, 1).cpu().numpy()
        order = np.argsort(np.argsort(salience[problem.free], kind="stable"), kind="stable")
        scores = np.full(problem.signature.channels, np.inf)
        scores[problem.free] = np.where(self._penalised.cpu().numpy()[problem.free], left[problem.free], 2 + order / len(order))
        return scores

    def state_dict(self) -> dict[str, Tensor]:
        known = self._salience is not None
        salience = torch.from_numpy(self._salience) if self._salience is not None else torch.zeros(self.problem.signature.channels)
        return {
            "taken": torch.tensor(self.taken),
            "partitioned": torch.tensor(known),
            "salience": salience.double(),
            "penalised": self._penalised,
            "strength": self._strength,
            **({} if known else {f"start.{number}": start for number, start in enumerate(self._before)}),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.taken = int(state["taken"])
        self._salience = state["salience"].cpu().numpy().copy() if bool(state["partitioned"]) else None
        self._penalised, self._strength = state["penalised"].clone(), state["strength"].clone()
        self._before = [state.get(f"start.{number}", now).detach().clone() for number, now in enumerate(self.made.parameters)]

    def _remember(self) -> None:
        """The groups as they are now."""
        for was, new in zip(self._before, self.made.parameters, strict=True):
            was.copy_(new)

    def _partition(self, taken: list[Tensor]) -> None:
        """Choose the groups to penalise, and their default strength, by the way since the start."""
        problem = self.problem
        length = self.made.dot(taken, taken).sqrt()
        cosine = self.made.dot(self._before, taken) / (self._norms() * length).clamp_min(1e-30)
        self._remember()
        self._salience = self._judge(cosine)
        kept = problem.land(self._salience)
        self._penalised = torch.from_numpy(~kept).to(self._penalised.device)
        self._strength = self._norms() / self.shrink_steps

    def _judge(self, cosine: Tensor | None) -> np.ndarray:
        """The salience of each channel (channels,): less its redundancy, lower by far for those that are closed at the start. By magnitude
        alone where the loss wasn't asked.
        """
        problem, norms = self.problem, self._norms()
        free = torch.from_numpy(problem.free).to(norms.device)
        redundancy = nn.functional.normalize(1 / ((norms / self.made.size().clamp_min(1))[free] + SAFE), dim=0)
        if cosine is not None:
            redundancy = nn.functional.normalize(cosine[free], dim=0) / 2 + redundancy / 2
        salience = np.full(problem.signature.channels, np.inf)
        salience[problem.free] = -redundancy.double().cpu().numpy() - 10.0 * ~problem.open_at_start
        return salience

    def _project(self, taken: list[Tensor]) -> None:
        """The rest of the step, on the parameters where the optimiser left them."""
        square = self.made.dot(self._before, self._before)
        slope, norm = self.made.dot(self._before, taken), square.sqrt().clamp_min(torch.finfo(square.dtype).tiny)
        pull = adapted(self._strength, norm, slope, self.made.dot(taken, taken), self.amplify, self.cap)
        # <x'', x_t> = <x_t - d - l x_t / ||x_t||, x_t>
        zero = self._penalised & (square - slope - pull * norm < self.epsilon * square) | self._penalised & (square == 0)
        share = torch.where(self._penalised & ~zero, pull / norm, 0.0)
        shrunk, kept = self.made.spread(share), self.made.spread((~zero).to(share.dtype))
        for parameter, was, shares, keeps in zip(self.made.parameters, self._before, shrunk, kept, strict=True):
            for part in shares:
                parameter.sub_(part * was)
            for part in keeps:
                parameter.mul_(part)
        self.gates.value.masked_fill_(zero[self.gates.free], 0.0)

    def _norms(self) -> Tensor:
        return self.made.dot(self._before, self._before).sqrt()

    def _follow(self) -> None:
        """To the device on which the parameters are now."""
        device = self.made.parameters[0].device
        if self._penalised.device != device or self._before[0].device != device:
            self._penalised, self._strength = self._penalised.to(device), self._strength.to(device)
            self._before = [was.to(device) for was in self._before]


def adapted(strength: Tensor, norm: Tensor, slope: Tensor, length: Tensor, amplify: float, cap: float) -> Tensor:
    """l of each group (n,), so that d + l x / ||x|| lessens the norm and the loss (OTO v2, section 3.2), and never below the default.

    `strength`: the default l; `norm`: ||x||, above 0; `slope`: <x, d>; `length`: ||d||^2; all (n,). Where the slope isn't negative the
    default does both.
    """
    against = (-slope).clamp_min(torch.finfo(slope.dtype).tiny)
    least, most = against / norm, length * norm / against
    wanted = torch.minimum(torch.maximum(amplify * least, strength), cap * strength)
    both = torch.where(wanted >= most, (least + most) / 2, wanted)
    return torch.where(slope < 0, torch.maximum(both, strength), strength)
