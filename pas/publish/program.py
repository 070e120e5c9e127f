"""A network as a program of `torch.export` (.pt2): runs with torch alone, in eval mode, for any number of images of one size."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from pas.axes.capture import forget, in_mode, silent
from pas.disk import writing
from pas.errors import PasError, first_line
from pas.exactness import relative_error

EXACT = 1e-5  # in fp32; what is seen is 0


def export(network: nn.Module, example: Tensor, path: Path) -> None:
    """Write `network` to `path`, weights included; it is left as it was.

    Raises PasError when it can't be captured for every number of images, or what was written doesn't compute the same.
    """
    batch = torch.cat([example[:1], example[:1]])  # export would take a batch of one for a constant
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    try:
        with in_mode(forget(network), training=False), silent():
            program = torch.export.export(network, (batch,), dynamic_shapes=shapes, strict=False)
        for node in program.graph.nodes:  # the lines of code, by their paths on this machine
            node.meta.pop("stack_trace", None)
        with writing(path), silent():
            torch.export.save(program, path)
    except PasError:
        raise
    except Exception as error:  # the exporter raises many kinds
        raise PasError(f"this network can't be written as {path.name}: {first_line(error)}") from error
    found = _error(network, path, example)
    if not found <= EXACT:
        raise PasError(f"{path.name} computes something else than the network (it differs by {found:.1e}): please report it")


@torch.no_grad()
def _error(network: nn.Module, path: Path, example: Tensor) -> float:
    """By how much a program that was just written differs from the network, whatever the number of images: max |a - b| / max |a|."""
    with silent():
        again = torch.export.load(path).module()
    generator = torch.Generator().manual_seed(0)
    errors = []
    with in_mode(forget(network), training=False):
        for n in (1, 3):
            images = torch.randn(n, *example.shape[1:], generator=generator)
            a, b = network(images), again(images)
            errors.append(relative_error(a, b))
    return max(errors)
