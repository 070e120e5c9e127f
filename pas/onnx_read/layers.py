"""Convolutions and matrix products: layers of torch with weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from pas.onnx_read.pieces import padded
from pas.onnx_read.table import Node, operator

CONVOLUTIONS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def space(node: Node) -> int:
    """The number of dimensions after examples and channels: 1, 2 or 3."""
    found = node.rank() - 2
    if found not in (1, 2, 3):
        raise node.error(f"its input has {found + 2} dimensions; 3, 4 and 5 are known")
    return found


def windows(node: Node, kernel: list[int]) -> tuple[list[int], list[int], list[tuple[int, int]]]:
    """Strides, dilations and (before, after) paddings of a window that slides over the first input."""
    ones = [1] * len(kernel)
    strides, dilations = node.attribute("strides", ones), node.attribute("dilations", ones)
    pads, auto = node.attribute("pads", [0] * 2 * len(kernel)), node.only("auto_pad", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
    if auto in ("NOTSET", "VALID"):
        pads = pads if auto == "NOTSET" else [0] * 2 * len(kernel)
        return strides, dilations, list(zip(pads[: len(kernel)], pads[len(kernel) :], strict=True))
    found = []
    for sizes in node.shapes():
        pairs = []
        for size, k, stride, dilation in zip(sizes[2:], kernel, strides, dilations, strict=True):
            total = max(0, (-(-size // stride) - 1) * stride + (k - 1) * dilation + 1 - size)
            less, more = total // 2, total - total // 2
            pairs.append((less, more) if auto == "SAME_UPPER" else (more, less))
        found.append(pairs)
    if found[0] != found[1]:
        raise node.error(f"auto_pad={auto} needs the size of the image, which the file leaves free: give it (shape=)")
    return strides, dilations, found[0]


@operator("Conv")
def convolution(node: Node) -> Any:
    """nn.Conv1d, 2d or 3d."""
    weight, groups = node.constant(1), node.attribute("group", 1)
    kernel = list(weight.shape[2:])
    node.attribute("kernel_shape")  # the weight has it
    strides, dilations, pads = windows(node, kernel)
    even = all(before == after for before, after in pads)
    x = node.tensor(0) if even else padded(node, node.tensor(0), pads)
    padding = tuple(before for before, _ in pads) if even else 0
    module = CONVOLUTIONS[space(node)](
        weight.shape[1] * groups, weight.shape[0], tuple(kernel), tuple(strides), padding, tuple(dilations), groups, node.has(2),
        device="meta", dtype=weight.dtype,
    )  # fmt: skip
    return node.layer(module, {"weight": node.weight(1), "bias": node.weight(2)}, x, weight=1)


@operator("ConvTranspose")
def transposed_convolution(node: Node) -> Any:
    """nn.ConvTranspose1d, 2d or 3d; uneven paddings are cut off its result."""
    weight, groups = node.constant(1), node.attribute("group", 1)
    kernel = list(weight.shape[2:])
    node.attribute("kernel_shape")
    more = node.attribute("output_padding", [0] * len(kernel))
    auto, output = node.attribute("auto_pad", "NOTSET"), node.attribute("output_shape")
    strides, dilations = (node.attribute(name, [1] * len(kernel)) for name in ("strides", "dilations"))
    pads = node.attribute("pads", [0] * 2 * len(kernel))
    pairs = list(zip(pads[: len(kernel)], pads[len(kernel) :], strict=True)) if auto == "NOTSET" else [(0, 0)] * len(kernel)
    if output is not None or auto.startswith("SAME"):
        pairs.clear()
        for i, size in enumerate(node.shapes()[0][2:]):
            wanted = size * strides[i] if output is None else output[-len(kernel) :][i]
            total = strides[i] * (size - 1) + more[i] + (kernel[i] - 1) * dilations[i] + 1 - wanted
            less = total // 2
            pairs.append((less, total - less) if auto == "SAME_UPPER" else (total - less, less))
        if output is not None and node.shapes()[0][2:] != node.shapes()[1][2:]:
            raise node.error("output_shape needs the size of the image, which the file leaves free: give it (shape=)")
    even = all(before == after >= 0 for before, after in pairs)
    module = TRANSPOSED[space(node)](
        weight.shape[0], weight.shape[1] * groups, tuple(kernel), tuple(strides), tuple(a for a, _ in pairs) if even else 0,
        tuple(more), groups, node.has(2), tuple(dilations), device="meta", dtype=weight.dtype,
    )  # fmt: skip
    y = node.layer(module, {"weight": node.weight(1), "bias": node.weight(2)}, node.tensor(0), weight=1)
    return y if even else padded(node, y, [(-before, -after) for before, after in pairs])


@operator("Gemm")
def general_product(node: Node) -> Any:
    """alpha A B + beta C: nn.Linear, where B and C are constants."""
    alpha, beta = node.attribute("alpha", 1.0), node.attribute("beta", 1.0)
    turn_a, turn_b = node.attribute("transA", 0), node.attribute("transB", 0)
    b, c = node.tensor(1), node.tensor(2) if node.has(2) else None
    a = node.b.call(torch.t, node.tensor(0)) if turn_a else node.tensor(0)
    if isinstance(b, Tensor) and (c is None or isinstance(c, Tensor)) and isinstance(a, fx.Node):
        out, inner = tuple(b.shape) if turn_b else tuple(reversed(b.shape))
        if c is None or tuple(c.shape) in ((), (1,), (out,), (1, out), (1, 1)):
            form = "as it is" if turn_b and alpha == 1 else f"{alpha} {turn_b}"
            weight = node.weight(1, form, lambda t: alpha * (t if turn_b else t.t()))
            bias = node.weight(2, f"bias {beta}", lambda t: (beta * t).reshape(-1).expand(out))
            module = nn.Linear(inner, out, bias is not None, device="meta", dtype=b.dtype)
            return node.layer(module, {"weight": weight, "bias": bias}, a, weight=1)
    product = node.b.call(torch.matmul, a, node.b.call(torch.t, b) if turn_b else b)
    product = product if alpha == 1 else node.b.call(torch.mul, product, alpha)
    if c is None:
        return product
    return node.b.call(torch.add, product, c if beta == 1 else node.b.call(torch.mul, c, beta))


@operator("MatMul")
def product(node: Node) -> Any:
    """nn.Linear, where the right side is a constant matrix; an addition of a constant that follows is its bias."""
    x, weight = node.tensor(0), node.tensor(1)
    if not (isinstance(x, fx.Node) and isinstance(weight, Tensor) and weight.dim() == 2 and weight.is_floating_point()):
        return node.b.call(torch.matmul, x, weight)
    inner, out = weight.shape
    bias, follower = None, node.follower("Add")
    if follower is not None and isinstance(follower[0], Tensor) and tuple(follower[0].shape) == (out,):
        bias = node.b.parameter(follower[0], "as it is")
        follower[1]()
    module = nn.Linear(inner, out, bias is not None, device="meta", dtype=weight.dtype)
    return node.layer(module, {"weight": node.weight(1, "turned", lambda t: t.t()), "bias": bias}, x, weight=1)


@operator("Einsum")
def einsum(node: Node) -> Any:
    """Products and sums by letters."""
    return node.b.call(torch.einsum, node.attribute("equation"), *(node.tensor(i) for i in range(len(node))))
