"""The depth-wise binary gate of Pruning-as-Search (https://arxiv.org/abs/2206.01198, Figure 1).

One learnable scalar w a channel; forward ``b = 1 if w > 0.5 else 0``, backward ``db/dw = 1`` (straight through, no
window), so a closed channel keeps getting the gradient that can open it again.
"""

from __future__ import annotations

import torch
from torch import Tensor

THRESHOLD = 0.5


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, value: Tensor) -> Tensor:
        return (value > THRESHOLD).to(value.dtype)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        return gradient


def binary(value: Tensor) -> Tensor:
    """Exactly 0 or 1 in every dtype, any shape; the gradient passes through unchanged."""
    return _StraightThrough.apply(value)
