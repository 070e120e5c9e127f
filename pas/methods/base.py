"""What a method is: how channels are switched while weights train, and which of them stay in the end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pas.allocate.landing import Widths, land
from pas.axes.signature import Signature
from pas.budget import Limits
from pas.criteria import Batch, Loss
from pas.gates.gated import Gated, Gates


@dataclass(frozen=True)
class Problem:
    """What every method is given: the network's axes, the limits it must hold, the legal widths, the number of steps, and
    the channels that are open at the start, booleans over all channels (None: every one).
    """

    signature: Signature
    limits: Limits
    widths: Widths
    steps: int
    start: np.ndarray | None = None

    @cached_property
    def free(self) -> np.ndarray:
        """All channels that may be dropped (n,), axis after axis."""
        return np.concatenate([np.arange(axis.start, axis.start + axis.size) for axis in self.widths.axes])

    @cached_property
    def axis_index(self) -> np.ndarray:
        """The number of the axis of each free channel (n,)."""
        return np.repeat(np.arange(len(self.widths.axes)), [axis.size for axis in self.widths.axes])

    @cached_property
    def open_at_start(self) -> np.ndarray:
        """The free channels that are open at the start, booleans (n,)."""
        return np.ones(len(self.free), dtype=bool) if self.start is None else self.start[self.free]

    def land(self, scores: np.ndarray, worth: np.ndarray | None = None) -> np.ndarray:
        """The mask over all channels (channels,) that keeps the highest scores and holds the limits (`pas.allocate.landing.land`)."""
        return land(self.widths, scores, self.limits.load, worth)

    def cost_per_axis(self, mask: np.ndarray) -> Tensor:
        """d cost / d gate at a mask over all channels (C,), averaged over each axis, in shares of the targets (axes,), float64."""
        leaf = torch.from_numpy(mask).to(torch.float64).requires_grad_()
        with torch.enable_grad():
            total = torch.stack([limit.cost(leaf) / limit.target for limit in self.limits.each]).sum()
        (gradient,) = torch.autograd.grad(total, leaf)
        axis = torch.from_numpy(self.axis_index)
        return axis_mean(gradient[torch.from_numpy(self.free)], axis, torch.bincount(axis)).clamp_min(1e-30)


def axis_mean(values: Tensor, axis: Tensor, sizes: Tensor) -> Tensor:
    """The mean of one value a free channel (n,) over each axis (axes,). `axis`: number of each channel's axis (n,)."""
    return values.new_zeros(len(sizes)).index_add(0, axis, values) / sizes


class Method(ABC):
    """A method of width search, called from anybody's training loop.

    The order in a step is: forward of `wrap`'s module, `penalty` added to the loss, backward, the optimiser's step,
    `step`. A method may gate weights or activations (`wrap`), change gradients before the optimiser sees them (hooks on
    the parameters, set in `wrap`), correct the weights after it or re-wire masks every n steps (`step`), or decide once
    (`wrap`, or `calibrate` when the decision needs data).

    Attributes:
        learns: whether anything is decided by the steps. Where it isn't, a pipeline cuts at once and spends the epochs of
            the search on the fine-tuning.
        inherits: whether the searched network keeps the weights of the dense one, or starts from scratch.
        lands: whether an export moves gates until the budget's band is met.
        samples: how many examples `calibrate` looks at, one after the other.
        forced: how many gates were closed and reopened to meet the band when the gates came to rest, where they do before the export.
    """

    samples: int = 0
    forced: tuple[int, int] = (0, 0)
    learns: bool = True
    inherits: bool = True
    lands: bool = True

    def __init__(self, problem: Problem, gates: Gates | None = None) -> None:
        self.problem = problem
        self.gates = gates or Gates(problem.signature.channels, problem.free)

    def wrap(self, backbone: nn.Module) -> nn.Module:
        """The network to train instead of the backbone: here, with the gates folded into its weights."""
        return Gated(backbone, self.problem.signature, self.gates)

    def calibrate(self, batches: Iterable[Batch], loss: Loss) -> None:
        """Look at data before the first step. Nothing by default: most methods see their data while they are trained."""
        del batches, loss

    def groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Optimiser groups of the method's own parameters, beside weights of this learning rate and decay."""
        del lr, weight_decay
        return []

    def penalty(self) -> Tensor:
        """What is added to the loss; zero where the budget is held by projection."""
        return torch.zeros((), device=self.gates.value.device)

    @abstractmethod
    def step(self) -> None:
        """Whatever must happen after the optimiser's step."""

    @abstractmethod
    def scores(self) -> np.ndarray:
        """How much each channel deserves to stay (channels,): the order in which the export closes or reopens them."""

    def settle(self, backbone: nn.Module, mask: np.ndarray) -> None:
        """Write into a network of its own weights (a copy of the one that is trained) what the method does to them beside its gates, for an
        export that keeps the channels of `mask` (channels,); nothing by default.
        """
        del backbone, mask

    def relimit(self, limits: Limits) -> None:
        """Take limits whose costs were measured anew, of the same network."""
        self.problem = replace(self.problem, limits=limits)

    def importance(self) -> np.ndarray | None:
        """What each channel is worth (channels,), so that an architecture is worth the sum over those that stay; not negative. None for a
        method that knows no such thing.
        """
        return None

    def open(self) -> np.ndarray:
        """The channels that are switched on now, booleans (channels,)."""
        with torch.no_grad():
            return self.gates.settled().cpu().numpy() > 0

    def hopeless(self) -> np.ndarray:
        """The channels that can't be expected back, booleans (channels,); none unless a method knows."""
        return np.zeros(self.problem.signature.channels, dtype=bool)

    def carry(self, before: Method, index: np.ndarray) -> None:
        """Go on where `before` stands, on a smaller network: free channel i here is free channel ``index[i]`` there."""
        with torch.no_grad():
            self.gates.value.copy_(before.gates.value[torch.from_numpy(index)])

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors that a resumed search needs, beside the gates (which are parameters of the wrapped network)."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` gave; nothing by default."""
        del state
