"""Saving and restoring a training: which parts it has, where it stands, and whether a checkpoint is its own."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch

from pas.errors import PasError
from pas.train.checkpoint import Checkpoint, random_state, set_random_state
from pas.train.recipe import Recipe

HARDWARE_FIELDS = ("precision", "channels_last", "compile")  # these may differ: a run may go on elsewhere


class Stateful(Protocol):
    """Anything that has to be saved beside the network, such as a search."""

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> object: ...


@dataclass
class Position:
    """Optimiser steps done, seconds spent over all starts, and the last row's loss and top-1."""

    step: int
    seconds: float
    last: dict[str, float | None]


def identity(stage: str, steps: int, recipe: Recipe) -> dict[str, Any]:
    """What two starts of one training have in common."""
    settings = {name: value for name, value in asdict(recipe).items() if name not in HARDWARE_FIELDS}
    return {"stage": stage, "steps": steps, **settings}


def store(checkpoint: Checkpoint, whose: Mapping[str, Any], parts: Mapping[str, Stateful], position: Position) -> None:
    """Save the parts, the position and the random generators."""
    states = {name: part.state_dict() for name, part in parts.items()}
    checkpoint.save({"whose": whose, "position": vars(position), "parts": states, "random": random_state()})


def restore(checkpoint: Checkpoint, whose: Mapping[str, Any], parts: Mapping[str, Stateful]) -> Position | None:
    """Put the parts and the random generators back where the checkpoint has them; None when there is none.

    Raises:
        PasError: the checkpoint was written by a training with other settings, or doesn't fit the network.
    """
    saved = checkpoint.load()
    if saved is None:
        return None
    if saved["whose"] != dict(whose):
        names = [name for name, value in whose.items() if saved["whose"].get(name) != value]
        changes = ", ".join(f"{name} {saved['whose'].get(name)} -> {whose[name]}" for name in names)
        raise PasError(f"{checkpoint.folder} belongs to another training ({changes}): delete it or undo the change")
    try:
        for name, part in parts.items():
            part.load_state_dict(saved["parts"][name])
            if isinstance(part, torch.optim.Optimizer):
                _match_layout(part)
        set_random_state(saved["random"])
        return Position(**saved["position"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise PasError(f"{checkpoint.folder} doesn't fit this training ({reason}): delete it to start anew") from error


def _match_layout(optimizer: torch.optim.Optimizer) -> None:
    """Give each state tensor the memory format of its parameter again: another one may round differently."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
