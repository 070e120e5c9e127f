"""Operators that give the same elements other dimensions."""

from __future__ import annotations

import math
import operator as op
from typing import Any

import torch
from torch import Tensor, fx

from pas.onnx_read.builder import BATCH
from pas.onnx_read.size import Size
from pas.onnx_read.table import Node, operator


@operator("Reshape")
def reshape(node: Node) -> Any:
    """Other sizes for the same elements. What only merges neighbours says so, and mentions no number of channels."""
    x, (one, other), target = node.tensor(0), node.shapes(), node.ints(1)
    if not node.attribute("allowzero", 0):
        target = [node.b.size(x, d) if type(n) is int and n == 0 else n for d, n in enumerate(target)]
    target = _unfixed(node, target)
    free = [d for d, n in enumerate(target) if isinstance(n, Size)]
    known = [[n.probes[i] if isinstance(n, Size) else n for n in target] for i in range(2)]
    new, changed = (tuple(torch.empty(old, device="meta").reshape(sizes).shape) for old, sizes in zip((one, other), known, strict=True))
    if (new, changed) == (one, other):
        return x
    if (turned := _turned(x, new)) is not None:
        return node.b.call(torch.transpose, turned, -2, -1)
    moving = [d for d, (a, b) in enumerate(zip(new, changed, strict=True)) if a != b]
    if len(moving) < 2 or len(moving) - len(free) == 1:
        inferred = [d for d in moving if d not in free] or moving[:1]
        target = [-1 if d in inferred else target[d] if d in free else n for d, n in enumerate(new)]
    return _simplest(node, x, one, new, target)


def _turned(x: fx.Node | Tensor, new: tuple[int, ...]) -> fx.Node | None:
    """What x was before its first two dimensions were merged and its last two exchanged, if this splits the first two again."""
    if not isinstance(x, fx.Node) or x.target is not torch.permute or list(x.args[1]) != [0, 2, 1]:  # type: ignore[arg-type]
        return None
    flat = x.args[0]
    if not isinstance(flat, fx.Node) or flat.target is not torch.flatten or flat.args[1:] != (0, 1):
        return None
    source = flat.args[0]
    assert isinstance(source, fx.Node)
    old = tuple(source.meta["probes"][0].shape)
    return source if (*old[:-2], old[-1], old[-2]) == new else None


def _simplest(node: Node, x: Any, old: tuple[int, ...], new: tuple[int, ...], target: list[Any]) -> Any:
    """A reshape as a flattening or as dimensions of size 1 that come or go, where it is no more."""
    for start in range(len(old)):
        for end in range(start + 1, len(old)):
            if (*old[:start], math.prod(old[start : end + 1]), *old[end + 1 :]) == new:
                return node.b.call(torch.flatten, x, start, end)
    if [n for n in old if n != 1] == [n for n in new if n != 1] and 1 not in (old[:1] + new[:1]):
        for d in reversed(range(len(old))):
            x = node.b.call(torch.squeeze, x, d) if old[d] == 1 else x
        for d, n in enumerate(new):
            x = node.b.call(torch.unsqueeze, x, d) if n == 1 else x
        return x
    return node.b.call(torch.reshape, x, tuple(target))


def _unfixed(node: Node, target: list[Any]) -> list[Any]:
    """Sizes that were written down for the file's fixed batch, for any batch: the one that the examples lie in is inferred."""
    batch, (one, other) = node.b.batch, node.shapes()
    moving = [d for d, (n, m) in enumerate(zip(one, other, strict=True)) if n != m]
    if batch is None or len(moving) != 1 or not all(type(n) is int for n in target):
        return target
    (place,) = moving
    old = [n * batch // BATCH[0] if d == place else n for d, n in enumerate(one)]  # as the file knows it
    known = -math.prod(target) if -1 in target else math.prod(target)
    sizes = [math.prod(old) // known if n == -1 else n for n in target]
    before = math.prod(old[:place])
    aligned = [d for d in range(len(sizes)) if math.prod(sizes[:d]) == before]
    fitting = [d for d in aligned if sizes[d] % old[place] == 0 or old[place] % sizes[d] == 0]
    if math.prod(sizes) != math.prod(old) or not fitting:
        raise node.error(f"it mixes examples in a way that only a batch of {batch} has; write the file again with a free batch")
    chosen = place if place in fitting else fitting[0]
    return [-1 if d == chosen else n for d, n in enumerate(sizes)]


@operator("Flatten")
def flatten(node: Node) -> Any:
    """Two dimensions: all before `axis`, and all from there on."""
    axis, rank, x = node.attribute("axis", 1), node.rank(), node.tensor(0)
    axis = axis + rank if axis < 0 else axis
    if axis < rank - 1:
        x = node.b.call(torch.flatten, x, axis, -1)
    elif axis == rank:
        x = node.b.call(torch.unsqueeze, x, rank)
    if axis == 0:
        return node.b.call(torch.unsqueeze, x, 0)
    return node.b.call(torch.flatten, x, 0, axis - 1) if axis > 1 else x


@operator("Squeeze")
def squeeze(node: Node) -> Any:
    """Without dimensions of size 1."""
    axes = node.fixed("axes", 1) or [d for d, n in enumerate(node.shapes()[0]) if n == 1]
    x = node.tensor(0)
    for axis in sorted((axis % node.rank() for axis in axes), reverse=True):
        single = _single(x, axis)
        x = node.b.call(torch.squeeze, x, axis) if single is None else node.b.call(torch.select, single[0], axis, single[1])
    return x


def _single(x: Any, dim: int) -> tuple[Any, int] | None:
    """What a slice left a single element of, and its place: to take that out is to select it."""
    if not isinstance(x, fx.Node) or x.target is not op.getitem or not isinstance(x.args[1], tuple) or len(x.args[1]) != dim + 1:
        return None
    place: Any = x.args[1][dim]
    fixed = isinstance(place, slice) and type(place.start) is int and type(place.stop) is int and place.start >= 0
    return (x.args[0], place.start) if fixed and place.stop == place.start + 1 else None


@operator("Unsqueeze")
def unsqueeze(node: Node) -> Any:
    """With further dimensions of size 1."""
    axes = node.fixed("axes", 1)
    x, rank = node.tensor(0), node.rank() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = node.b.call(torch.unsqueeze, x, axis)
    return x


@operator("Transpose")
def transpose(node: Node) -> Any:
    """Dimensions in another order."""
    order = node.attribute("perm", list(reversed(range(node.rank()))))
    return node.b.call(torch.permute, node.tensor(0), order) if order != sorted(order) else node.tensor(0)


@operator("Expand")
def expand(node: Node) -> Any:
    """Copied along dimensions of size 1; the others keep their size, which isn't mentioned."""
    x, target, one = node.tensor(0), node.ints(1), node.shapes()[0]
    added = len(target) - len(one)
    sizes: list[Any] = [1] * -added + target if added < 0 else target
    old = (1,) * max(added, 0) + one
    keep = [n != 1 or (type(size) is int and size == 1) for n, size in zip(old, sizes, strict=True)]
    sizes = [size if not kept else 1 if d < added else -1 for d, (kept, size) in enumerate(zip(keep, sizes, strict=True))]
    return x if all(size == -1 for size in sizes) else node.b.call("expand", x, *sizes)
