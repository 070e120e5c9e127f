"""The trained dense parent in its folder, shared by all runs that start from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import nn

from pas.disk import digest, parse_json, write_bytes
from pas.errors import PasError
from pas.order import TRAINED
from pas.runs import Run

WEIGHTS, ABOUT = "model.safetensors", TRAINED


@dataclass(frozen=True)
class Parent:
    """The dense network with its weights, its top-1 in percent on the split that results are measured on, and the seconds
    that its training took.
    """

    network: nn.Module
    top1: float
    seconds: float


def is_trained(folder: Path) -> bool:
    """Whether the training has come to its end: its numbers are written last."""
    return (folder / ABOUT).exists()


def write_parent(run: Run, network: nn.Module, about: dict[str, Any]) -> None:
    """Keep a trained parent for all runs; its numbers come last, with the digest of its weights."""
    if run.writes:
        content = to_bytes({name: tensor.cpu().contiguous().clone() for name, tensor in network.state_dict().items()})
        write_bytes(run.folder / WEIGHTS, content)
        run.write_json(ABOUT, {**about, "sha256": digest(content)})


def read_parent(folder: Path, network: nn.Module) -> Parent:
    """Read a parent back into `network`. Raises PasError when its files are damaged."""
    try:
        about = parse_json((folder / ABOUT).read_bytes())
        content = (folder / WEIGHTS).read_bytes()
        if about.get("sha256", digest(content)) != digest(content):
            raise ValueError(f"{WEIGHTS} isn't what was saved")
        network.load_state_dict(from_bytes(content))
        return Parent(network, float(about["top1"]), float(about["seconds"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise PasError(f"the dense parent {folder} can't be read ({reason}); delete that folder to train it anew") from error
