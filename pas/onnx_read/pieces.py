"""Operators that cut, join, pick, pad and copy along dimensions."""

from __future__ import annotations

import operator as op
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pas.onnx_read.size import Size
from pas.onnx_read.table import Node, operator


@operator("Concat")
def concatenate(node: Node) -> Any:
    """One after the other along a dimension."""
    parts, axis = [node.tensor(i) for i in range(len(node))], node.attribute("axis")
    axis %= node.rank()
    if node.b.batch is not None and axis:  # what was written once for every example of the fixed batch
        sizes = [node.b.size(part, 0) for part in parts]
        size = next((n for n in sizes if isinstance(n, Size)), None)
        alone = [size is not None and type(n) is int and n == node.b.batch for n in sizes]
        parts = [_repeated(node, part, size) if once else part for part, once in zip(parts, alone, strict=True)]
    return node.b.call(torch.cat, parts, axis)


def _repeated(node: Node, part: Any, size: Size | None) -> Any:
    rank = len((part if isinstance(part, Tensor) else part.meta["probes"][0]).shape)
    return node.b.call("expand", part, size, *(-1,) * (rank - 1))


@operator("Split")
def split(node: Node) -> Any:
    """In parts of given sizes, or of equal ones."""
    dim, sizes = node.attribute("axis", 0) % node.rank(), node.fixed("split", 1)
    if sizes is None:
        count, whole = node.attribute("num_outputs", len(node.outputs)), node.shapes()[0][dim]
        if isinstance(node.b.size(node.tensor(0), dim), Size):
            raise node.error("it splits a size that is free in the file; write the file again with fixed sizes")
        part = -(-whole // count)
        sizes = [part] * (count - 1) + [whole - part * (count - 1)]
    return node.b.call(torch.split, node.tensor(0), sizes, dim)


@operator("Slice")
def cut(node: Node) -> Any:
    """A range of some dimensions, backwards where a step is negative."""
    starts, ends = node.ints(1), node.ints(2)
    axes = node.ints(3) if node.has(3) else list(range(len(starts)))
    steps = node.ints(4) if node.has(4) else [1] * len(starts)
    x, rank = node.tensor(0), node.rank()
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        dim = axis % rank
        size = node.b.size(x, dim)
        if step < 0:
            if isinstance(size, Size) or isinstance(start, Size) or isinstance(end, Size):
                raise node.error("it goes backwards over a size that is free in the file; write the file again with fixed sizes")
            first, last, _ = slice(start, end if end >= -size else None, step).indices(size)
            x = node.b.call(torch.flip, x, [dim])
            start, end, step = size - 1 - first, size - 1 - last, -step
        if (start == 0 and step == 1 and (end == size if isinstance(end, Size) else end >= size)) or (type(size) is int and size == 0):
            continue
        bound = None if type(end) is int and end > 2**31 else end
        x = node.b.call(op.getitem, x, (slice(None),) * dim + (slice(start, bound, step),))
    return x


@operator("Gather")
def gather(node: Node) -> Any:
    """The elements of a dimension at given places; rows of a table of weights are an embedding."""
    x, index, dim = node.tensor(0), node.tensor(1), node.attribute("axis", 0) % node.rank()
    if isinstance(index, Tensor):
        size = node.b.size(x, dim)
        if (index < 0).any() and not isinstance(size, Size):
            index = torch.where(index < 0, index + size, index)
        if index.dim() == 0:
            return node.b.call(torch.select, x, dim, int(index))
        index = node.b.constant(index.long(), node.proto.input[1])
    elif isinstance(x, Tensor) and x.dim() == 2 and dim == 0 and x.is_floating_point():
        table = nn.Embedding(x.shape[0], x.shape[1], device="meta", dtype=x.dtype)
        return node.layer(table, {"weight": node.weight(0)}, index, weight=0)
    if isinstance(index, Tensor) and index.dim() == 1:
        return node.b.call(torch.index_select, x, dim, index)
    return node.b.call(op.getitem, x, (slice(None),) * dim + (index,))


@operator("GatherElements")
def gather_elements(node: Node) -> Any:
    """out[i][j] = x[index[i][j]][j] for dimension 0."""
    x, index, dim = node.tensor(0), node.tensor(1), node.attribute("axis", 0)
    return node.b.call(torch.gather, x, dim, node.b.call(torch.remainder, index, node.b.size(x, dim % node.rank())))


@operator("GatherND")
def gather_nd(node: Node) -> Any:
    """x at rows of coordinates."""
    node.only("batch_dims", 0)
    return node.b.call(op.getitem, node.tensor(0), node.b.call(torch.unbind, node.tensor(1), -1))


@operator("ScatterElements")
def scatter(node: Node) -> Any:
    """x with other elements (or with something added) at given places."""
    how, dim = node.only("reduction", "none", "add"), node.attribute("axis", 0)
    x, index, new = (node.tensor(i) for i in range(3))
    index = node.b.call(torch.remainder, index, node.b.size(x, dim % node.rank()))
    return node.b.call(torch.scatter if how == "none" else torch.scatter_add, x, dim, index, new)


@operator("Tile")
def tile(node: Node) -> Any:
    """Copied as a whole along dimensions."""
    return node.b.call("repeat", node.tensor(0), *node.ints(1))


@operator("Pad")
def pad(node: Node) -> Any:
    """More at both ends of dimensions: a number, or what lies there, mirrored, repeated or wrapped around."""
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}[
        node.only("mode", "constant", "reflect", "edge", "wrap")
    ]
    rank, widths = node.rank(), node.fixed("pads", 1)
    axes = [axis % rank for axis in node.ints(3)] if node.has(3) else list(range(rank))
    pairs = [(0, 0)] * rank
    for i, axis in enumerate(axes):
        pairs[axis] = (widths[i], widths[i + len(axes)])
    value = node.constant(2).item() if node.has(2) else 0
    return padded(node, node.tensor(0), pairs, value, mode)


def padded(node: Node, x: Any, pairs: list[tuple[int, int]], value: float = 0, mode: str = "constant") -> Any:
    """`x` with (before, after) more elements in each of its last dimensions; the same where there are none."""
    while pairs and pairs[0] == (0, 0):
        pairs = pairs[1:]
    flat = [width for pair in reversed(pairs) for width in pair]
    if not flat:
        return x
    if mode == "constant":
        return node.b.call(F.pad, x, flat, mode, value)
    ranks = {2: 1, 3: 1, 4: 2, 5: 3}
    rank = len((x if isinstance(x, Tensor) else x.meta["probes"][0]).shape)
    if len(pairs) > ranks.get(rank, 0):
        raise node.error(f"it pads {len(pairs)} of {rank} dimensions with what lies there; only those of space can be padded so")
    return node.b.call(F.pad, x, [*flat, *(0,) * (2 * (ranks[rank] - len(pairs)))], mode)


@operator("DepthToSpace")
def depth_to_space(node: Node) -> Any:
    """(N, C b b, H, W) -> (N, C, b H, b W)."""
    block, mode, x = node.attribute("blocksize"), node.only("mode", "DCR", "CRD"), node.tensor(0)
    if mode == "CRD":
        return node.layer(nn.PixelShuffle(block))
    channels = node.shapes()[0][1] // block**2
    apart = node.b.call(torch.unflatten, x, 1, (block, block, channels))
    near = node.b.call(torch.permute, apart, (0, 3, 4, 1, 5, 2))
    return node.b.call(torch.flatten, node.b.call(torch.flatten, near, 4, 5), 2, 3)


@operator("SpaceToDepth")
def space_to_depth(node: Node) -> Any:
    """(N, C, b H, b W) -> (N, b b C, H, W)."""
    block = node.attribute("blocksize")
    node.only("mode", "DCR")
    apart = node.b.call(torch.unflatten, node.b.call(torch.unflatten, node.tensor(0), 3, (-1, block)), 2, (-1, block))
    return node.b.call(torch.flatten, node.b.call(torch.permute, apart, (0, 3, 5, 1, 2, 4)), 1, 3)


@operator("Trilu")
def triangle(node: Node) -> Any:
    """The upper (or lower) triangle of matrices."""
    function = torch.triu if node.attribute("upper", 1) else torch.tril
    return node.b.call(function, node.tensor(0), int(node.constant(1)) if node.has(1) else 0)


@operator("OneHot")
def one_hot(node: Node) -> Any:
    """`on` at the place that an index names, `off` elsewhere."""
    index, depth, (off, on), axis = node.tensor(0), int(node.constant(1)), node.constant(2), node.attribute("axis", -1)
    axis %= node.rank() + 1
    places = torch.arange(depth).reshape(-1, *(1,) * (node.rank() - axis))
    places = node.b.constant(places, "places")
    wrapped = node.b.call(torch.unsqueeze, node.b.call(op.mod, index, depth), axis)
    return node.b.call(torch.where, node.b.call(op.eq, wrapped, places), on, off)
