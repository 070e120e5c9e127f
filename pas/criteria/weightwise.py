"""What each single weight is worth, by the weights alone: maps of importance over the parameters of the fused form."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pas.axes.signature import Signature
from pas.surgery.fuse import fuse

Maps = dict[str, Tensor]
"""Parameter of the fused form -> one number a weight, of the parameter's shape."""


def weights(fused: nn.Module, signature: Signature) -> Maps:
    """The parameters of a fused network in which channels live, kernels, scales and biases, in the order of the signature."""
    named = dict(fused.named_parameters())
    return {name: named[name] for name, dims in signature.dims.items() if name in named and any(table is not None for table in dims)}


def absolute(model: nn.Module, signature: Signature) -> Maps:
    """|w|."""
    return {name: weight.abs() for name, weight in _widened(fuse(model), signature).items()}


def squared(model: nn.Module, signature: Signature) -> Maps:
    """w^2."""
    return {name: weight.square() for name, weight in _widened(fuse(model), signature).items()}


def norm_scales(model: nn.Module, signature: Signature) -> Maps:
    """|gamma| of batch norms, and of nothing else (network slimming, Liu et al., https://arxiv.org/abs/1708.06519).

    Of the fused form, in which re-parameterised blocks have no norms.
    """
    fused = fuse(model)
    scales = {f"{path}.weight" if path else "weight" for path, module in fused.named_modules() if isinstance(module, _BatchNorm)}
    return {name: weight.abs() for name, weight in _widened(fused, signature).items() if name in scales}


WEIGHTWISE: dict[str, Callable[[nn.Module, Signature], Maps]] = {
    "group_l1": absolute,
    "group_l2": squared,
    "bn_scale": norm_scales,
}
"""Maps that need no data, by the name of the criterion."""


def _widened(fused: nn.Module, signature: Signature) -> Maps:
    """The weights without gradients, in single precision at least."""
    return {name: w.detach().to(torch.promote_types(w.dtype, torch.float32)) for name, w in weights(fused, signature).items()}
