"""Networks that are a chain: convolutions with ReLUs, a mean over the image, a classifier. A searched RepVGG is one once it is fused."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from pas.axes.capture import arguments, capture, packet

aten = torch.ops.aten
LETTERS = {
    aten.conv2d: "c", aten.relu: "r", aten.relu_: "r", aten.adaptive_avg_pool2d: "p", aten.mean: "p", aten.flatten: "f", aten.view: "f",
    aten.reshape: "f", aten.dropout: "d", aten.linear: "l",
}  # fmt: skip
CHAIN = re.compile(r"(cr)+p[fd]*l")


@dataclass(frozen=True)
class Chain:
    """`convolutions`: the name of the module, stride, padding and groups of each, in order. `classifier`: the name of the linear layer."""

    convolutions: tuple[tuple[str, int, int, int], ...]
    classifier: str


def chain_of(network: nn.Module, example: Tensor) -> Chain | None:
    """What a network is a chain of; None when it is something else. Widths and kernels are in the shapes of the weights."""
    program = capture(network, example)
    (image,) = program.inputs
    nodes = _line(image)
    word = "".join(LETTERS.get(packet(node), "?") for node in nodes)
    if not CHAIN.fullmatch(word) or not all(_whole_map(node) for node, letter in zip(nodes, word, strict=True) if letter == "p"):
        return None
    layers = [_layer(node, program.tensors) for node, letter in zip(nodes, word, strict=True) if letter in "cl"]
    if None in layers:
        return None
    *convolutions, classifier = (layer for layer in layers if layer is not None)
    return Chain(tuple(convolutions), classifier[0])


def _line(start: fx.Node) -> list[fx.Node]:
    """The operators from the input to the output, as far as each is read by one alone."""
    nodes: list[fx.Node] = []
    users = list(start.users)
    while len(users) == 1 and users[0].op != "output":
        nodes.append(users[0])
        users = list(users[0].users)
    return nodes if len(users) == 1 else []


def _whole_map(pool: fx.Node) -> bool:
    """Whether a pool takes the mean over the whole image."""
    sizes = arguments(pool, 2)[1] or ()
    if packet(pool) is aten.mean:
        return {dim % 4 for dim in sizes} == {2, 3}
    return set(sizes) == {1}


def _layer(node: fx.Node, tensors: dict[fx.Node, str]) -> tuple[str, int, int, int] | None:
    """The name, stride, padding and groups of a layer; None where one number doesn't say it, or the layer has no bias of its own."""
    _, weight, bias, stride, padding, dilation, groups = arguments(node, 7)
    name = tensors.get(weight, "").removesuffix(".weight")
    numbers = [_one(stride, 1), _one(padding, 0), _one(dilation, 1)]
    if not name or tensors.get(bias) != f"{name}.bias" or None in numbers or numbers[2] != 1:
        return None
    return name, numbers[0] or 1, numbers[1] or 0, groups or 1


def _one(value: object, default: int) -> int | None:
    """Both sides' number, if it is one."""
    if value is None:
        return default
    sides = set(value) if isinstance(value, (list, tuple)) else {value}
    (side, *others) = sides
    return side if not others and isinstance(side, int) else None
