"""OBSPA: structured pruning without fine-tuning (Wang et al., https://arxiv.org/abs/2403.18955), by exact group optimal brain surgeon."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from pas.axes.capture import Example
from pas.criteria import CRITERIA, Batch, Loss
from pas.criteria.examples import count, first
from pas.errors import PasError
from pas.methods.base import Problem
from pas.methods.once import Once
from pas.surgery.fuse import fuse
from pas.surgery.layerwise import like
from pas.surgery.mask import mask as masked
from pas.surgery.reconstruct import block_cost, reconstruct
from pas.train.recalibrate import recalibrate, transfer


class Obspa(Once):
    """Channels leave by one threshold for all axes, and what reads them is refitted by least squares (`pas.surgery.reconstruct`).

    A channel's score is summed over all layers that read it, and divided by the mean of its axis. With `obs` it is the cost of removing it
    after the best answer, from the inputs of the dense network; without, and along axes that no layer reads which can be refitted, it is
    `criterion`, one of `pas.criteria.CRITERIA`. `damping`: of the Hessians, in shares of their mean diagonal (published: 0.01).

    What is shown to `calibrate` is all the data it sees, `samples` examples (published: 2,048), inputs only: images of the task, others,
    or noise drawn from N(0, 1), which is the variant without data. They are kept, and part of a checkpoint. Without `refit` the weights are
    only cut. `renorm`: the statistics of batch norms are re-estimated after the refit. With `relative` they are those of the dense network,
    moved by what changed on the examples (`pas.train.recalibrate.transfer`), so that noise does as well; without, those of the examples.

    The network inside is the fused form: a branch of a re-parameterised block can't be refitted by itself. What an export gives has the
    refitted weights, `model` the weights that are trained, if they are. The published update sweeps columns; ours is the least-squares
    answer.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        samples: float,
        damping: float,
        refit: float,
        renorm: float,
        relative: float,
        obs: float,
        criterion: str,
    ) -> None:
        super().__init__(problem)
        self.samples, self.damping = max(1, round(samples)), damping
        self.refit, self.renorm, self.relative = bool(refit), bool(renorm), bool(relative)
        self.obs, self.criterion = bool(obs), CRITERIA[criterion]
        self._batches: list[Example] = []
        self._last: tuple[np.ndarray, dict[str, Tensor], dict[str, Tensor]] | None = None

    def wrap(self, backbone: nn.Module) -> nn.Module:
        return super().wrap(fuse(backbone))

    def judge(self, backbone: nn.Module) -> None:
        return None

    def calibrate(self, batches: Iterable[Batch], loss: Loss) -> None:
        """Keep the inputs, and decide. Raises PasError when there are none."""
        del loss
        self._batches, self._last = list(_first(batches, self.samples)), None
        if not self._batches:
            raise PasError("obspa needs at least one example to refit weights by: images of the task, or noise")
        self._decide(self._judged())

    def _judged(self) -> np.ndarray:
        """The score of each channel (channels,), the mean of each axis one."""
        network, signature = self._backbone, self.problem.signature
        by_weights = self._normalised(self.criterion(network, signature))
        if not self.obs:
            return by_weights
        cost = self._normalised(block_cost(network, signature, self._batches, damping=self.damping))
        return np.where(np.isnan(cost), by_weights, cost)

    def _normalised(self, scores: np.ndarray) -> np.ndarray:
        scores = scores.astype(np.float64).copy()
        for axis in self.problem.widths.axes:
            part = np.s_[axis.start : axis.start + axis.size]
            scores[part] /= max(scores[part].mean(), 1e-300)
        return scores

    def choose(self, scores: np.ndarray) -> np.ndarray:
        return self.problem.land(scores)

    def settle(self, backbone: nn.Module, mask: np.ndarray) -> None:
        """Refit and re-estimate. The last answer is kept, for the same weights and mask."""
        before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
        if self._last is None or not (np.array_equal(self._last[0], mask) and _equal(self._last[1], before)):
            self._last = mask.copy(), before, self._answered(backbone, mask).state_dict()
        backbone.load_state_dict(self._last[2])

    def _answered(self, backbone: nn.Module, mask: np.ndarray) -> nn.Module:
        signature = self.problem.signature
        if self.refit:
            network = reconstruct(backbone, signature, mask, self._batches, damping=self.damping)
        else:
            network = masked(backbone, signature, signature.architecture(mask))
        if self.renorm:
            batches = [like(network, batch) for batch in self._batches]
            if self.relative:
                transfer(network, backbone, batches)
            else:
                recalibrate(network, batches)
        return network

    def state_dict(self) -> dict[str, Tensor]:
        leaves = {f"example.{i}.{j}": leaf for i, batch in enumerate(self._batches) for j, leaf in enumerate(tree_leaves(batch))}
        return {**super().state_dict(), **leaves}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        kept: dict[int, dict[int, Tensor]] = {}
        for name, leaf in state.items():
            if name.startswith("example."):
                i, j = map(int, name.split(".")[1:])
                kept.setdefault(i, {})[j] = leaf.clone()
        self._batches = [self._nested([leaves[j] for j in sorted(leaves)]) for _, leaves in sorted(kept.items())]
        self._last = None

    def _nested(self, leaves: list[Tensor]) -> Example:
        """Inputs in the nest of the signature's example."""
        rest = iter(leaves)
        nest: Example = tree_map(lambda leaf: next(rest) if isinstance(leaf, Tensor) else leaf, self.problem.signature.example)
        return nest


def _first(batches: Iterable[Batch], samples: int) -> Iterable[Example]:
    """The inputs of the first examples, without a rest of less than half a batch: the statistics of norms take batch by batch."""
    full = 0
    for batch in first(batches, samples):
        if 2 * count(batch) < full:
            return
        full = full or count(batch)
        yield tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, batch[0])


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name].to(tensor.device), tensor) for name, tensor in other.items())
