"""Batch norm over the global batch of several processes.

Not another module, as torch's SyncBatchNorm (which is for CUDA only): slicing, fusing and bundles want the network's own
norms. Inside a `GlobalNorm` block, `F.batch_norm` in training takes its statistics from the images of all processes; all
torch norms and timm's come down to this function, through `functional_call` and DistributedDataParallel too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from pas.distributed import gathered, total


class NormsBy(TorchFunctionMode):
    """A block in which another function takes the place of `F.batch_norm`. To be put around the forward pass."""

    def __init__(self, batch_norm: Callable[..., Tensor]) -> None:
        super().__init__()
        self.batch_norm = batch_norm

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return (self.batch_norm if func is F.batch_norm else func)(*args, **(kwargs or {}))


class GlobalNorm(NormsBy):
    """The block in which batch norms see the global batch, on every process."""

    def __init__(self) -> None:
        super().__init__(batch_norm)


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`F.batch_norm` of the batches of all processes together, x (N, C, ...), in sums of at least fp32.

    Running statistics move as those of one process with the whole batch: the variance is the unbiased one of all values.
    """
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    with torch.no_grad():
        mean, var, count = _moments(x)
        for running, new in ((running_mean, mean), (running_var, var * (count / (count - 1)))):
            if running is not None:
                running.mul_(1 - momentum).add_(momentum * new)
    return _Normalised.apply(x, weight, bias, mean, (var + eps).rsqrt(), count)


def _moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (C,), biased variance (C,) and number of values a channel, over all processes."""
    exact = _exact(x)
    var, mean = torch.var_mean(exact, _others(x), correction=0)
    each = gathered(torch.cat([mean, var, exact.new_tensor([x.numel() / len(mean)])]))
    means, variances, counts = each[:, : len(mean)], each[:, len(mean) : -1], each[:, -1:]
    share = counts / counts.sum()
    mean = (share * means).sum(0)
    # squares of the distances between the processes' means, not a difference of large sums
    return mean, (share * (variances + (means - mean).square())).sum(0), counts.sum()


class _Normalised(torch.autograd.Function):
    """``weight (x - mean) invstd + bias``, whose gradient knows that mean and invstd come from all processes' images."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, invstd: Tensor, count: Tensor
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, invstd, count)
        scale = invstd if weight is None else invstd * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        return torch.addcmul(_wide(shift, x), _exact(x), _wide(scale, x)).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, invstd, count = ctx.saved_tensors
        gradient, normal = _exact(gradient), (_exact(x) - _wide(mean, x)) * _wide(invstd, x)
        of_weight, of_bias = (gradient * normal).sum(_others(x)), gradient.sum(_others(x))
        along, common = (total(torch.stack([of_weight, of_bias])) / count).unbind()
        scale = invstd if weight is None else invstd * weight
        of_x = (gradient - _wide(common, x) - normal * _wide(along, x)) * _wide(scale, x)
        wanted = ctx.needs_input_grad
        return (
            of_x.to(x.dtype) if wanted[0] else None,
            of_weight.to(weight.dtype) if wanted[1] else None,
            of_bias.to(weight.dtype) if wanted[2] else None,
            None,
            None,
            None,
        )


def _exact(x: Tensor) -> Tensor:
    """In fp32 at least."""
    return x if x.dtype == torch.float64 else x.float()


def _others(x: Tensor) -> list[int]:
    """All dimensions but the channels'."""
    return [dim for dim in range(x.dim()) if dim != 1]


def _wide(values: Tensor, x: Tensor) -> Tensor:
    """(C,) as (1, C, 1, ...)."""
    return values.view(1, -1, *(1,) * (x.dim() - 2))
