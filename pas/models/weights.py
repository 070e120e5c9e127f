"""Weights from a file of somebody else's, read as data only."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

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
        model.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
    except Exception as error:  # torch.load answers a damaged or foreign file with nearly any exception
        reason = (str(error).strip() or type(error).__name__).splitlines()
        raise PasError(
            f"{path} doesn't hold the weights of this {type(model).__name__}: {reason[min(1, len(reason) - 1)].strip()}"
        ) from error
