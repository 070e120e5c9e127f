"""Gates beside which some norms are scaled down, as SMCP does (https://arxiv.org/abs/2211.02206, batch-norm scaling).

A layer that reads fewer channels has outputs of less variance, which a norm amplifies again: the gradients that reach the layer grow by as
much. So the norm runs with

    gamma_eff = s gamma,    dL/dgamma := dL/dgamma_eff / s,

s the share of the inputs that is left. A step of the optimiser that changes gamma by ``-lr dL/dgamma`` then changes gamma_eff by ``-lr
dL/dgamma_eff``: at the rate at which it would change without s.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from pas.axes.signature import Signature
from pas.gates.gated import Fold, Gated, Gates, other_places


class _Native(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return weight * factor

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (factor,) = ctx.saved_tensors
        return gradient / factor, None


def native(weight: Tensor, factor: Tensor) -> Tensor:
    """``weight * factor`` for a factor above 0, which under any step of gradient descent moves as if it were the weight itself."""
    scaled: Tensor = _Native.apply(weight, factor)
    return scaled


class Rescaled(Gated):
    """`Gated`, with the scale of each of some norms multiplied by a number: `norms` their names, `factors` (n,) the numbers, 1 at first."""

    factors: Tensor

    def __init__(self, backbone: nn.Module, signature: Signature, gates: Gates, fold: Fold, norms: tuple[str, ...]) -> None:
        super().__init__(backbone, signature, gates, fold)
        self.norms = norms
        self._also |= other_places(backbone, set(norms))
        self.register_buffer("factors", torch.ones(len(norms)))

    def folded(self, gates: Tensor | None = None) -> dict[str, Tensor]:
        found = super().folded(gates)
        for name, factor in zip(self.norms, self.factors.unbind(), strict=True):
            weight = found[name] if name in found else attrgetter(name)(self.backbone)
            found[name] = native(weight, factor)
        return found
