"""Grouped one-shot pruning with any criterion of single weights, at any time: before training, or after it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from pas import distributed
from pas.criteria import NORMALISERS, REDUCTIONS, WITH_DATA, WITHOUT_DATA, Batch, Loss, from_data, from_weights
from pas.methods.base import Problem
from pas.methods.once import Once
from pas.rule import word


class Spa(Once):
    """Structurally Prune Anything (https://arxiv.org/abs/2403.18955): the importance of single weights, by a known criterion, is summed
    over everything that goes with a channel and normalised inside each group of coupled channels; then one order for the whole network,
    the least important channels dropped until the budget holds.

    `criterion`: L1, SNIP, GraSP and CroP are the paper's (`group_l1`, `snip`, `grasp`, `crop`); `group_l2`, `bn_scale`, `taylor_squared`,
    `taylor_abs`, `fisher` and `random` came in beside them (`pas.criteria.weightwise`, `gradientwise`). `reduce`, `normalise`: how slices
    become one number a channel, comparable between axes (`pas.criteria.grouped`; sum, mean). `samples`: examples for criteria that need
    data, which decide in `calibrate`; the others decide at once. `per_cost`: 1 divides an importance by the mean cost of a channel of its
    axis, in the dense network; 0 is published.

    The published search drops a share of the channels; here they fall until the budget's band is met. Of several processes each judges by
    the examples that it is given, and the mean of their importances counts.
    """

    def __init__(self, problem: Problem, *, criterion: str, reduce: str, normalise: str, samples: float, per_cost: float) -> None:
        super().__init__(problem)
        self.criterion = word("criterion", criterion, (*WITHOUT_DATA, *WITH_DATA))
        self.reduce, self.normalise = word("reduce", reduce, REDUCTIONS), word("normalise", normalise, NORMALISERS)
        self.samples = max(2, round(samples)) if criterion in WITH_DATA else 0
        self.per_cost = bool(per_cost)
        self._importance: np.ndarray | None = None

    def judge(self, backbone: nn.Module) -> np.ndarray | None:
        if self.samples:
            return None
        return self._weighed(from_weights(backbone, self.problem.signature, self.criterion, self.reduce, self.normalise))

    def calibrate(self, batches: Iterable[Batch], loss: Loss) -> None:
        if self.samples:
            how = (self.criterion, self.reduce, self.normalise)
            found = torch.from_numpy(from_data(self._backbone, self.problem.signature, *how, batches, loss, self.samples))
            agreed = distributed.mean(found.to(self.gates.value.device))  # alike on every process
            self._decide(self._weighed(agreed.cpu().numpy()))

    def choose(self, scores: np.ndarray) -> np.ndarray:
        return self.problem.land(scores, self._importance)

    def importance(self) -> np.ndarray | None:
        """The grouped importances; None where some are negative, and before data was seen."""
        return self._importance

    def state_dict(self) -> dict[str, Tensor]:
        known = np.zeros(0) if self._importance is None else self._importance
        return {**super().state_dict(), "importance": torch.from_numpy(known.copy())}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        self._importance = state["importance"].cpu().numpy().copy() if len(state["importance"]) else None

    def _weighed(self, importance: np.ndarray) -> np.ndarray:
        """The order of channels (channels,); their importance is remembered where it is one."""
        problem = self.problem
        free = importance[problem.free]
        if free.min() >= 0:
            self._importance = np.zeros(len(importance))
            self._importance[problem.free] = free
        scores = np.full(len(importance), np.inf)
        cost = problem.cost_per_axis(np.ones(len(importance), dtype=bool)).numpy()[problem.axis_index]
        scores[problem.free] = free / cost if self.per_cost else free
        return scores
