"""Search in anybody's training loop: wrap a network, train it, take a smaller one out."""

from __future__ import annotations

import copy
import difflib
import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from torch import Tensor, nn

from pas import distributed, standing
from pas.allocate.gap import Gap, gap
from pas.allocate.landing import Widths, land
from pas.allocate.snapping import steps as steps_of
from pas.architecture import Architecture
from pas.axes.capture import Example
from pas.axes.signature import Axis, Signature
from pas.beside import Beside, timing_of_all
from pas.budget import Budget, Limit, Limits, limits
from pas.cost.conditions import Conditions
from pas.cost.latency import Latency
from pas.cost.macs import Cost, build
from pas.cost.measure import Ratio
from pas.criteria import Batch, Loss
from pas.errors import PasError
from pas.methods import DEFAULTS, Option, Problem, named
from pas.shrinking import needed, positions
from pas.surgery.forms import settle, signature
from pas.surgery.fuse import fuse, merged
from pas.surgery.slice import slice
from pas.timing import Timing
from pas.verify import Held, Verified, latency_state, verify, with_latency_state

SNAPS = ("hardware", "none")


class Search:
    """Learn which channels of every layer to keep, under a budget.

    >>> search = Search(model, example, budget=Budget(macs=0.5), steps=2000)
    >>> optimizer = torch.optim.SGD(search.param_groups(lr=0.02, weight_decay=1e-4), momentum=0.9)
    >>> loss = criterion(search.model(x), y) + search.penalty()
    >>> loss.backward(); optimizer.step(); optimizer.zero_grad(); search.step()
    >>> small = search.export()

    `example`: a tensor (N, ...), a tuple of inputs or a dict of keyword inputs. `steps`: optimiser steps of the search.
    `conditions`: under which latency is limited (ONNX Runtime, one example and one thread, unless said otherwise; on a GPU torch). `table`:
    a latency table of `pas profile`; without one it is measured now, once for each network, in the user's cache. `snap`: "hardware" keeps
    widths to the steps that the table shows, where latency is limited; "none" doesn't. `progress`: where to say how far measuring is.

    `start`: an architecture to start from; its channels are open at first, and preferred. `keep`: patterns of axes, or of
    modules whose axes stay whole (their name, or the start of a parameter's path, with * and ?). `min_width`: no axis falls
    below so many channels. `round_to`: widths are multiples of this (or the full width). Other options are the method's own
    (`pas.methods.DEFAULTS`). The network handed in is left as it is: the search trains a copy.

    `signature` is that of the network handed in, in which `architecture` is written; `current` that of the network as it is
    now, which is smaller after `shrink`.

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
        start: Architecture | None = None,
        conditions: Conditions | None = None,
        table: Path | None = None,
        snap: str = "hardware",
        progress: Console | None = None,
        **options: Option,
    ) -> None:
        if not isinstance(budget, Budget):
            raise PasError(f"budget={budget!r}: write budget=pas.Budget(macs=0.5)")
        made = named(method)
        unknown = [name for name in options if name not in DEFAULTS[method]]
        if unknown:
            near = difflib.get_close_matches(unknown[0], DEFAULTS[method], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "; options are keywords here: round_to=4" if unknown[0] == "options" else ""
            raise PasError(f"method {method!r} has no option {unknown[0]!r}{hint}")
        for name, value in (("steps", steps), ("min_width", min_width), ("round_to", round_to)):
            if value < 1:
                raise PasError(f"{name} must be at least 1, not {value}")
        if snap not in SNAPS:
            raise PasError(f"snap={snap!r}: choose from {', '.join(SNAPS)}")
        self.signature: Signature = signature(model, example)
        axes = _searched(self.signature, tuple(keep))
        least = tuple(min(min_width, axis.size) for axis in axes)
        self.widths = Widths(axes, least, round_to, self.signature.channels)
        self.timing: Timing | None = None
        self.beside: Beside | None = None
        if budget.latency is not None:
            on_gpu = next(model.parameters()).is_cuda
            chosen = conditions or (Conditions("torch", device="cuda") if on_gpu else Conditions())
            self.timing = timing_of_all(model, self.signature, chosen, table, progress or Console(stderr=True))
            self.beside = Beside(model, self.signature, chosen)
            if snap == "hardware":
                self.widths = replace(self.widths, snapped=steps_of(self.widths, self.timing.predicted(self.signature)))
        self.verified: Verified | None = None
        lowest = self.widths.mask(
            [np.arange(axis.size) for axis in axes], [self.widths.ladder(a)[0] for a in range(len(axes))]
        )
        self.limits = limits(budget, self.signature, lowest, self.timing)
        self.current = self.signature
        self._origin = np.arange(self.signature.channels)  # of each channel of `current` its position in `signature`
        self._make = lambda problem: made(problem, **{**DEFAULTS[method], **options})  # type: ignore[arg-type]
        opened = None if start is None else self.signature.mask(start)
        self.method = self._make(Problem(self.signature, self.limits, self.widths, steps, opened))
        self.model = self.method.wrap(copy.deepcopy(merged(model)))
        self.model.to(next(model.parameters()).device)

    @property
    def backbone(self) -> nn.Module:
        """The network inside, with the weights as trained so far and all channels present."""
        return self.model.get_submodule("backbone")

    def param_groups(self, lr: float, weight_decay: float, *, decay_norms: bool = False) -> list[dict[str, Any]]:
        """Groups for any torch optimiser: weights that decay, norms and biases that don't (unless `decay_norms`), and the
        method's own parameters.
        """
        groups = self.method.groups(lr, weight_decay)
        own = {id(p) for group in groups for p in group["params"]} | {id(self.method.gates.value)}
        trained = [p for p in self.model.parameters() if p.requires_grad and id(p) not in own]
        return [
            {"params": [p for p in trained if p.dim() > 1], "lr": lr, "weight_decay": weight_decay},
            {"params": [p for p in trained if p.dim() <= 1], "lr": lr, "weight_decay": weight_decay * decay_norms},
            *groups,
        ]

    def calibrate(self, batches: Iterable[Batch], loss: Loss) -> None:
        """Show data to a method before the first step: `taylor` needs it, `pas` judges channels better with it, `pas_paper` ranks the
        initial values of its gates by it where they are spread; others ignore it.

        `batches`: pairs (x, y) as in training. `loss`: (network, x, y) -> mean loss.
        """
        self.method.calibrate(batches, loss)

    def penalty(self) -> Tensor:
        """To be added to the loss."""
        return self.method.penalty()

    def step(self) -> None:
        """To be called after every step of the optimiser: masks, multiplier, revival, whatever the method needs."""
        self.method.step()

    def landed(self) -> np.ndarray:
        """The channels that an export would keep now, booleans over all channels."""
        return self._landed_under(self.limits)

    def verify(self) -> Verified | None:
        """Measure the latency of what an export would be beside the dense network's, and correct the prediction until the budget holds as
        measured. Nothing happens where latency isn't limited, or these channels were measured already. `export` does it by itself.
        """
        if self.timing is None:
            return None
        if self.verified is None or not np.array_equal(self.verified.mask, self.landed()):
            self.recall(distributed.from_leader(self._verify))
        return self.verified

    def _verify(self) -> dict[str, Any]:
        limits, found = verify(self.limits, self._landed_under, self._measured, strict=self.method.lands)
        return self._as_record(limits, found)

    def record(self) -> dict[str, Any] | None:
        """What `verify` found, as plain data for `recall`; None when nothing was measured."""
        return None if self.verified is None else self._as_record(self.limits, self.verified)

    def _as_record(self, limits: Limits, found: Verified) -> dict[str, Any]:
        kept = np.flatnonzero(found.mask).tolist()
        return {"limit": latency_state(limits), "measured": found.as_dict(), "channels": kept}

    def recall(self, record: Mapping[str, Any]) -> None:
        """Take what an earlier `verify` found, as its `record` tells it, for measured. Raises PasError when it is of other channels."""
        self.relimit(with_latency_state(self.limits, record["limit"]))
        mask = self.landed()
        if np.flatnonzero(mask).tolist() != list(record["channels"]):
            raise PasError("what was measured of the searched network is of other channels than these gates land on: measure again")
        self.verified = Verified.of(mask, record["measured"])

    def relimit(self, limits: Limits) -> None:
        """Take limits on the same costs of which latency was measured anew."""
        self.limits = limits
        self.method.relimit(limits)

    def _landed_under(self, limits: Limits) -> np.ndarray:
        if not self.method.lands:
            return self._legal(self.method.open())
        return land(self.widths, self.method.scores(), limits.load, self.method.importance())

    def _measured(self, mask: np.ndarray) -> tuple[Ratio, float]:
        """The latency with these channels over that of the dense network, and that in ms."""
        assert self.beside is not None
        return self.beside.share(slice(self._settled(mask), self.current, self.current.architecture(mask)))

    def _legal(self, mask: np.ndarray) -> np.ndarray:
        """The mask with the best channel of every axis that would have none."""
        mask = mask.copy()
        for axis in self.widths.axes:
            part = np.s_[axis.start : axis.start + axis.size]
            if not mask[part].any():
                mask[axis.start + int(np.argmax(self.method.scores()[part]))] = True
        return mask

    @property
    def architecture(self) -> Architecture:
        """What an export would keep now: the gates nearest to their threshold closed or reopened until the budget
        holds.
        """
        return self.signature.architecture(self.lifted(self.landed()))

    @property
    def remaining(self) -> Architecture:
        """The same in the axes of the network as it is now."""
        return self.current.architecture(self.landed())

    def lifted(self, mask: np.ndarray) -> np.ndarray:
        """A mask over the channels of `current` as one over those of `signature`."""
        lifted = np.zeros(self.signature.channels, dtype=bool)
        lifted[self._origin[mask]] = True
        return lifted

    def settled(self) -> nn.Module:
        """A copy of the backbone as the method left it: with what it does to weights beside its gates, and without what a dropped channel
        did to running statistics.
        """
        return self._settled(self.landed())

    def _settled(self, mask: np.ndarray) -> nn.Module:
        backbone = copy.deepcopy(self.backbone)
        self.method.settle(backbone, mask)
        settle(backbone, self.current, mask)
        return backbone

    def slice(self) -> nn.Module:
        """The smaller network as it stands, re-parameterised blocks still in their training form."""
        return slice(self.settled(), self.current, self.remaining)

    def export(self) -> nn.Module:
        """A plain, fused, smaller network; valid at any moment (for `taylor` after `calibrate`).

        Where latency is limited, it is measured first (`verify`). The network lies in the band of the budget, but for methods that take
        widths as they are: `given`, `random`, `scratch`, and `pas_paper` with ``land=0``.
        """
        self.verify()
        return fuse(self.slice())

    def shrink(self) -> Search:
        """A search over a smaller network, from which the channels that can't be expected back are gone, so that steps get cheaper.

        It goes on where this one stands: same weights, gates, budget and architecture so far. Its parameters are new ones, so
        make a new optimiser of its `param_groups`. Where nothing can be cut, or the network's own code holds numbers of
        channels that would be stale, this very search comes back.
        """
        keep = needed(self.widths, self.landed(), ~self.method.hopeless(), self.method.scores())
        if keep.all():
            return self
        backbone = copy.deepcopy(self.backbone)
        settle(backbone, self.current, keep)
        small = slice(backbone, self.current, self.current.architecture(keep))
        if type(small) is not type(backbone):
            return self
        now = signature(small, self.signature.example)
        position = positions(self.current, now, keep)
        if position is None:
            return self
        other = copy.copy(self)
        other.current, other._origin = now, self._origin[position]
        names = {axis.name: least for axis, least in zip(self.widths.axes, self.widths.least, strict=True)}
        axes = tuple(axis for axis in now.prunable if axis.name in names)
        least = tuple(min(names[a.name], a.size) for a in axes)
        other.widths = Widths(axes, least, self.widths.step, now.channels, self.widths.snapped)
        try:
            other.limits = Limits(tuple(replace(limit, cost=self._cost(now, limit)) for limit in self.limits.each))
        except PasError:  # a convolution of one group that is left is another operator, which the table doesn't have
            return self
        other.verified = None
        other.method = self._make(Problem(now, other.limits, other.widths, self.method.problem.steps))
        other.method.carry(self.method, np.searchsorted(self.method.problem.free, position[other.method.problem.free]))
        other.model = other.method.wrap(small)
        other.model.to(next(small.parameters()).device).train(self.model.training)
        return other

    def _cost(self, signature: Signature, limit: Limit) -> Cost | Latency:
        """The cost that a limit is on, of a smaller network."""
        if self.timing is None or not isinstance(limit.cost, Latency):
            return build(signature, limit.kind)
        return self.timing.predicted(signature).calibrated(limit.cost.calibration)

    def report(self) -> dict[str, Any]:
        """What the search has reached: per limit the target, what an export would cost, the dense cost, and what the open channels
        cost (`open`), latencies in ms and, once `verify` has measured it, with the share of the dense latency; the gates that the export
        would close or reopen, or that were when they came to rest; widths; the axes that stay whole, and why.
        """
        mask, now = self.landed(), self.method.open()
        closed, reopened = self.method.forced
        return {
            "budget": standing.limit_rows(self.limits, mask, now, self.verified),
            "closed_by_export": closed + int((now & ~mask).sum()),
            "reopened_by_export": reopened + int((~now & mask).sum()),
            "widths": self.signature.architecture(self.lifted(mask)).widths(),
            "frozen": {axis.name: axis.frozen for axis in self.signature.axes if not axis.prunable},
        }

    def numbers(self) -> dict[str, float]:
        """How far the search is: open channels, and per limit the cost of the open channels and that of an export now (latencies in ms)."""
        now = self.method.open()
        return {"open": int(now[self.method.problem.free].sum()), **standing.costs_now(self.limits, self.landed(), now)}

    def status(self) -> dict[str, str]:
        """`numbers` in a few words, for a progress bar."""
        numbers = self.numbers()
        return {"open": f"{numbers['open']}/{len(self.method.problem.free)}", **standing.in_words(self.limits, numbers)}

    def optimality(self) -> Gap | None:
        """What the widths of an export reach against the best ones within the budget, by the importances that the method ends with.

        None for a method without importances, and for networks in which too many axes meet.
        """
        worth = self.method.importance()
        return None if worth is None else gap(self.current, self.widths, worth, self.landed(), self.limits)

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Everything that a resumed search needs: the network with its gates, and the method's state."""
        state = {"model": self.model.state_dict(), "method": self.method.state_dict()}
        if self.timing is not None:  # what this search takes time to be, which another measurement would see otherwise
            state["latency"] = Held(self).state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take back what `state_dict` gave. A search that had shrunk is one that `shrink` gives: call it first, where it was called then.

        Raises PasError when the state is of a network of another size.
        """
        gates, saved = self.method.gates.value, state["model"].get("gates.value")
        if saved is None or saved.shape != gates.shape:
            found = "no gates" if saved is None else f"{len(saved)} gates"
            raise PasError(
                f"this state holds {found}, the search has {len(gates)}: make it with the same network and options, and where it had "
                "shrunk, call shrink() before loading"
            )
        if self.timing is not None and "latency" in state:
            Held(self).load_state_dict(state["latency"])
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
