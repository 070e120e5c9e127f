"""One operator as a torch module of its own, at given widths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pas.cost.operator_onnx import BINARY, ROW, UNARY, convolution
from pas.cost.operators import Key
from pas.errors import PasError

POOLS: dict[str, Callable[..., Tensor]] = {"max_pool2d": F.max_pool2d, "avg_pool2d": F.avg_pool2d}
MOVES = ("pixel_unshuffle", "roll", "repeat", "stack", "upsample_nearest2d", "upsample_bilinear2d")
SAYS_MORE: dict[str, Callable[[Tensor], Tensor]] = {
    "hardtanh": lambda x: F.hardtanh(x, 0, 6), "clamp": lambda x: x.clamp(0, 6), "mean": lambda x: x.mean(-1), "sum": lambda x: x.sum(-1),
    "adaptive_avg_pool2d": lambda x: x.mean(-1), "amax": lambda x: x.amax(-1), "softmax": lambda x: x.softmax(-1),
    "transpose": lambda x: x.transpose(1, 2).contiguous(), "permute": lambda x: x.transpose(1, 2).contiguous(),
    "pixel_shuffle": lambda x: x.transpose(1, 2).contiguous(), "pow": torch.square, "constant_pad_nd": lambda x: F.pad(x, (0, 1)),
    "pad": lambda x: F.pad(x, (0, 1)), "batch_norm": lambda x: F.batch_norm(x, x.new_zeros(x.shape[1]), x.new_ones(x.shape[1])),
    "group_norm": lambda x: F.group_norm(x, 1), "instance_norm": F.instance_norm, "neg": torch.neg, "abs": torch.abs, "exp": torch.exp,
    "sqrt": torch.sqrt, "square": torch.square, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "rsqrt": torch.rsqrt,
    "clamp_min": torch.relu, "linalg_vector_norm": lambda x: torch.linalg.vector_norm(x, dim=-1),
    **dict.fromkeys(MOVES, lambda x: x.mT.contiguous()),
}  # fmt: skip
"""Operators of one tensor that torch.nn.functional doesn't have under that name, or that need more than it."""


class Alone(nn.Module):
    """A function of a tensor with the tensors that it holds."""

    def __init__(self, function: Callable[..., Tensor], held: tuple[Tensor, ...], fused: str = "") -> None:
        super().__init__()
        self.function, self.fused = function, unary(fused) if fused else None
        self.held = nn.ParameterList([nn.Parameter(tensor, requires_grad=False) for tensor in held])

    def forward(self, x: Tensor) -> Tensor:
        y = self.function(x, *self.held)
        return y if self.fused is None else self.fused(y)


def torch_module(key: Key, widths: tuple[int, ...], batch: int, device: str) -> tuple[nn.Module, Tensor]:
    """A module of this operator alone on a device, and its input. Raises PasError for one that nobody has said how to build."""
    generator = torch.Generator(device).manual_seed(0)
    draw = lambda *sizes: torch.randn(*sizes, generator=generator, device=device)  # noqa: E731
    if key.kind == "linear":
        return Alone(F.linear, (draw(widths[1], widths[0]), draw(widths[1])), key.fused), draw(batch * key.size[0], widths[0])
    if key.kind in ("conv", "depthwise", "grouped"):
        groups, reads, makes = convolution(key, widths)
        convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(key.kernel)]
        sides: dict[str, Any] = {"stride": key.stride, "padding": key.padding, "dilation": key.dilation, "groups": groups}
        held = (draw(makes, reads, *key.kernel), draw(makes))
        return Alone(lambda x, w, b: convolve(x, w, b, **sides), held, key.fused), draw(batch, groups * reads, *key.size)
    if key.kind in POOLS:
        pool = POOLS[key.kind]
        return Alone(lambda x: pool(x, key.kernel, key.stride, key.padding), ()), draw(batch, widths[0], *key.size)
    if key.kind == "matmul":
        number, m, k, n = widths
        return Alone(torch.matmul, (draw(batch * number, k, n),)), draw(batch * number, m, k)
    if key.kind == "scaled_dot_product_attention":
        (heads, size), (queries, keys) = widths, key.size
        held = (draw(batch, heads, keys, size), draw(batch, heads, keys, size))
        return Alone(F.scaled_dot_product_attention, held), draw(batch, heads, queries, size)
    if key.kind == "layer_norm":
        length = widths[1]
        return Alone(lambda x, w, b: F.layer_norm(x, (length,), w, b), (draw(length), draw(length))), draw(batch * widths[0], length)
    rows = max(1, widths[0] // (2 * ROW if key.kind == "cat" else ROW))
    x = draw(batch, rows, ROW)
    if key.kind == "cat":
        return Alone(lambda x, v: torch.cat([x, v], 1), (draw(batch, rows, ROW),)), x
    if key.kind in BINARY:
        return Alone(getattr(torch, key.kind), (draw(batch, rows, ROW),)), x
    return Alone(unary(key.kind), ()), x


def unary(kind: str) -> Callable[[Tensor], Tensor]:
    """An operator of one tensor by its name."""
    if kind not in UNARY:
        raise PasError(f"no way is known to time {kind!r} alone: say how in pas.cost.operator_torch")
    return SAYS_MORE[kind] if kind in SAYS_MORE else getattr(F, kind)
