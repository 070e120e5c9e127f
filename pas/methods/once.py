"""Methods that decide once, before the first step, and keep the gates fixed while the weights adapt."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from pas.criteria import CRITERIA
from pas.errors import PasError
from pas.gates.binary import THRESHOLD
from pas.methods.base import Method, Problem
from pas.rule import word


class Once(Method):
    """A mask chosen from the dense network. Channels outside of the start have lower scores than all others."""

    learns = False
    _undecided = False

    def wrap(self, backbone: nn.Module) -> nn.Module:
        self.gates.value.requires_grad_(False)
        scores = self.judge(backbone)
        if scores is not None:
            self._decide(scores)
        else:
            self._undecided, self._backbone = True, backbone
        return super().wrap(backbone)

    @abstractmethod
    def judge(self, backbone: nn.Module) -> np.ndarray | None:
        """How much each channel deserves to stay (channels,); None when that takes data (`calibrate`)."""

    @abstractmethod
    def choose(self, scores: np.ndarray) -> np.ndarray:
        """The mask over all channels that these scores lead to."""

    def step(self) -> None:
        """Nothing moves."""

    def scores(self) -> np.ndarray:
        if self._undecided:
            raise PasError("this method decides from data: call search.calibrate(batches, loss) first")
        kept = self.gates.value.detach().cpu().numpy() > THRESHOLD
        scores = np.full(self.problem.signature.channels, np.inf)
        scores[self.problem.free] = np.where(kept, 1.0, 0.0)
        return scores

    def state_dict(self) -> dict[str, Tensor]:
        return {"decided": torch.tensor(not self._undecided)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._undecided = not bool(state["decided"])

    def _decide(self, scores: np.ndarray) -> None:
        problem = self.problem
        scores = scores.astype(np.float64).copy()
        inside = scores[problem.free]
        if np.isnan(inside).any():
            axis = problem.widths.axes[problem.axis_index[np.isnan(inside)][0]].name
            raise PasError(f"this criterion says nothing of axis {axis!r}: choose another one, or keep={axis!r}")
        spread = float(inside.max() - inside.min()) + 1.0
        scores[problem.free] = inside - spread * ~problem.open_at_start
        mask = self.choose(scores)
        with torch.no_grad():
            self.gates.value.copy_(torch.from_numpy(mask[problem.free]).to(self.gates.value))
        self._undecided = False


class Weighed(Once):
    """Decides from the weights alone. `criterion`: which of `pas.criteria.CRITERIA`."""

    def __init__(self, problem: Problem, *, criterion: str) -> None:
        super().__init__(problem)
        self.criterion = CRITERIA[word("criterion", criterion, CRITERIA)]

    def judge(self, backbone: nn.Module) -> np.ndarray:
        return self.criterion(backbone, self.problem.signature)
