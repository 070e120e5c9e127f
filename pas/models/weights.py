"""Weights from a file of somebody else's, read as data only."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pas.errors import PasError


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Fill `model` from a `.safetensors` file or a torch checkpoint.

    A checkpoint is a state dict, or a dict that holds one under 'state_dict' or 'model'; keys may begin with 'module.'.

    Raises:
        PasError: the file is missing, holds no weights, or those of another network.
    """
    path = Path(path)
    if not path.is_file():
        raise PasError(f"no weights at {path}: give the path of a .safetensors file or of a torch checkpoint")
    try:
        found = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
        state: Any = next((found[key] for key in ("state_dict", "model") if key in found), found)
        state = {key.removeprefix("module."): value for key, value in state.items()}
        reason = None
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            reason = _difference(model, state) or str(error).splitlines()[-1].strip()
    except Exception as error:  # torch.load answers a damaged or foreign file with nearly any exception
        reason = f"it can't be read as a checkpoint ({type(error).__name__}: {(str(error).splitlines() or [''])[0].strip()})"
    if reason is not None:
        raise PasError(f"{path} doesn't hold the weights of this {type(model).__name__}: {reason}")


def _difference(model: nn.Module, state: Mapping[str, Tensor]) -> str | None:
    """In what the weights don't fit the network, in one line; None when they do."""
    wanted = model.state_dict()
    missing = [name for name in wanted if name not in state and not name.endswith("num_batches_tracked")]  # torch fills these in
    foreign = [name for name in state if name not in wanted]
    if missing or foreign:
        words = [f"{which} {names[0]} (and {len(names) - 1} more)" if len(names) > 1 else f"{which} {names[0]}"
                 for which, names in (("missing", missing), ("not in the network", foreign)) if names]  # fmt: skip
        return "; ".join(words)
    shapes = [(name, tuple(state[name].shape), tuple(wanted[name].shape)) for name in wanted if name in state]
    differing = [(name, there, here) for name, there, here in shapes if there != here]
    if not differing:
        return None
    name, there, here = differing[0]
    last = list(wanted)[-2:]  # a classifier's weight and bias
    if all(name in last for name, *_ in differing) and there[1:] == here[1:]:
        return f"they tell {there[0]} classes apart, the data has {here[0]} ({name})"
    return f"{name} is {_size(there)} there and {_size(here)} in the network"


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a number"
