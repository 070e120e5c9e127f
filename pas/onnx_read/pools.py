"""Pools, and images of another size."""

from __future__ import annotations

import math
import operator as op
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pas.onnx_read.layers import space, windows
from pas.onnx_read.pieces import padded
from pas.onnx_read.table import Node, operator

MAX: dict[int, Any] = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVERAGE: dict[int, Any] = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
GLOBAL: dict[int, Any] = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
GLOBAL_MAX: dict[int, Any] = {1: nn.AdaptiveMaxPool1d, 2: nn.AdaptiveMaxPool2d, 3: nn.AdaptiveMaxPool3d}
LINEAR = {3: "linear", 4: "bilinear", 5: "trilinear"}


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
    module = MAX[space(node)]
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
    make = AVERAGE[dims]
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
    pool = AVERAGE[space(node)](tuple(kernel), tuple(strides), 0, ceil)
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
        same = (type(full[0]) is int and full[0] == node.b.batch) or full[0] is old[0] or full[0] == old[0]
        images, sizes = same and full[1] == old[1], full[2:]
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
        raise node.error(f"torch doesn't resize by {mode}, {where}, {rounding}; use linear, half_pixel or nearest, asymmetric, floor")
    return node.b.call(F.interpolate, node.tensor(0), size=sizes, scale_factor=scales, mode=name, align_corners=corners)
