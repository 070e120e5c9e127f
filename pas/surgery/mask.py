"""Switch channels off at full size: every reader sees zeros."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

from pas.architecture import Architecture
from pas.axes.capture import forget
from pas.axes.signature import Signature, rows
from pas.surgery.forms import TypedBlock, flat_input, readers, typed_blocks
from pas.surgery.fuse import IdentityNorm, merged


def mask(model: nn.Module, signature: Signature, architecture: Architecture) -> nn.Module:
    """A copy of the network, of the original size, in which dropped channels contribute zero to everything that reads
    them.

    Zeroing happens where a channel is read, not where it is made: a norm or an addition in between would bring it back.
    Raises PasError when the architecture belongs to another network.
    """
    keep = signature.mask(architecture)
    model = forget(copy.deepcopy(merged(model)))
    tensors = {**dict(model.named_buffers()), **dict(model.named_parameters())}
    identities = {id(item.block.identity.weight) for item in typed_blocks(model, signature).values() if item.block.identity is not None}
    with torch.no_grad():
        for reader in readers(model, signature):
            weight = tensors[reader.parameter]
            if id(weight) not in identities:  # these are rewired below
                off = torch.from_numpy(np.flatnonzero(~rows(reader.table, keep, weight.shape[reader.dim]))).to(weight.device)
                weight.index_fill_(reader.dim, off, 0)
    for path, item in typed_blocks(model, signature).items():
        if item.block.identity is not None and item.reads is not None:
            everything = np.ones(item.block.main.out_channels, dtype=bool)
            identity = rewired(item, rows(flat_input(item), keep, len(everything)), everything, compact=False)
            model.set_submodule(f"{path}.identity" if path else "identity", identity)
    return model


def rewired(item: TypedBlock, reads: np.ndarray, writes: np.ndarray, *, compact: bool) -> nn.BatchNorm2d:
    """The identity norm of a block that keeps the inputs `reads` and the outputs `writes` (booleans over its channels).

    With `compact` the input has only the kept channels, else it has them all and the dropped ones are ignored.
    """
    old = item.block.identity
    assert old is not None
    before = old.source.cpu().numpy() if isinstance(old, IdentityNorm) else np.arange(len(writes))
    place = np.where(reads, np.cumsum(reads) - 1 if compact else np.arange(len(reads)), -1)
    source = np.where(before >= 0, place[before], -1)[writes]
    device = old.weight.device
    norm = IdentityNorm(old, torch.from_numpy(source).to(device)).to(device=device, dtype=old.weight.dtype)
    index = torch.from_numpy(np.flatnonzero(writes)).to(device)
    with torch.no_grad():
        norm.weight.copy_(old.weight[index])
        norm.bias.copy_(old.bias[index])
        for name in ("running_mean", "running_var"):
            norm.get_buffer(name).copy_(old.get_buffer(name)[index])
        norm.get_buffer("num_batches_tracked").copy_(old.get_buffer("num_batches_tracked"))
    norm.weight.requires_grad_(old.weight.requires_grad)
    norm.bias.requires_grad_(old.bias.requires_grad)
    return norm.train(old.training)
