"""How much a channel matters, judged once: from the weights, or from the weights and some data."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from pas.axes.signature import Signature
from pas.errors import PasError
from pas.gates.gated import Gated, Gates
from pas.surgery.fuse import fuse, merged

Batch = tuple[Any, Any]
"""Inputs and targets, nests of tensors (N, ...)."""
Loss = Callable[[nn.Module, Any, Any], Tensor]
"""(network, inputs, targets) -> mean loss, a scalar."""


def magnitude(model: nn.Module, signature: Signature) -> np.ndarray:
    """The L2 norm of a channel in everything that makes or reads it, over all channels (channels,).

    In each slot (a dimension of a weight of the fused form) the norms are divided by their mean, so that slots of
    different fan-in count alike; a channel's score is the mean over its slots. Norms of batch-norm scales count as
    slots too.
    """
    return _norms(model, signature, 2, makers_only=False)


def l1(model: nn.Module, signature: Signature) -> np.ndarray:
    """The L1 norm of the kernels that make a channel (Li et al., https://arxiv.org/abs/1608.08710), over all channels (channels,).

    Of the fused form, so that norms of re-parameterised blocks are folded in. Divided by the mean of its slot, averaged over
    slots, as in `magnitude`.
    """
    return _norms(model, signature, 1, makers_only=True)


CRITERIA: dict[str, Callable[[nn.Module, Signature], np.ndarray]] = {"magnitude": magnitude, "l1": l1}
"""Criteria that need no data, by name."""


def taylor(model: nn.Module, signature: Signature, free: np.ndarray, batches: Iterable[Batch], loss: Loss, samples: int) -> np.ndarray:
    """The second moment of each channel's gate gradient over single examples (channels,); infinite outside of `free` (n,).

    With z the gate of a channel, ``E_n [(dL_n / dz)^2]``, L_n the loss of example n: the square of the first-order Taylor
    term of switching it off (Molchanov et al., https://arxiv.org/abs/1906.10771, eq. 7) and the diagonal of the empirical
    Fisher information. In eval mode, one example at a time: a mean over a batch would square a mean that is near zero.

    Raises PasError when there are no examples, or their loss is not finite.
    """
    gates = Gates(signature.channels, free).to(next(model.parameters()).device)
    gated = Gated(copy.deepcopy(merged(model)).requires_grad_(False), signature, gates).to(gates.value.device).eval()
    total, seen = torch.zeros(len(free), dtype=torch.float64), 0
    for x, y in batches:
        for i in range(min(len(y), samples - seen)):
            one, target = (tree_map(lambda t, i=i: t[i : i + 1] if isinstance(t, Tensor) else t, part) for part in (x, y))
            (gradient,) = torch.autograd.grad(loss(gated, one, target), gates.value)
            total += gradient.double().square().cpu()
            seen += 1
        if seen >= samples:
            break
    if not seen:
        raise PasError("per-sample gradients need at least one example")
    if not bool(total.isfinite().all()):
        raise PasError("the loss of the dense network is infinite or NaN on these examples: train it, or look at its inputs")
    scores = np.full(signature.channels, np.inf)
    scores[free] = (total / seen).numpy()
    return scores


def _norms(model: nn.Module, signature: Signature, order: int, *, makers_only: bool) -> np.ndarray:
    tensors = dict(fuse(model).named_parameters())
    total, count = np.zeros(signature.channels), np.zeros(signature.channels)
    for name, dims in signature.dims.items():
        if name not in tensors:
            continue
        weight = tensors[name].detach().double()
        for d, table in enumerate(dims):
            if table is None or (makers_only and (d > 0 or weight.dim() < 2)):
                continue
            flat = weight.transpose(0, d).flatten(1) if weight.dim() > 1 else weight[:, None]
            norm = torch.linalg.vector_norm(flat, ord=order, dim=1).cpu().numpy()
            norm = norm / max(norm.mean(), 1e-30)
            for column in table.T:
                np.add.at(total, column, norm)
                np.add.at(count, column, 1)
    return total / np.maximum(count, 1)
