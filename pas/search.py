"""Search in anybody's training loop: wrap a network, train it, take a smaller one out."""

from __future__ import annotations

import copy
import difflib
import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pas.allocate.landing import Widths, land
from pas.amount import human
from pas.architecture import Architecture
from pas.axes.capture import Example
from pas.axes.signature import Axis, Signature, rows
from pas.budget import Budget, limits
from pas.errors import PasError
from pas.methods import DEFAULTS, METHODS, Problem
from pas.surgery.forms import flat_input, signature, typed_blocks
from pas.surgery.fuse import fuse
from pas.surgery.slice import slice


class Search:
    """Learn which channels of every layer to keep, under a budget.

    >>> search = Search(model, example, budget=Budget(macs=0.5), steps=2000)
    >>> optimizer = torch.optim.SGD(search.param_groups(lr=0.02, weight_decay=1e-4), momentum=0.9)
    >>> loss = criterion(search.model(x), y) + search.penalty()
    >>> loss.backward(); optimizer.step(); optimizer.zero_grad(); search.step()
    >>> small = search.export()

    `example`: a tensor (N, ...), a tuple of inputs or a dict of keyword inputs. `steps`: optimiser steps of the search.
    `keep`: patterns of axes, or of modules whose axes stay whole (their name, or the start of a parameter's path, with
    * and ?). `min_width`: no axis falls below so many channels. `round_to`: widths are multiples of this (or the full
    width). Other options are the method's own (`pas.methods.DEFAULTS`). The network handed in is left as it is: the
    search trains a copy.

    Raises PasError when the network can't be captured, an option is unknown, or the budget is smaller than the minimum
    widths.
    """

    def __init__(
        self,
        model: nn.Module,
        example: Example,
        *,
        budget: Budget,
        steps: int,
        method: str = "pas",
        keep: Iterable[str] = (),
        min_width: int = 1,
        round_to: int = 1,
        **options: float,
    ) -> None:
        if not isinstance(budget, Budget):
            raise PasError(f"budget={budget!r}: write budget=pas.Budget(macs=0.5)")
        if method not in METHODS:
            raise PasError(f"no method {method!r}; there are {', '.join(METHODS)}")
        unknown = [name for name in options if name not in DEFAULTS[method]]
        if unknown:
            near = difflib.get_close_matches(unknown[0], DEFAULTS[method], n=1)
            raise PasError(
                f"method {method!r} has no option {unknown[0]!r}" + (f"; did you mean {near[0]!r}?" if near else "")
            )
        for name, value in (("steps", steps), ("min_width", min_width), ("round_to", round_to)):
            if value < 1:
                raise PasError(f"{name} must be at least 1, not {value}")
        self.signature: Signature = signature(model, example)
        axes = _searched(self.signature, tuple(keep))
        least = tuple(min(min_width, axis.size) for axis in axes)
        self.widths = Widths(axes, least, round_to, self.signature.channels)
        lowest = self.widths.mask(
            [np.arange(axis.size) for axis in axes], [self.widths.ladder(a)[0] for a in range(len(axes))]
        )
        self.limits = limits(budget, self.signature, lowest)
        self.method = METHODS[method](
            Problem(self.signature, self.limits, self.widths, steps), **{**DEFAULTS[method], **options}
        )
        self.model = self.method.wrap(copy.deepcopy(model))
        self.model.to(next(model.parameters()).device)

    @property
    def backbone(self) -> nn.Module:
        """The network inside, with the weights as trained so far and all channels present."""
        return self.model.get_submodule("backbone")

    def param_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Groups for any torch optimiser: weights that decay, norms and biases that don't, and the method's own
        parameters.
        """
        own = {id(p) for group in self.method.groups() for p in group["params"]} | {id(self.method.gates.value)}
        trained = [p for p in self.model.parameters() if p.requires_grad and id(p) not in own]
        return [
            {"params": [p for p in trained if p.dim() > 1], "lr": lr, "weight_decay": weight_decay},
            {"params": [p for p in trained if p.dim() <= 1], "lr": lr, "weight_decay": 0.0},
            *self.method.groups(),
        ]

    def penalty(self) -> Tensor:
        """To be added to the loss."""
        return self.method.penalty()

    def step(self) -> None:
        """To be called after every step of the optimiser: masks, multiplier, revival, whatever the method needs."""
        self.method.step()

    def _landed(self) -> np.ndarray:
        """The channels that an export would keep now, booleans over all channels."""
        return land(self.widths, self.method.scores(), self.limits.load)

    @property
    def architecture(self) -> Architecture:
        """What an export would keep now: the gates nearest to their threshold closed or reopened until the budget
        holds.
        """
        return self.signature.architecture(self._landed())

    def settled(self) -> nn.Module:
        """A copy of the backbone as the gates left it: what a dropped channel did to running statistics is undone."""
        backbone = copy.deepcopy(self.backbone)
        _settle(backbone, self.signature, self._landed())
        return backbone

    def slice(self) -> nn.Module:
        """The smaller network as it stands, re-parameterised blocks still in their training form."""
        return slice(self.settled(), self.signature, self.architecture)

    def export(self) -> nn.Module:
        """A plain, fused, smaller network in the band of the budget; valid at any moment."""
        return fuse(self.slice())

    def report(self) -> dict[str, Any]:
        """What the search has reached: per limit the target, what an export would cost, the dense cost; widths; moved
        gates.
        """
        mask = self._landed()
        now = self.method.open()
        return {
            "budget": [
                {
                    "kind": limit.kind,
                    "target": limit.target,
                    "achieved": limit.cost.at(mask),
                    "dense": limit.dense,
                    "open": limit.cost.at(now),
                }
                for limit in self.limits.each
            ],
            "closed_by_export": int((now & ~mask).sum()),
            "reopened_by_export": int((~now & mask).sum()),
            "widths": self.signature.architecture(mask).widths(),
            "frozen": {axis.name: axis.frozen for axis in self.signature.axes if not axis.prunable},
        }

    def numbers(self) -> dict[str, float]:
        """How far the search is: open channels, and per limit the cost of the open channels and that of an export
        now.
        """
        now, landed = self.method.open(), self._landed()
        found: dict[str, float] = {"open": int(now[self.method.problem.free].sum())}
        for limit in self.limits.each:
            found[limit.kind] = limit.cost.at(now)
            found[f"export_{limit.kind}"] = limit.cost.at(landed)
        return found

    def status(self) -> dict[str, str]:
        """`numbers` in a few words, for a progress bar."""
        numbers = self.numbers()
        words = {"open": f"{numbers['open']}/{len(self.method.problem.free)}"}
        for limit in self.limits.each:
            words[limit.kind] = f"{human(numbers[limit.kind])} of {human(limit.target)}"
            words["export"] = human(numbers[f"export_{limit.kind}"])
        return words

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Everything that a resumed search needs: the network with its gates, and the method's state."""
        return {"model": self.model.state_dict(), "method": self.method.state_dict()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take back what `state_dict` gave."""
        self.model.load_state_dict(state["model"])
        self.method.load_state_dict(state["method"])


def _searched(signature: Signature, keep: tuple[str, ...]) -> tuple[Axis, ...]:
    """The axes that may be sliced and are not to be kept whole. A pattern that matches nothing is an error."""
    used: set[str] = set()

    def kept(axis: Axis) -> bool:
        places = [axis.name, *(slot.parameter for slot in axis.slots)]
        hits = {p for p in keep if any(fnmatch.fnmatchcase(place, p) or place.startswith(p + ".") for place in places)}
        used.update(hits)
        return bool(hits)

    axes = tuple(axis for axis in signature.prunable if not kept(axis))
    missing = [pattern for pattern in keep if pattern not in used]
    if missing:
        raise PasError(f"keep={missing[0]!r} matches no axis or module; `pas inspect` lists the axes")
    if not axes:
        raise PasError("no axis is left to search: every one is frozen or kept whole")
    return axes


def _settle(model: nn.Module, signature: Signature, mask: np.ndarray) -> None:
    """A norm of an identity branch that reads dropped channels was trained as a norm of zeros, whose mean is zero."""
    with torch.no_grad():
        for item in typed_blocks(model, signature).values():
            if item.block.identity is not None and item.reads is not None:
                off = ~rows(flat_input(item), mask, item.block.main.in_channels)
                item.block.identity.get_buffer("running_mean")[torch.from_numpy(np.flatnonzero(off))] = 0
