"""Second moments of what a linear layer reads, its convolutions unfolded.

A layer computes ``y = W X + b``, a column of X for each place that it is applied to: an example or a token of a linear layer, a pixel of a
convolution's output, whose rows are then the taps of the kernel in every channel. Groups are layers side by side.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from pas.axes.capture import arguments, packet, shape

aten = torch.ops.aten
CONVOLUTIONS = (aten.conv1d, aten.conv2d, aten.conv3d)
AT_ONCE = 1 << 24
"""Elements of X that exist at a time."""
BLOCK = 256
"""Rows of a symmetric product that are computed at a time, from its diagonal on."""


@dataclass(frozen=True)
class Geometry:
    """What a convolution does in space; a linear layer is one without space. `padding`: before and after, per dimension."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def taps(self) -> int:
        return math.prod(self.kernel)


def geometry(node: fx.Node) -> Geometry:
    """That of a call of a convolution or a linear layer."""
    if packet(node) is aten.linear:
        return Geometry((), (), (), (), 1)
    _, weight, _, stride, padding, dilation, groups = arguments(node, 7)
    kernel = shape(weight)[2:]
    each = lambda value, default: tuple(torch.broadcast_to(torch.tensor(value or default), (len(kernel),)).tolist())  # noqa: E731
    steps, spread = each(stride, 1), each(dilation, 1)
    if padding == "same":
        reach = [d * (k - 1) for d, k in zip(spread, kernel, strict=True)]
        pads = tuple((total // 2, total - total // 2) for total in reach)
    else:
        pads = tuple((p, p) for p in each(0 if padding == "valid" else padding, 0))
    return Geometry(kernel, steps, pads, spread, 1 if groups is None else groups)


def in_space(x: Tensor, geometry: Geometry) -> Tensor:
    """What a layer reads or gives, as (N, C, *space)."""
    return x if geometry.kernel else x.reshape(-1, x.shape[-1])


@dataclass
class Moments:
    """Sums over columns, of a layer's G groups with d rows each and o outputs, in fp64.

    `gram`: ``X X'`` (G, d, d). `cross`: ``E X'`` (G, o, d), for whatever E of outputs is to be explained by X. `x`, `e`: the sums of the
    columns, (G, d) and (G, o). `columns`: their number. `eps`: the rounding of what was summed.
    """

    gram: Tensor
    cross: Tensor
    x: Tensor
    e: Tensor
    columns: int
    eps: float

    def centred(self) -> tuple[Tensor, Tensor]:
        """`gram` and `cross` about the means: what is left to W once a constant row of X has been fitted."""
        n = max(self.columns, 1)
        return self.gram - self.x[:, :, None] * self.x[:, None] / n, self.cross - self.e[:, :, None] * self.x[:, None] / n

    def damped(self, gram: Tensor, damping: float) -> Tensor:
        """A Gram matrix with `damping` times the mean diagonal of `gram` on its own; never less than rounding asks for."""
        diagonal = self.gram.diagonal(dim1=1, dim2=2)
        least = max(damping, self.eps * diagonal.shape[1])
        extra = (least * diagonal.mean(1)).clamp_min(torch.finfo(torch.float64).tiny ** 0.5)
        return gram + torch.diag_embed(extra[:, None].expand_as(diagonal))


def moments(
    inputs: Sequence[Tensor], geometry: Geometry, kept: Tensor, outputs: Callable[[Tensor], Tensor] | None = None, width: int = 0
) -> Moments:
    """The moments of the input channels `kept` (r,), indices into a group's, which become ``d = r * taps`` rows, channel after channel.

    `inputs`: what the layer reads, one tensor a batch. `outputs`: gives E for a batch, in the shape of what the layer gives, `width`
    channels a group.
    """
    first, groups, rows = inputs[0], geometry.groups, len(kept) * geometry.taps
    empty = lambda *sizes: torch.zeros(groups, *sizes, dtype=torch.float64, device=first.device)  # noqa: E731
    found = Moments(empty(rows, rows), empty(width, rows), empty(rows), empty(width), 0, torch.finfo(first.dtype).eps)
    for given in inputs:
        e = None if outputs is None else in_space(outputs(given), geometry).unflatten(1, (groups, width)).movedim(0, 2)
        for place, x in _unfolded(in_space(given, geometry), geometry, kept):
            for a in range(0, rows, BLOCK):
                found.gram[:, a : a + BLOCK, a:] += x[:, a : a + BLOCK] @ x[:, a:].mT
            found.x += x.sum(2)
            found.columns += x.shape[2]
            if e is not None:
                explained = e[(slice(None), slice(None), *place)].flatten(2)
                found.cross += explained @ x.mT
                found.e += explained.sum(2)
    found.gram = found.gram.triu() + found.gram.triu(1).mT
    return found


def _unfolded(x: Tensor, geometry: Geometry, kept: Tensor) -> Iterator[tuple[tuple[slice, ...], Tensor]]:
    """X (groups, d, columns) in pieces: some examples or, where one has too many, some lines of its output. With each the place of its
    columns in the output, (examples, lines).
    """
    x = x.unflatten(1, (geometry.groups, -1)).index_select(2, kept).movedim(0, 2)  # (groups, r, N, *space)
    if any(map(any, geometry.padding)):
        x = F.pad(x, [side for pair in reversed(geometry.padding) for side in pair])
    space = tuple(
        (size - d * (k - 1) - 1) // s + 1
        for size, k, s, d in zip(x.shape[3:], geometry.kernel, geometry.stride, geometry.dilation, strict=True)
    )
    of_one = x.shape[0] * x.shape[1] * geometry.taps * math.prod(space)
    examples = max(1, AT_ONCE // max(of_one, 1))
    lines = space[0] if space and of_one <= AT_ONCE else max(1, AT_ONCE * space[0] // of_one) if space else 1
    for i, a in itertools.product(range(0, x.shape[2], examples), range(0, (*space, 1)[0], lines)):
        windows = [(a, min(a + lines, size)) if d == 0 else (0, size) for d, size in enumerate(space)]
        some = x[:, :, i : i + examples]
        taps = [some[(slice(None),) * 3 + _seen(tap, geometry, windows)] for tap in itertools.product(*map(range, geometry.kernel))]
        place = (slice(i, i + examples), *(slice(low, high) for low, high in windows[:1]))
        yield place, torch.stack(taps, 2).flatten(1, 2).flatten(2)


def _seen(tap: Sequence[int], geometry: Geometry, windows: Sequence[tuple[int, int]]) -> tuple[slice, ...]:
    """Where in the padded input a tap of the kernel is, for these windows of the output."""
    each = zip(tap, geometry.dilation, geometry.stride, windows, strict=True)
    return tuple(slice(t * d + s * low, t * d + s * (high - 1) + 1, s) for t, d, s, (low, high) in each)
