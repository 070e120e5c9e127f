"""The data that channels are judged by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

Batch = tuple[Any, Any]
"""Inputs and targets, nests of tensors (N, ...)."""
Loss = Callable[[nn.Module, Any, Any], Tensor]
"""(network, inputs, targets) -> mean loss, a scalar."""


def count(batch: Batch) -> int:
    """How many examples a batch holds."""
    return next(len(leaf) for leaf in tree_leaves(batch) if isinstance(leaf, Tensor))


def part(batch: Batch, begin: int, end: int) -> Batch:
    """The examples of a batch from `begin` to before `end`."""
    x, y = tree_map(lambda leaf: leaf[begin:end] if isinstance(leaf, Tensor) else leaf, batch)
    return x, y


def first(batches: Iterable[Batch], samples: int) -> Iterator[Batch]:
    """The first `samples` examples as they come; the batch in which they end is cut, and none is asked for after it."""
    left = samples
    for batch in batches:
        size = count(batch)
        yield batch if size <= left else part(batch, 0, left)
        left -= size
        if left <= 0:
            return


def singles(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The same examples in batches of one."""
    for batch in batches:
        for i in range(count(batch)):
            yield part(batch, i, i + 1)
