"""Operators that move, cut, join and copy elements along dimensions."""

from __future__ import annotations

import math
import operator as op
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from pas.onnx_read.builder import Size
from pas.onnx_read.table import Node, operator


@operator("Identity")
def identity(node: Node) -> Any:
    """Nothing."""
    return node.values[0]


@operator("Constant")
def constant(node: Node) -> Any:
    """A tensor, or numbers, in the file."""
    for name in ("value", "sparse_value"):
        found = node.attribute(name)
        if found is not None:
            return found
    for name, dtype in (("value_float", torch.float32), ("value_floats", torch.float32), ("value_int", torch.int64), ("value_ints", torch.int64)):
        found = node.attribute(name)
        if found is not None:
            return torch.tensor(found, dtype=dtype)
    raise node.error("its value is text; only numbers can be read")


@operator("ConstantOfShape")
def filled(node: Node) -> Any:
    """One number everywhere."""
    value = node.attribute("value", torch.zeros(1))
    return node.b.call(torch.full, tuple(node.ints(0)), value.item(), dtype=value.dtype)


@operator("Range")
def counted(node: Node) -> Any:
    """start, start + delta, ... below limit."""
    if any(isinstance(value, fx.Node) for value in node.values):
        raise node.error("how long it is depends on the values of the input; write the file with fixed sizes")
    return node.b.call(torch.arange, *(v.reshape(()) if isinstance(v, Tensor) else v for v in map(node.value, range(3))))


@operator("Reshape")
def reshape(node: Node) -> Any:
    """Other sizes for the same elements. What only merges neighbours says so, and mentions no number of channels."""
    x, (one, other), target = node.tensor(0), node.shapes(), node.ints(1)
    if not node.attribute("allowzero", 0):
        target = [node.b.size(x, d) if type(n) is int and n == 0 else n for d, n in enumerate(target)]
    target = _unfixed(node, target, one)
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
            if old[:start] + (math.prod(old[start : end + 1]),) + old[end + 1 :] == new:
                return node.b.call(torch.flatten, x, start, end)
    if [n for n in old if n != 1] == [n for n in new if n != 1] and 1 not in (old[:1] + new[:1]):
        for d in reversed(range(len(old))):
            x = node.b.call(torch.squeeze, x, d) if old[d] == 1 else x
        for d, n in enumerate(new):
            x = node.b.call(torch.unsqueeze, x, d) if n == 1 else x
        return x
    return node.b.call(torch.reshape, x, tuple(target))


def _unfixed(node: Node, target: list[Any], old: tuple[int, ...]) -> list[Any]:
    """Sizes written down for the file's fixed batch, for any batch."""
    fixed = node.b.batch is not None and all(type(n) is int for n in target)
    if fixed and -1 not in target and target and math.prod(target) != math.prod(old):
        return [-1, *target[1:]]
    if fixed and -1 in target[1:] and target[0] == node.b.batch and isinstance(node.b.size(node.tensor(0), 0), Size):
        return [node.b.batch_size(), *target[1:]]
    return target


@operator("Flatten")
def flatten(node: Node) -> Any:
    """Two dimensions: all before `axis`, and all from there on."""
    axis, rank, x = node.attribute("axis", 1), node.rank(), node.tensor(0)
    axis = axis + rank if axis < 0 else axis
    x = node.b.call(torch.flatten, x, axis, -1) if axis < rank else node.b.call(torch.unsqueeze, x, rank)
    return node.b.call(torch.flatten, x, 0, axis - 1) if axis > 0 else node.b.call(torch.unsqueeze, x, 0)


@operator("Squeeze")
def squeeze(node: Node) -> Any:
    """Without dimensions of size 1."""
    axes = node.fixed("axes", 1) or [d for d, n in enumerate(node.shapes()[0]) if n == 1]
    x = node.tensor(0)
    for axis in sorted((axis % node.rank() for axis in axes), reverse=True):
        one = _single(x, axis)
        x = node.b.call(torch.squeeze, x, axis) if one is None else node.b.call(torch.select, x.args[0], axis, one)
    return x


def _single(x: Any, dim: int) -> int | None:
    """The place of the only element of a dimension that is left after a slice: to take it out is to select it."""
    if not isinstance(x, fx.Node) or x.target is not op.getitem or not isinstance(x.args[1], tuple):
        return None
    place = x.args[1][dim] if len(x.args[1]) == dim + 1 else None
    fixed = isinstance(place, slice) and type(place.start) is int and type(place.stop) is int and 0 <= place.start
    return place.start if fixed and place.stop == place.start + 1 else None


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


@operator("Concat")
def concatenate(node: Node) -> Any:
    """One after the other along a dimension."""
    parts, axis = [node.tensor(i) for i in range(len(node))], node.attribute("axis")
    axis %= node.rank()
    if node.b.batch is not None and axis:  # what was written once for every example of the fixed batch
        sizes = [node.b.size(part, 0) for part in parts]
        size = next((n for n in sizes if isinstance(n, Size)), None)
        parts = [_repeated(node, part, size) if size is not None and n == node.b.batch else part for part, n in zip(parts, sizes, strict=True)]
    return node.b.call(torch.cat, parts, axis)


def _repeated(node: Node, part: Any, size: Size) -> Any:
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
        table = nn.Embedding(*x.shape, device="meta", dtype=x.dtype)
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


@operator("Expand")
def expand(node: Node) -> Any:
    """Copied along dimensions of size 1; the others keep their size, which isn't mentioned."""
    x, target, (one, other) = node.tensor(0), node.ints(1), node.shapes()
    added = len(target) - len(one)
    sizes: list[Any] = [1] * -added + target if added < 0 else target
    old = (1,) * max(added, 0) + one
    keep = [n != 1 or (type(size) is int and size == 1) for n, size in zip(old, sizes, strict=True)]
    sizes = [size if not kept else 1 if d < added else -1 for d, (kept, size) in enumerate(zip(keep, sizes, strict=True))]
    return x if all(size == -1 for size in sizes) else node.b.call("expand", x, *sizes)


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


@operator("Shape", "Size")
def unknown(node: Node) -> Any:
    """Of a constant; of a computed tensor they are read elsewhere."""
    value = node.tensor(0)
    assert not isinstance(value, fx.Node)
    return torch.tensor(value.numel() if node.op == "Size" else list(value.shape)[node.attribute("start", 0) : node.attribute("end")])
