"""Put the channels of axes into another order: another network that computes the same."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from pas.axes.signature import Signature
from pas.errors import PasError
from pas.surgery.fuse import fuse


def permute(model: nn.Module, signature: Signature, orders: Mapping[str, Sequence[int]]) -> nn.Module:
    """The fused form of a network in which channel k of axis `name` is the old channel ``orders[name][k]``, wherever the axis lives.

    Its outputs are those of `model` up to rounding, for axes that only a norm over channels keeps from being exact as well: which
    channels belong together can be held against the network without dropping any. Sorted by importance, the channels that stay are the
    first ones (Cai et al. 2020, Once-for-All, section 3.3).
    Raises PasError for an order that isn't one of all channels of its axis.
    """
    source = np.arange(signature.channels)
    for name, order in orders.items():
        axis = signature.axis(name)
        if sorted(order) != list(range(axis.size)):
            raise PasError(f"axis {name!r} has {axis.size} channels: an order lists each of 0 to {axis.size - 1} once")
        source[axis.start : axis.start + axis.size] = axis.start + np.asarray(order)
    free = np.zeros(signature.channels, dtype=bool)  # what is never moved only says where a channel stands
    for axis in signature.prunable:
        free[axis.start : axis.start + axis.size] = True
    model = copy.deepcopy(fuse(model))
    done: dict[int, torch.Tensor] = {}  # a shared weight stays shared; the old ones live on in `tensors`
    tensors = [(path, module, {**module._parameters, **module._buffers}) for path, module in model.named_modules()]
    for path, module, held in tensors:
        for name, old in held.items():
            full = f"{path}.{name}" if path else name
            dims = signature.dims.get(signature.program.tied.get(full, full))
            if old is None or dims is None:
                continue
            if id(old) not in done:
                new = old.detach()
                for d, table in enumerate(dims):
                    if table is not None:
                        places = torch.from_numpy(_places(np.where(free[table], table, 0), source))
                        new = new.index_select(d, places.to(new.device))
                done[id(old)] = nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new
            setattr(module, name, done[id(old)])
    return model


def _places(table: np.ndarray, source: np.ndarray) -> np.ndarray:
    """For each element of a dimension the old element that comes to its place: the one that is asked for by the old channels of its own."""
    old, wanted = np.sort(table, axis=1), np.sort(source[table], axis=1)
    places = np.empty(len(table), dtype=np.int64)
    # of elements with the same channels (x beside x) the first stays the first: both sides are sorted stably
    places[np.lexsort(wanted.T)] = np.lexsort(old.T)
    if not np.array_equal(old[places], wanted):
        raise PasError("these channels can't change places: elements of a weight that need one of them need others too, in no such order")
    return places
