"""How much a channel matters, judged once from the weights."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from pas.axes.signature import Signature
from pas.surgery.fuse import fuse


def magnitude(model: nn.Module, signature: Signature) -> np.ndarray:
    """The L2 norm of a channel in everything that makes or reads it, over all channels (channels,).

    In each slot (a dimension of a weight of the fused form) the norms are divided by their mean, so that slots of
    different fan-in count alike; a channel's score is the mean over its slots. Norms of batch-norm scales count as
    slots too.
    """
    tensors = dict(fuse(model).named_parameters())
    total, count = np.zeros(signature.channels), np.zeros(signature.channels)
    for name, dims in signature.dims.items():
        if name not in tensors:
            continue
        for d, table in enumerate(dims):
            if table is None:
                continue
            weight = (
                tensors[name].detach().double().transpose(0, d).flatten(1)
                if tensors[name].dim() > 1
                else tensors[name].detach().double()[:, None]
            )
            norm = torch.linalg.vector_norm(weight, dim=1).cpu().numpy()
            norm = norm / max(norm.mean(), 1e-30)
            for column in table.T:
                np.add.at(total, column, norm)
                np.add.at(count, column, 1)
    return total / np.maximum(count, 1)
