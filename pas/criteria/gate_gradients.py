"""The squared first-order effect of switching a channel off, from the gradients that its gate gets."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from pas.axes.signature import Signature
from pas.criteria.examples import Batch, Loss, first, singles
from pas.errors import PasError
from pas.gates.gated import Gated, Gates
from pas.surgery.fuse import merged


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
    for x, y in singles(first(batches, samples)):
        (gradient,) = torch.autograd.grad(loss(gated, x, y), gates.value)
        total += gradient.double().square().cpu()
        seen += 1
    if not seen:
        raise PasError("per-sample gradients need at least one example")
    if not bool(total.isfinite().all()):
        raise PasError("the loss of the dense network is infinite or NaN on these examples: train it, or look at its inputs")
    scores = np.full(signature.channels, np.inf)
    scores[free] = (total / seen).numpy()
    return scores
