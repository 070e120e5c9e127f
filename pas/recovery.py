"""How a network recovers from its cut: top-1 right after it, with batch norms re-estimated, and after one epoch of fine-tuning.

What a search alone is worth shows before the fine-tuning, which makes methods look alike.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass, field

from torch import nn

from pas import distributed
from pas.setting import Setting
from pas.surgery.fuse import fuse
from pas.train.recalibrate import recalibrate

FILE = "recovery.json"
BATCHES, BATCH = 16, 128
"""Training images by which norms are estimated anew."""


@dataclass
class Recovery:
    """Top-1 in percent at the stages before the end, None where there is no such stage. A resumed run takes what was measured before."""

    setting: Setting
    found: dict[str, float | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        run = self.setting.tracker.run
        self.found = distributed.from_leader(lambda: run.read_json(FILE)) or {"cut": None, "renorm": None, "epoch": None}

    def after_cut(self, small: nn.Module) -> None:
        """Measure the sliced network as it is, and a copy of it with batch norms re-estimated, where it has any."""
        if self.found["cut"] is not None:
            return
        self.found["cut"] = self._top1(small)
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in small.modules()):
            other = copy.deepcopy(small).to(self.setting.device)
            images = self.setting.loader("train", BATCH, train=True, shared=False).epoch(0)
            recalibrate(other, (x for x, _ in itertools.islice(images, BATCHES)))
            self.found["renorm"] = self._top1(other)
        self._save()

    def after_epoch(self, small: nn.Module) -> None:
        """Measure the network after its first epoch of fine-tuning."""
        self.found["epoch"] = self._top1(small)
        self._save()

    def _top1(self, network: nn.Module) -> float:
        return self.setting.top1(fuse(network), self.setting.config.train.finetune.precision)

    def _save(self) -> None:
        with distributed.together():
            self.setting.tracker.run.write_json(FILE, self.found)
