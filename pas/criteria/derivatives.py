"""Derivatives of the mean loss by the weights, over examples in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pas.criteria.examples import Batch, Loss, count
from pas.criteria.weightwise import Maps


def mean(
    network: nn.Module, weights: Maps, batches: Iterable[Batch], loss: Loss, of: Callable[[Tensor], Tensor] = torch.clone
) -> Maps:
    """The mean over batches of a function of each batch's gradient, a batch counting by its examples: of the gradient itself, or `of` it.

    `weights`: parameters of the network, which all must require gradients. No batches, no mean: there must be one.
    """
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    seen = 0
    for batch in batches:
        size = count(batch)
        gradients = torch.autograd.grad(
            loss(network, *batch), list(weights.values()), allow_unused=True, materialize_grads=True
        )
        for name, gradient in zip(weights, gradients, strict=True):
            total[name] += size * of(gradient)
        seen += size
    return {name: value / seen for name, value in total.items()}


def hessian_times(network: nn.Module, weights: Maps, batches: Sequence[Batch], loss: Loss, vector: Maps) -> Maps:
    """H v, the Hessian of the mean loss by the weights times a vector that is held fixed: the gradient of <g, v>, g that of the loss."""
    parameters = list(weights.values())
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    seen = sum(count(batch) for batch in batches)
    for batch in batches:
        with sdpa_kernel(SDPBackend.MATH):  # the fused attention kernels can be differentiated once only
            gradients = torch.autograd.grad(
                loss(network, *batch), parameters, create_graph=True, allow_unused=True, materialize_grads=True
            )
            along = sum((g * v).sum() for g, v in zip(gradients, vector.values(), strict=True))
            assert isinstance(along, Tensor)
            if not along.requires_grad:  # the loss is linear in the weights
                continue
            curved = torch.autograd.grad(along, parameters, allow_unused=True, materialize_grads=True)
        for name, product in zip(weights, curved, strict=True):
            total[name] += count(batch) / seen * product
    return total
