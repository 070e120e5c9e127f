"""ResRep: compactors that learn which channels to forget (Ding et al., ICCV 2021, https://arxiv.org/abs/2007.03260).

After the norm of each layer stands a compactor, a 1x1 convolution Q that is the identity at first. While everything trains, row Q_j gets
the gradient (eq. 14)

    G_j = m_j dL/dQ_j + lasso Q_j / ||Q_j||,

where m_j is 0 for the channels selected so far (*gradient resetting*): nothing holds these any more, and they fall to zero, while the
others hardly feel the lasso. In the end the compactor goes into the convolution before the norm and into the norm
(`pas.surgery.compactor.fold`): in eval mode exactly, in training mode as far as a variance can be told without data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pas.axes.signature import rows
from pas.criteria import magnitude
from pas.methods.base import Method, Problem
from pas.surgery.compactor import Compactor, fold, insert, places
from pas.surgery.forms import identity_input, typed_blocks

ZERO = 1e-5
"""A row of less norm counts as zero, as in the authors' code."""


class ResRep(Method):
    """Compactors with gradient resetting.

    Selected are, of the channels that the budget's landing drops, those with the lowest ||Q_j||, a few more each time, from the share
    `warmup` of the steps on, after each share `every` of them; all that have to go may be selected when the share `ramp` is over, and none
    beyond those without which the network meets the budget.

    Published values, in brackets (ResNet-56 on CIFAR-10, 480 epochs of 782 steps): `lasso` (1e-4); `momentum` of the compactors (0.99; they
    have no weight decay); `warmup` (5 epochs, 3,906 steps, 0.01); `every` (200 steps, 0.0005); `ramp` (4 channels each time: half of 1008
    after 25,000 steps, 0.07).

    Departures: the published lasso takes 10,000 steps at a rate of 0.01 to bring a row of norm 1 to zero, 0.03 of that training. In a short
    search it would get nowhere, so rows that are selected also lose 1 / (`fall` steps) of norm after each step, which brings them to zero
    within the share `fall`; 0 is as published. The first channels are chosen early: a share of a short search is far fewer steps than the
    published 3,906, so the norms of rows have had less time to part. A compactor acts on every axis that one layer alone makes, depth-wise
    convolutions behind it included; of a block with several branches, on their sum. Convolution and norm stay two, where the published
    compactor leaves one convolution without a norm. Axes that additions tie have none, as published. They stay whole, unless the others at
    their least can't meet the budget: then they are cut by magnitude in the dense network, and so are all axes of a network that has no
    place for a compactor. Channels that are closed at the start stay so while the weights train.
    """

    def __init__(
        self, problem: Problem, *, lasso: float, momentum: float, warmup: float, ramp: float, every: float, fall: float
    ) -> None:
        super().__init__(problem)
        self.lasso, self.momentum = lasso, momentum
        self.warmup_steps, self.ramp_steps = round(warmup * problem.steps), max(1, round(ramp * problem.steps))
        self.interval = max(1, round(every * problem.steps))
        self.fall = 1 / max(1.0, fall * problem.steps) if fall else 0.0
        self.taken = 0
        self.gates.value.data.copy_(torch.from_numpy(problem.open_at_start))

    def wrap(self, backbone: nn.Module) -> nn.Module:
        self.gates.value.requires_grad_(False)
        self._magnitude = magnitude(backbone, self.problem.signature)
        self.places = places(backbone, self.problem.signature, self.problem.widths.axes)
        self.compactors: list[Compactor] = [insert(backbone, place) for place in self.places]
        self._compacted = np.zeros(self.problem.signature.channels, dtype=bool)
        for place in self.places:
            self._compacted[place.axis.start : place.axis.start + place.axis.size] = True
        return super().wrap(backbone)

    def groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        del weight_decay
        weights = [compactor.weight for compactor in self.compactors]
        return [{"params": weights, "lr": lr, "weight_decay": 0.0, "momentum": self.momentum}] if weights else []

    def penalty(self) -> Tensor:
        if not self.compactors:
            return super().penalty()
        return self.lasso * torch.cat([compactor.norms() for compactor in self.compactors]).sum()

    def step(self) -> None:
        self.taken += 1
        begun = self.taken - self.warmup_steps
        if not self.compactors or begun <= 0:
            return
        with torch.no_grad():
            if begun % self.interval == 0 or begun == 1:
                self._select(min(1.0, begun / self.ramp_steps))
            if self.fall:
                for compactor in self.compactors:
                    left = (1 - self.fall / compactor.norms().clamp_min(torch.finfo(compactor.weight.dtype).tiny)).clamp_min(0)
                    compactor.weight.mul_(torch.where(compactor.mask == 0, left, 1.0)[:, None])

    def scores(self) -> np.ndarray:
        """||Q_j|| where there is a compactor; above all of these, magnitude. Channels that are closed at the start come last."""
        problem, norms = self.problem, self._everywhere(Compactor.norms)
        outside = np.zeros(problem.signature.channels, dtype=bool)
        outside[problem.free] = ~problem.open_at_start
        top = norms.max() + 1
        value = np.where(self._compacted, norms, top + self._magnitude)
        scores = np.full(problem.signature.channels, np.inf)
        scores[problem.free] = (value - (top + self._magnitude.max() + 1) * outside)[problem.free]
        return scores

    def open(self) -> np.ndarray:
        """All but the closed ones of the start, and selected rows that are zero."""
        norms, mask = self._everywhere(Compactor.norms), self._everywhere(_mask)
        return super().open() & ~(self._compacted & (mask == 0) & (norms < ZERO))

    def settle(self, backbone: nn.Module, mask: np.ndarray) -> None:
        for item in typed_blocks(backbone, self.problem.signature).values():
            if item.block.identity is not None and item.reads is not None:
                # one that reads a dropped channel gives its shift alone; folded, it would swamp a kernel's norm, as its variance is near 0
                on = rows(identity_input(item), mask, item.block.identity.num_features)
                item.block.identity.weight.data *= torch.from_numpy(on).to(item.block.identity.weight)
        for place in self.places:
            fold(backbone, place)

    def state_dict(self) -> dict[str, Tensor]:
        return {"taken": torch.tensor(self.taken), "magnitude": torch.from_numpy(self._magnitude)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.taken, self._magnitude = int(state["taken"]), state["magnitude"].cpu().numpy().copy()

    def _select(self, share: float) -> None:
        """Let go of the lowest of the channels that the budget drops, at most this share of all that have compactors."""
        problem, scores = self.problem, self.scores()
        dropped = ~problem.land(scores) & self._compacted
        order = np.flatnonzero(dropped)[np.argsort(scores[dropped], kind="stable")]
        selected = np.zeros(problem.signature.channels, dtype=bool)
        selected[order[: math.ceil(share * self._compacted.sum())]] = True
        for place, compactor in zip(self.places, self.compactors, strict=True):
            part = selected[place.axis.start : place.axis.start + place.axis.size]
            compactor.mask.copy_(torch.from_numpy(~part).to(compactor.mask))

    def _everywhere(self, read: Callable[[Compactor], Tensor]) -> np.ndarray:
        """What `read` gives of each compactor (C,), over all channels (channels,); zero where there is none."""
        found = np.zeros(self.problem.signature.channels)
        for place, compactor in zip(self.places, self.compactors, strict=True):
            found[place.axis.start : place.axis.start + place.axis.size] = read(compactor).detach().double().cpu().numpy()
        return found


def _mask(compactor: Compactor) -> Tensor:
    return compactor.mask
