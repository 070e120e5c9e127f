"""How many elements of each dimension stay, as polynomials in the gates: what every cost is made of."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pas.axes.ids import Table


@dataclass(frozen=True)
class Counts:
    """Of each dimension the sum over its elements of the product of their channels' values: exact at 0 and 1, differentiable everywhere."""

    elements: Tensor  # (R, k) channels whose product says whether an element stays
    owner: Tensor  # (R,) the dimension of each element
    dimensions: int

    def __call__(self, gates: Tensor) -> Tensor:
        """The counts (..., dimensions) under 0/1 values over all channels (..., C), of which position 0 must be 1, in float64."""
        values = gates.to(torch.float64)
        return values.new_zeros(*values.shape[:-1], self.dimensions).index_add(-1, self.owner, values[..., self.elements].prod(-1))

    def to(self, device: torch.device) -> Counts:
        """The same counts on another device."""
        return Counts(self.elements.to(device), self.owner.to(device), self.dimensions)


@dataclass
class Dimensions:
    """Dimensions in the order in which they were met, each once."""

    tables: list[Table] = field(default_factory=list)
    _index: dict[tuple, int] = field(default_factory=dict)

    def index(self, table: Table) -> int:
        """The place of a dimension."""
        key = (table.shape, table.tobytes())
        if key not in self._index:
            self._index[key] = len(self.tables)
            self.tables.append(table)
        return self._index[key]

    def counts(self) -> Counts:
        """How many elements of each stay."""
        width = max([table.shape[1] for table in self.tables], default=1)
        padded = [np.pad(table, ((0, 0), (0, width - table.shape[1]))) for table in self.tables]
        elements = np.concatenate(padded or [np.zeros((0, 1), dtype=np.int64)])
        owner = np.repeat(np.arange(len(self.tables)), [len(table) for table in self.tables])
        return Counts(torch.from_numpy(elements), torch.from_numpy(owner).long(), len(self.tables))
