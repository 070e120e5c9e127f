"""Methods that prune in many steps: importance is accumulated while weights train, and every few steps widths are chosen anew."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from pas import distributed
from pas.allocate.ramp import RAMPS, moments
from pas.budget import Limits
from pas.methods.base import Method, Problem

MOMENTUM = 0.9
"""Of the running mean, where importance is accumulated by ``momentum``."""


class Progressive(Method):
    """The loop that SMCP and HALP share: observe, accumulate, choose.

    `first`, `length`: the steps before, and over which, the allowed load falls along `schedule` (`pas.allocate.ramp`) from that of the
    start to 1; `count`: how often channels are chosen there, at equal intervals. `accumulate`: how what was observed in the steps of an
    interval becomes one importance: that of the "latest" step, the "average", or "momentum", an exponential mean. Steps whose gradients
    aren't finite don't count. The last choice is landed in the budget's band, and rests.
    """

    def __init__(self, problem: Problem, *, first: int, length: int, count: int, schedule: str, accumulate: str) -> None:
        super().__init__(problem)
        self.taken = 0
        self.moments = moments(first, max(1, length), max(1, count))
        self.ramp, self.accumulate = RAMPS[schedule], accumulate
        self.gates.value.data.copy_(torch.from_numpy(problem.open_at_start))
        self._start = float(problem.limits.load(self.open()))
        self._worth = np.zeros(problem.signature.channels)
        self._sum, self._count = torch.zeros(len(problem.free)), torch.zeros(())
        self._seen: Tensor | None = None

    @abstractmethod
    def choose(self, worth: np.ndarray, allowed: float) -> np.ndarray:
        """The mask over all channels for importances (channels,) and a load."""

    def rewired(self) -> None:
        """What follows from new masks; nothing by default."""

    def observe(self, seen: Tensor) -> None:
        """Take part of a step's first-order effects, with their sign, of each free channel (n,): parts are added, then absolute."""
        self._seen = seen if self._seen is None else self._seen + seen

    def step(self) -> None:
        self.taken += 1
        self._accumulate()
        share = self.moments.get(self.taken)
        if share is None:
            return
        gathered = self._gathered()
        if gathered.any():
            self._worth = gathered
            self._set(self.choose(gathered, self.ramp(self._start, share)))
            self._sum, self._count = torch.zeros_like(self._sum), torch.zeros_like(self._count)
        if self.rests:
            self._set(self.problem.land(self.scores()))
        self.rewired()

    @property
    def rests(self) -> bool:
        """Whether the last choice has been made."""
        return self.taken >= max(self.moments)

    def scores(self) -> np.ndarray:
        """Ranks of importance per cost, from 0 to 1 for closed channels and from 1 to 2 for open ones."""
        problem, now = self.problem, self.open()
        cost = problem.cost_per_axis(now).numpy()[problem.axis_index]
        rank = np.argsort(np.argsort(self._known()[problem.free] / cost, kind="stable"), kind="stable")
        scores = np.full(problem.signature.channels, np.inf)
        scores[problem.free] = (rank + 1) / len(rank) + now[problem.free]
        return scores

    def importance(self) -> np.ndarray | None:
        """The importance of the last choice, before the first one what was accumulated for it; None when nothing was seen."""
        worth = self._known()
        return worth if worth.any() else None

    def relimit(self, limits: Limits) -> None:
        whole = np.ones(self.problem.signature.channels, dtype=bool)
        self._start *= float(limits.load(whole) / self.problem.limits.load(whole))
        super().relimit(limits)

    def carry(self, before: Method, index: np.ndarray) -> None:
        super().carry(before, index)
        assert isinstance(before, Progressive)
        chosen = torch.from_numpy(index).to(before._sum.device)
        self.taken, self._start = before.taken, before._start
        self._sum, self._count = before._sum[chosen], before._count.clone()
        self._worth[self.problem.free] = before._worth[before.problem.free[index]]

    def state_dict(self) -> dict[str, Tensor]:
        return {
            "taken": torch.tensor(self.taken),
            "worth": torch.from_numpy(self._worth.copy()),
            "sum": self._sum,
            "count": self._count,
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.taken, self._worth = int(state["taken"]), state["worth"].cpu().numpy().copy()
        self._sum, self._count = state["sum"].clone(), state["count"].clone()

    def _accumulate(self) -> None:
        """Without a look at any value, for which a GPU would have to wait."""
        seen, self._seen = self._seen, None
        if seen is None or self.taken > max(self.moments):
            return
        seen = distributed.mean(seen).abs()  # of the mean loss, alike on every process
        before, count = self._sum.to(seen.device), self._count.to(seen.device)
        if self.accumulate == "latest":
            after = seen
        elif self.accumulate == "average":
            after = before + (seen - before) / (count + 1)
        else:
            after = MOMENTUM * before + (1 - MOMENTUM) * seen
        finite = seen.isfinite().all()  # else an overflow, whose step a gradient scaler skips
        self._sum, self._count = torch.where(finite, after, before), count + finite

    def _gathered(self) -> np.ndarray:
        """What was accumulated since the last choice, over all channels (channels,)."""
        worth = np.zeros(self.problem.signature.channels)
        worth[self.problem.free] = self._sum.cpu().double().numpy()
        return worth

    def _known(self) -> np.ndarray:
        """The importance of the last choice, before the first one what was accumulated for it (channels,)."""
        return self._worth if self._worth.any() else self._gathered()

    def _set(self, mask: np.ndarray) -> None:
        with torch.no_grad():
            self.gates.value.copy_(torch.from_numpy(mask[self.problem.free]).to(self.gates.value))
