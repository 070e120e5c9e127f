"""What a method is: how channels are switched while weights train, and which of them stay in the end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pas.allocate.landing import Widths
from pas.axes.signature import Signature
from pas.budget import Limits
from pas.gates.gated import Gated, Gates


@dataclass(frozen=True)
class Problem:
    """What every method is given: the network's axes, the limits it must hold, the legal widths and the number of
    steps.
    """

    signature: Signature
    limits: Limits
    widths: Widths
    steps: int

    @cached_property
    def free(self) -> np.ndarray:
        """All channels that may be dropped (n,), axis after axis."""
        return np.concatenate([np.arange(axis.start, axis.start + axis.size) for axis in self.widths.axes])

    @cached_property
    def axis_index(self) -> np.ndarray:
        """The number of the axis of each free channel (n,)."""
        return np.repeat(np.arange(len(self.widths.axes)), [axis.size for axis in self.widths.axes])


class Method(ABC):
    """A method of width search, called from anybody's training loop.

    The order in a step is: forward of `wrap`'s module, `penalty` added to the loss, backward, the optimiser's step,
    `step`. A method may gate weights or activations (`wrap`), change gradients before the optimiser sees them (hooks on
    the parameters, set in `wrap`), correct the weights after it or re-wire masks every n steps (`step`), or decide once
    (`wrap`).
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.gates = Gates(problem.signature.channels, problem.free)

    def wrap(self, backbone: nn.Module) -> nn.Module:
        """The network to train instead of the backbone: here, with the gates folded into its weights."""
        return Gated(backbone, self.problem.signature, self.gates)

    def groups(self) -> list[dict[str, Any]]:
        """Optimiser groups of the method's own parameters. Gates never decay."""
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

    def open(self) -> np.ndarray:
        """The channels that are switched on now, booleans (channels,)."""
        with torch.no_grad():
            return self.gates().cpu().numpy() > 0

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors that a resumed search needs, beside the gates (which are parameters of the wrapped network)."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` gave; nothing by default."""
        del state
