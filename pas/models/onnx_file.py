"""A classifier of images from an ONNX file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import fx, nn

from pas.errors import PasError
from pas.onnx_read.read import from_onnx, input_sizes
from pas.onnx_read.skeleton import renew


def from_file(source: str | Path | bytes, *, in_chans: int, image_size: int, fresh: bool = False) -> nn.Module:
    """The network in a file (or its bytes) for images (N, in_chans, image_size, image_size), in train mode.

    A network that takes its channels last is given them so. `fresh`: with new weights instead of those of the file.

    Raises:
        PasError: the file can't be read, or takes something else than such images.
    """
    name = "these bytes" if isinstance(source, bytes) else str(source)
    channels_last = _channels_last(name, input_sizes(source), in_chans, image_size)
    side = (image_size, image_size)
    network = from_onnx(source, shape=(*side, in_chans) if channels_last else (in_chans, *side))
    if channels_last:
        _channels_first(network)
    return (renew(network) if fresh else network).train()


def _channels_last(name: str, inputs: dict[str, list[int | str] | None], in_chans: int, image_size: int) -> bool:
    if len(inputs) != 1:
        raise PasError(f"{name} has the inputs {', '.join(inputs)}; a classifier of images has one")
    (sizes,) = inputs.values()
    wanted = (in_chans, image_size, image_size)
    if sizes is None or _fits(sizes[1:], wanted):
        return False
    if _fits(sizes[1:], (*wanted[1:], wanted[0])):
        return True
    said = " x ".join(map(str, sizes[1:]))
    size = next((n for n in sizes[2:] if isinstance(n, int) and n >= 4), None)
    hint = f"set data.image_size={size}" if size not in (None, image_size) else "choose data with such images"
    raise PasError(f"{name} takes images of {said}, but those of the data are {in_chans} x {image_size} x {image_size}: {hint}")


def _fits(sizes: list[int | str], wanted: tuple[int, ...]) -> bool:
    return len(sizes) == len(wanted) and all(isinstance(n, str) or n == m for n, m in zip(sizes, wanted, strict=True))


def _channels_first(network: fx.GraphModule) -> None:
    """Let a network that takes (N, H, W, C) take (N, C, H, W)."""
    graph = network.graph
    (image,) = (node for node in graph.nodes if node.op == "placeholder")
    with graph.inserting_after(image):
        turned = graph.call_function(torch.permute, (image, [0, 2, 3, 1]))
    image.replace_all_uses_with(turned, delete_user_cb=lambda user: user is not turned)
    for user in list(turned.users):
        if user.target is torch.permute and list(user.args[1]) == [0, 3, 1, 2]:  # type: ignore[arg-type]
            user.replace_all_uses_with(image)
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    network.recompile()
