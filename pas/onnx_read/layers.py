"""Operators with weights, pools and norms: layers of torch."""

from __future__ import annotations

import math
import operator as op
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from pas.onnx_read.dimensions import padded
from pas.onnx_read.table import Node, operator

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
INSTANCE_NORMS = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}
LINEAR = {3: "linear", 4: "bilinear", 5: "trilinear"}
GLOBAL = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
GLOBAL_MAX = {1: nn.AdaptiveMaxPool1d, 2: nn.AdaptiveMaxPool2d, 3: nn.AdaptiveMaxPool3d}


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
        return strides, dilations, list(zip(pads[: len(kernel)], pads[len(kernel) :], strict=True)) if auto == "NOTSET" else [(0, 0)] * len(kernel)
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
        pairs = []
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
        if c is None or c.numel() in (1, out) and tuple(c.shape) in ((), (1,), (out,), (1, out), (1, 1)):
            form = "as it is" if turn_b and alpha == 1 else f"{alpha} {turn_b}"
            weight = node.weight(1, form, lambda t: alpha * (t if turn_b else t.t()) if alpha != 1 else (t if turn_b else t.t()))
            bias = None if c is None else node.weight(2, f"bias {out} {beta}", lambda t: (beta * t).expand(1, out).reshape(out) if t.dim() < 2 or t.shape[1] == 1 else (beta * t).reshape(out))
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


# ---- norms -----------------------------------------------------------------------------------------------------------


@operator("BatchNormalization")
def batch_norm(node: Node) -> Any:
    """nn.BatchNorm1d, 2d or 3d with the file's statistics."""
    node.only("training_mode", 0)
    eps, momentum = node.attribute("epsilon", 1e-5), node.attribute("momentum", 0.9)
    weight = node.constant(1)
    if node.rank() not in NORMS:
        raise node.error(f"its input has {node.rank()} dimensions; 2 to 5 are known")
    module = NORMS[node.rank()](len(weight), eps, 1 - momentum, device="meta", dtype=weight.dtype)
    statistics = {"running_mean": node.constant(3).clone(), "running_var": node.constant(4).clone(), "num_batches_tracked": torch.tensor(0)}
    return node.layer(module, {"weight": node.weight(1), "bias": node.weight(2), **statistics}, node.tensor(0), weight=1)


@operator("InstanceNormalization")
def instance_norm(node: Node) -> Any:
    """nn.InstanceNorm1d, 2d or 3d."""
    weight = node.constant(1)
    space(node)
    module = INSTANCE_NORMS[node.rank()](len(weight), node.attribute("epsilon", 1e-5), affine=True, device="meta", dtype=weight.dtype)
    return node.layer(module, {"weight": node.weight(1), "bias": node.weight(2)}, node.tensor(0), weight=1)


@operator("LayerNormalization")
def layer_norm(node: Node) -> Any:
    """nn.LayerNorm over the last dimensions."""
    node.only("stash_type", 1)
    weight, axis = node.constant(1), node.attribute("axis", -1) % node.rank()
    sizes = node.shapes()[0][axis:]
    module = nn.LayerNorm(sizes, node.attribute("epsilon", 1e-5), bias=node.has(2), device="meta", dtype=weight.dtype)
    full = f"over {tuple(sizes)}"
    tensors = {"weight": node.weight(1, full, lambda t: t.expand(sizes)), "bias": node.weight(2, full, lambda t: t.expand(sizes))}
    return node.layer(module, tensors, node.tensor(0), weight=1)


@operator("RMSNormalization")
def rms_norm(node: Node) -> Any:
    """nn.RMSNorm over the last dimensions."""
    node.only("stash_type", 1)
    weight, axis = node.constant(1), node.attribute("axis", -1) % node.rank()
    sizes = node.shapes()[0][axis:]
    module = nn.RMSNorm(sizes, node.attribute("epsilon", 1e-5), device="meta", dtype=weight.dtype)
    return node.layer(module, {"weight": node.weight(1, f"over {tuple(sizes)}", lambda t: t.expand(sizes))}, node.tensor(0), weight=1)


@operator("GroupNormalization")
def group_norm(node: Node) -> Any:
    """nn.GroupNorm; before version 21 a group's channels share weight and bias."""
    node.only("stash_type", 1)
    weight, groups, channels = node.constant(1), node.attribute("num_groups"), node.shapes()[0][1]
    module = nn.GroupNorm(groups, channels, node.attribute("epsilon", 1e-5), device="meta", dtype=weight.dtype)
    repeat = channels // len(weight)
    tensors = {name: node.weight(i, f"times {repeat}", lambda t: t.repeat_interleave(repeat)) for i, name in ((1, "weight"), (2, "bias"))}
    return node.layer(module, tensors, node.tensor(0), weight=1)


@operator("LRN")
def local_response_norm(node: Node) -> Any:
    """nn.LocalResponseNorm; torch counts an even number of channels from another side."""
    size = node.attribute("size")
    if size % 2 == 0:
        raise node.error(f"size={size}, but only odd sizes mean the same in torch")
    return node.layer(nn.LocalResponseNorm(size, node.attribute("alpha", 1e-4), node.attribute("beta", 0.75), node.attribute("bias", 1.0)))


@operator("Dropout")
def dropout(node: Node) -> Any:
    """nn.Dropout, which does nothing in eval mode."""
    node.attribute("seed")
    if node.has(2) and bool(node.constant(2)):
        raise node.error("it drops values in inference too; write the file in eval mode")
    ratio = node.attribute("ratio", 0.5) if node.version < 12 else float(node.constant(1)) if node.has(1) else 0.5
    return node.layer(nn.Dropout(ratio))


# ---- pools -----------------------------------------------------------------------------------------------------------


@operator("MaxPool")
def max_pool(node: Node) -> Any:
    """The largest element of every window."""
    node.only("storage_order", 0)
    kernel, ceil = node.attribute("kernel_shape"), bool(node.attribute("ceil_mode", 0))
    strides, dilations, pads = windows(node, kernel)
    x = node.tensor(0)
    plain = all(before == after <= k // 2 for (before, after), k in zip(pads, kernel, strict=True))
    if not plain:
        if not node.dtype().is_floating_point:
            raise node.error("it pads integers unevenly; use floating-point numbers")
        x, pads = padded(node, x, pads, -math.inf), [(0, 0)] * len(kernel)
    module = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[space(node) - 1]
    padding = tuple(before for before, _ in pads)
    return node.layer(module(tuple(kernel), tuple(strides), padding, tuple(dilations), ceil_mode=ceil), {}, x)


@operator("AveragePool")
def average_pool(node: Node) -> Any:
    """The mean of every window; padded elements count where the file says so."""
    kernel, ceil, count = node.attribute("kernel_shape"), bool(node.attribute("ceil_mode", 0)), bool(node.attribute("count_include_pad", 0))
    strides, dilations, pads = windows(node, kernel)
    if any(dilation != 1 for dilation in dilations):
        raise node.error(f"dilations={dilations}, but torch averages over connected windows only")
    x, dims = node.tensor(0), space(node)
    make = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[dims - 1]
    if all(before == after <= k // 2 for (before, after), k in zip(pads, kernel, strict=True)):
        padding = tuple(before for before, _ in pads)
        return node.layer(make(tuple(kernel), tuple(strides), padding, ceil, count), {}, x)
    if ceil:
        raise node.error("it pads unevenly and rounds up; write the padding as a layer of its own")
    module = make(tuple(kernel), tuple(strides), 0, False, True)
    mean = node.layer(module, {}, padded(node, x, pads))
    if count:
        return mean
    one, other = node.shapes()
    if one[2:] != other[2:]:
        raise node.error("its padding needs the size of the image, which the file leaves free: give it (shape=)")
    flat = [width for pair in reversed(pads) for width in pair]
    share = module(F.pad(torch.ones(1, 1, *one[2:], dtype=node.dtype()), flat))  # of each window that is not padding
    return node.b.call(torch.mul, mean, node.b.load(node.b.constant(share.reciprocal(), f"{node.outputs[0]}.scale"), learnt=False))


@operator("GlobalAveragePool")
def global_average(node: Node) -> Any:
    """One mean a channel."""
    return node.layer(GLOBAL[space(node)](1))


@operator("GlobalMaxPool")
def global_max(node: Node) -> Any:
    """One maximum a channel."""
    return node.layer(GLOBAL_MAX[space(node)](1))


@operator("LpPool")
def lp_pool(node: Node) -> Any:
    """(sum |x|^p)^(1/p) of every window."""
    kernel, p, ceil = node.attribute("kernel_shape"), node.attribute("p", 2), bool(node.attribute("ceil_mode", 0))
    strides, dilations, pads = windows(node, kernel)
    if any(dilation != 1 for dilation in dilations):
        raise node.error(f"dilations={dilations}, but torch sums over connected windows only")
    power = node.b.call(op.pow, node.b.call(torch.abs, padded(node, node.tensor(0), pads)), p)
    pool = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[space(node) - 1](tuple(kernel), tuple(strides), 0, ceil)
    total = node.b.call(op.mul, node.layer(pool, {}, power), math.prod(kernel))
    return node.b.call(op.pow, total, 1 / p)


# ---- other sizes -----------------------------------------------------------------------------------------------------


@operator("Resize")
def resize(node: Node) -> Any:
    """F.interpolate, where torch samples as the file asks for."""
    node.only("antialias", 0)
    node.only("exclude_outside", 0)
    node.only("keep_aspect_ratio_policy", "stretch")
    node.attribute("extrapolation_value", 0.0)  # for tf_crop_and_resize only
    mode, cubic = node.only("mode", "nearest", "linear", "cubic"), abs(node.attribute("cubic_coeff_a", -0.75) + 0.75) < 1e-6
    where = node.only("coordinate_transformation_mode", "half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
    rounding = node.attribute("nearest_mode", "round_prefer_floor")
    scales, sizes, old, dims = None, None, node.shape(), node.rank()
    axes = [axis % dims for axis in node.attribute("axes", list(range(dims)))]
    if node.has(2) and node.constant(2).numel():
        given = dict(zip(axes, node.constant(2).tolist(), strict=True))
        full: list[Any] = [given.get(d, 1.0) for d in range(dims)]
        images, scales = full[:2] == [1, 1], full[2:]
        whole = all(scale.is_integer() for scale in scales)
        clean = all((size * scale).is_integer() for size, scale in zip(node.shapes()[0][2:], scales, strict=True))
    else:
        wanted = dict(zip(axes, node.ints(3), strict=True))
        full = [wanted.get(d, n) for d, n in enumerate(old)]
        images, sizes = all(n is m or n == m for n, m in zip(full[:2], old[:2], strict=True)), full[2:]
        whole, clean = all(type(n) is int and n % m == 0 for n, m in zip(sizes, node.shapes()[0][2:], strict=True)), True
    if not images or dims not in (3, 4, 5):
        raise node.error("it resizes examples or channels; only images can be resized")
    name, corners = {
        ("nearest", "asymmetric", "floor"): ("nearest", None),
        ("nearest", "half_pixel", "round_prefer_ceil"): ("nearest-exact", None),
        ("nearest", "half_pixel", "round_prefer_floor"): ("nearest" if whole else "", None),  # no place is in the middle of two
        ("linear", "half_pixel", rounding): (LINEAR[dims], False),
        ("linear", "pytorch_half_pixel", rounding): (LINEAR[dims] if sizes is None or 1 not in sizes else "", False),
        ("linear", "align_corners", rounding): (LINEAR[dims] if clean else "", True),
        ("cubic", "half_pixel", rounding): ("bicubic" if cubic and dims == 4 else "", False),
        ("cubic", "align_corners", rounding): ("bicubic" if cubic and dims == 4 and clean else "", True),
    }.get((mode, where, rounding), ("", None))
    if not name:
        raise node.error(f"torch doesn't resize by {mode}, {where}, {rounding}; use nearest, asymmetric and floor, or linear and half_pixel")
    return node.b.call(F.interpolate, node.tensor(0), size=sizes, scale_factor=scales, mode=name, align_corners=corners)
