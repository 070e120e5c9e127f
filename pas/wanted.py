"""The network that a person names on the command line, and an input for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pas import models
from pas.errors import PasError
from pas.onnx_read.read import from_onnx, input_sizes


@dataclass(frozen=True)
class Wanted:
    """`name`: a timm name, or one of pas.models; or `entry`, `package.module:function` of a person's own network, which is called with
    num_classes and in_chans; or `onnx`, a file. `image_size`: pixels a side, None for the network's own.
    """

    name: str | None = None
    entry: str | None = None
    onnx: str | None = None
    image_size: int | None = None
    num_classes: int = 1000
    in_chans: int = 3

    @property
    def label(self) -> str:
        """The network in one word."""
        return self.entry or self.onnx or self.name or ""


def network(wanted: Wanted, device: str = "cpu") -> tuple[nn.Module, Tensor]:
    """The network with fresh weights (those of its ONNX file) and an input of one image of zeros.

    Raises PasError when there is no such network, when one's own comes without an image size, and for an ONNX file that has several inputs
    or leaves the size of its image free while there is no image size.
    """
    if wanted.onnx is not None:
        known = _of_file(wanted.onnx, wanted)
        return from_onnx(wanted.onnx, shape=known), torch.zeros(1, *known)
    if wanted.entry is not None:
        model = models.from_entry(wanted.entry, {"num_classes": wanted.num_classes, "in_chans": wanted.in_chans})
        if wanted.image_size is None:
            raise PasError("a network of your own needs the side of its image: --image-size PIXELS")
        return model, torch.zeros(1, wanted.in_chans, wanted.image_size, wanted.image_size)
    with torch.device(device):
        made: Any = models.create(wanted.label, num_classes=wanted.num_classes, in_chans=wanted.in_chans)
    size = wanted.image_size or made.pretrained_cfg["input_size"][-1]
    return made, torch.zeros(1, wanted.in_chans, size, size, device=device)


def _of_file(path: str, wanted: Wanted) -> list[int]:
    """The sizes of the only input of an ONNX file, without the batch."""
    inputs = input_sizes(path)
    if len(inputs) != 1:
        raise PasError(f"{path} has the inputs {', '.join(inputs)}; pas.signature takes an example of several, this command of one")
    sizes = next(iter(inputs.values())) or ["batch", wanted.in_chans, "height", "width"]
    chosen = [wanted.in_chans if d == 1 and len(sizes) == 4 else wanted.image_size for d in range(len(sizes))]
    shape = [size if isinstance(size, int) else free for size, free in zip(sizes, chosen, strict=True)][1:]
    if None in shape:
        raise PasError(f"{path} leaves the size of its image free: give its side, --image-size PIXELS")
    return [int(n) for n in shape if n is not None]
