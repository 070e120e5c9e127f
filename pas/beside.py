"""Networks timed beside the dense one that they were cut from."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from torch import nn

from pas import distributed
from pas.axes.signature import Signature
from pas.cost.conditions import Conditions
from pas.cost.measure import Ratio, Timed
from pas.timing import Timing, compared, timed, timing


class Beside:
    """A dense network, made ready to be timed when it is first needed."""

    def __init__(self, model: nn.Module, signature: Signature, conditions: Conditions) -> None:
        self.model, self.signature, self.conditions = model, signature, conditions
        self._dense: Timed | None = None

    def share(self, network: nn.Module) -> tuple[Ratio, float]:
        """The latency of a network over that of the dense one, in turns in one process, and the dense one in ms."""
        if self._dense is None:
            self._dense = timed(self.model, self.signature, self.conditions)
        return compared(self._dense, timed(network, self.signature, self.conditions), self.conditions)


def timing_of_all(model: nn.Module, signature: Signature, conditions: Conditions, table: Path | None, progress: Console) -> Timing:
    """What is known of a network's latency, measured by one process for all."""
    found = distributed.from_leader(lambda: timing(model, signature, conditions, table, progress).as_dict())
    return Timing.of(found, signature, conditions)
