"""How far two computations of one thing are apart."""

from __future__ import annotations

from torch import Tensor


def relative_error(expected: Tensor, found: Tensor) -> float:
    """max |a - b| / max |a|, as in all rungs of the ladder of equalities."""
    return float((expected - found).abs().max() / expected.abs().max())
