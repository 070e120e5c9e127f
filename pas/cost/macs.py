"""MACs and parameters as exact functions of the channels that stay."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pas.architecture import Architecture
from pas.axes.signature import Signature
from pas.cost.counts import Counts, Dimensions

KINDS = ("macs", "params")


@dataclass(frozen=True)
class Cost:
    """A sum of products: ``sum_t coefficient_t * prod_d count_td``, each count the kept elements of one dimension.

    A count is itself a sum over the elements of the dimension of the product of their channels' 0/1 values, so the
    whole is a polynomial in the gates: exact at 0 and 1, differentiable everywhere, towards what makes a channel and
    what reads it.
    """

    counts: Counts
    coefficients: Tensor  # (T,) float64
    factors: Tensor  # (T, m) dimensions multiplied in each term; the last dimension counts 1
    makes: Tensor  # (T,) the dimension whose channels a term makes, the first of its factors; -1 where these are no axis

    def __call__(self, gates: Tensor, *, both_sides: bool = True) -> Tensor:
        """The cost (...) under 0/1 values over all channels (..., C), of which position 0 must be 1, in float64.

        Its gradient goes to what makes a channel and to what reads it, or, without `both_sides`, only to what makes it.
        """
        counts = self.counts(gates)
        counts = torch.cat([counts, counts.new_ones(*counts.shape[:-1], 1)], -1)
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
            self.counts.to(device),
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
    dimensions = Dimensions()
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
            factors.append(dimensions.index(dim))
        coefficients.append(fixed / divisor)
        rows.append(factors)
        makes.append(-1 if first is None else factors[0])
    longest = max(map(len, rows), default=0)
    padded = np.array([row + [len(dimensions.tables)] * (longest - len(row)) for row in rows], dtype=np.int64).reshape(
        len(rows), longest
    )
    return Cost(dimensions.counts(), torch.tensor(coefficients, dtype=torch.float64), torch.from_numpy(padded), torch.tensor(makes).long())


def macs(signature: Signature, architecture: Architecture) -> int:
    """Multiply-adds of convolutions and matrix products of one example, in the fused form.

    Equal to half of what `torch.utils.flop_counter` counts on ``pas.fuse(pas.slice(model, signature, architecture))``.
    """
    return build(signature, "macs").at(signature.mask(architecture))


def params(signature: Signature, architecture: Architecture) -> int:
    """Number of parameters of the fused form; a shared parameter counts once."""
    return build(signature, "params").at(signature.mask(architecture))
