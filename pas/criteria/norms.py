"""Norms of what makes and reads a channel, each kernel against the mean of its layer."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from pas.axes.signature import Signature, Slot
from pas.surgery.fuse import fuse


def magnitude(model: nn.Module, signature: Signature) -> np.ndarray:
    """The L2 norm of a channel in everything that makes or reads it, over all channels (channels,).

    In each slot (a dimension of a weight of the fused form) the norms are divided by their mean, so that slots of
    different fan-in count alike; a channel's score is the mean over its slots, and so the mean of an axis is 1. Scales and shifts of norms
    and biases count as slots, too; slots that are zero throughout don't.
    """
    return _norms(model, signature, 2, makers_only=False)


def l1(model: nn.Module, signature: Signature) -> np.ndarray:
    """The L1 norm of the kernels that make a channel (Li et al., https://arxiv.org/abs/1608.08710), over all channels (channels,).

    Of the fused form, so that norms of re-parameterised blocks are folded in. Divided by the mean of its slot, averaged over
    slots, as in `magnitude`.
    """
    return _norms(model, signature, 1, makers_only=True)


def _norms(model: nn.Module, signature: Signature, order: int, *, makers_only: bool) -> np.ndarray:
    tensors, reads = dict(fuse(model).named_parameters()), set(signature.readers)
    total, count = np.zeros(signature.channels), np.zeros(signature.channels)
    for name, dims in signature.dims.items():
        if name not in tensors:
            continue
        weight = tensors[name].detach().double()
        for d, table in enumerate(dims):
            if table is None or (makers_only and (weight.dim() < 2 or Slot(name, d) in reads)):
                continue
            flat = weight.transpose(0, d).flatten(1) if weight.dim() > 1 else weight[:, None]
            norm = torch.linalg.vector_norm(flat, ord=order, dim=1).cpu().numpy()
            if not norm.any():
                continue
            norm = norm / norm.mean()
            for column in table.T:
                np.add.at(total, column, norm)
                np.add.at(count, column, 1)
    return total / np.maximum(count, 1)
