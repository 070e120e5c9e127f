"""MACs and parameters as exact functions of the channels that stay."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pas.architecture import Architecture
from pas.axes.signature import Signature

KINDS = ("macs", "params")


@dataclass(frozen=True)
class Cost:
    """A sum of products: ``sum_t coefficient_t * prod_d count_td``, each count the kept elements of one dimension.

    A count is itself a sum over the elements of the dimension of the product of their channels' 0/1 values, so the
    whole is a polynomial in the gates: exact at 0 and 1, differentiable everywhere, towards what makes a channel and
    what reads it.
    """

    elements: Tensor  # (R, k) channels whose product says whether an element stays
    owner: Tensor  # (R,) the dimension of each element
    dimensions: int
    coefficients: Tensor  # (T,) float64
    factors: Tensor  # (T, m) dimensions multiplied in each term; the last dimension counts 1
    makes: Tensor  # (T,) the dimension whose channels a term makes, the first of its factors; -1 where these are no axis

    def __call__(self, gates: Tensor, *, both_sides: bool = True) -> Tensor:
        """The cost (...) under 0/1 values over all channels (..., C), of which position 0 must be 1, in float64.

        Its gradient goes to what makes a channel and to what reads it, or, without `both_sides`, only to what makes it.
        """
        values = gates.to(torch.float64)
        batch = values.shape[:-1]
        counts = values.new_zeros(*batch, self.dimensions).index_add(-1, self.owner, values[..., self.elements].prod(-1))
        counts = torch.cat([counts, counts.new_ones(*batch, 1)], -1)
        products = counts[..., self.factors].prod(-1)
        if not both_sides:  # the derivative by what a term makes is the product of its other counts
            made = counts[..., self.makes]
            products = products.detach() + counts[..., self.factors[:, 1:]].prod(-1).detach() * (made - made.detach())
        return (self.coefficients * products).sum(-1)

    def at(self, mask: np.ndarray) -> int:
        """The cost as an exact integer (float64 carries integers up to 9e15)."""
        return round(float(self(torch.from_numpy(mask).to(torch.float64))))

    def to(self, device: torch.device) -> Cost:
        """The same cost on another device."""
        return Cost(
            self.elements.to(device),
            self.owner.to(device),
            self.dimensions,
            self.coefficients.to(device),
            self.factors.to(device),
            self.makes.to(device),
        )


def build(signature: Signature, kind: str) -> Cost:
    """The cost of a network: "macs" of one example in the fused form, or "params" of the fused form."""
    if kind == "macs":
        terms = [(term.coefficient, signature.batch, term.dims, term.sizes) for term in signature.terms]
    elif kind == "params":
        terms = [
            (1, 1, signature.dims.get(name, (None,) * len(sizes)), sizes) for name, sizes in signature.shapes.items()
        ]
    else:
        raise ValueError(f"cost must be one of {', '.join(KINDS)}, not {kind!r}")
    tables: list[np.ndarray] = []
    index: dict[tuple, int] = {}
    rows: list[list[int]] = []
    coefficients: list[float] = []
    makes: list[int] = []
    for coefficient, divisor, dims, sizes in terms:
        fixed, factors = coefficient, []
        first = dims[0] if dims else None
        for dim, size in zip(dims, sizes, strict=True):
            if dim is None:
                fixed *= size
                continue
            key = (dim.shape, dim.tobytes())
            if key not in index:
                index[key] = len(tables)
                tables.append(dim)
            factors.append(index[key])
        coefficients.append(fixed / divisor)
        rows.append(factors)
        makes.append(-1 if first is None else factors[0])
    width = max([table.shape[1] for table in tables], default=1)
    elements = np.concatenate(
        [np.pad(t, ((0, 0), (0, width - t.shape[1]))) for t in tables] or [np.zeros((0, 1), dtype=np.int64)]
    )
    owner = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    longest = max(map(len, rows), default=0)
    padded = np.array([row + [len(tables)] * (longest - len(row)) for row in rows], dtype=np.int64).reshape(
        len(rows), longest
    )
    return Cost(torch.from_numpy(elements), torch.from_numpy(owner).long(), len(tables),
                torch.tensor(coefficients, dtype=torch.float64), torch.from_numpy(padded), torch.tensor(makes).long())  # fmt: skip


def macs(signature: Signature, architecture: Architecture) -> int:
    """Multiply-adds of convolutions and matrix products of one example, in the fused form.

    Equal to half of what `torch.utils.flop_counter` counts on ``pas.fuse(pas.slice(model, signature, architecture))``.
    """
    return build(signature, "macs").at(signature.mask(architecture))


def params(signature: Signature, architecture: Architecture) -> int:
    """Number of parameters of the fused form; a shared parameter counts once."""
    return build(signature, "params").at(signature.mask(architecture))
