"""The signature of a network: its axes, and every parameter written in them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pas.architecture import Architecture
from pas.axes.capture import Example, Program
from pas.axes.ids import Dim
from pas.axes.trace import Constant, Shuffle, Term
from pas.errors import PasError


class Slot(NamedTuple):
    """A place where an axis lives: dimension `dim` of a parameter or buffer."""

    parameter: str
    dim: int


@dataclass(frozen=True)
class Axis:
    """A named set of channels that are kept or dropped one by one, everywhere at once.

    `frozen` is None, or why the axis stays whole. `exact`: masked equals sliced for every set of channels.
    `start` is the position of channel 0 in a vector over all channels of the network (position 0 is "always kept"). `ties`: what made the
    channels of several layers one, such as "aten.add in layer1.0".
    """

    name: str
    size: int
    prunable: bool
    exact: bool
    slots: tuple[Slot, ...]
    frozen: str | None
    start: int
    ties: tuple[str, ...]


@dataclass(frozen=True)
class Signature:
    """What structured pruning needs to know of a network, read off its fused form.

    A *table* (`pas.axes.ids`) types a dimension by positions in one vector over all channels, `channels` long: `mask`
    makes such a vector from an architecture, `rows` says which elements of a dimension it keeps.

    `dims`: parameter or buffer -> one table (or None) a dimension. `readers`: the slots that sum over an axis. `makers`: the slots whose
    zeros switch channels off that no parameter reads (queries and keys).
    `groups`: the group index of each grouped convolution. `terms`: multiply-adds of `batch` examples. `constants`:
    integers in the graph that count channels. `shuffles`: nodes that only put channels into another order. `shapes`: all
    parameters of the fused form, those without axes included.
    """

    axes: tuple[Axis, ...]
    channels: int
    dims: dict[str, tuple[Dim, ...]]
    shapes: dict[str, tuple[int, ...]]
    readers: tuple[Slot, ...]
    makers: tuple[Slot, ...]
    groups: dict[str, Dim]
    terms: tuple[Term, ...]
    constants: tuple[Constant, ...]
    shuffles: tuple[Shuffle, ...]
    batch: int
    program: Program
    example: Example

    def axis(self, name: str) -> Axis:
        """The axis of this name."""
        for axis in self.axes:
            if axis.name == name:
                return axis
        near = difflib.get_close_matches(name, [axis.name for axis in self.axes], 3, 0.3)
        raise PasError(f"no axis {name!r}" + (f"; did you mean {', '.join(near)}?" if near else ""))

    @property
    def prunable(self) -> tuple[Axis, ...]:
        """The axes that may be sliced."""
        return tuple(axis for axis in self.axes if axis.prunable)

    def dense(self) -> Architecture:
        """Everything stays."""
        return Architecture(
            {a.name: a.size for a in self.prunable}, {a.name: tuple(range(a.size)) for a in self.prunable}
        )

    def mask(self, architecture: Architecture) -> np.ndarray:
        """An architecture as booleans over all channels. Raises PasError when it belongs to another network."""
        sizes = {axis.name: axis.size for axis in self.prunable}
        if architecture.sizes != sizes:
            odd = [n for n in {**sizes, **architecture.sizes} if sizes.get(n) != architecture.sizes.get(n)]
            raise PasError(
                f"this architecture belongs to another network: axis {odd[0]!r} differs"
                if odd
                else "this architecture has the axes in another order"
            )
        mask = np.ones(self.channels, dtype=bool)
        for axis in self.prunable:
            mask[axis.start : axis.start + axis.size] = False
            mask[axis.start + np.asarray(architecture.kept[axis.name])] = True
        return mask

    def architecture(self, mask: np.ndarray) -> Architecture:
        """The inverse of `mask`."""
        kept = {a.name: tuple(int(i) for i in np.flatnonzero(mask[a.start : a.start + a.size])) for a in self.prunable}
        return Architecture({a.name: a.size for a in self.prunable}, kept)


def rows(dim: Dim, mask: np.ndarray, size: int) -> np.ndarray:
    """Which elements of a dimension stay under a mask over all channels."""
    return np.ones(size, dtype=bool) if dim is None else np.all(mask[dim], axis=1)
