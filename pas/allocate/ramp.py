"""How a budget tightens, for methods that prune in many steps."""

from __future__ import annotations

import math
from collections.abc import Callable

STEEPNESS = 0.05 * 55
"""Of SMCP's exponential form: ``1 - e^{-0.05 t}`` over a ramp of 55 epochs."""

RAMPS: dict[str, Callable[[float, float], float]] = {
    "exp": lambda first, share: first + (1 - first) * math.expm1(-STEEPNESS * share) / math.expm1(-STEEPNESS),
    "exp2": lambda first, share: first ** (1 - share),
    "linear": lambda first, share: first + (1 - first) * share,
}
"""(load at the start, share of the ramp that is over) -> the load that is allowed, 1 at the end.

With r the cost to be removed, ``1 - 1 / first`` of that at the start, these are SMCP's (https://arxiv.org/abs/2211.02206): ``exp``, r (1 -
e^{-0.05 t}) / (1 - e^{-0.05 T}); ``exp2``, 1 - (1 - r)^{t/T}, which is also the geometric one of FORCE (https://arxiv.org/abs/2006.09081)
that HALP takes; ``linear``, r t / T.
"""


def moments(first: int, length: int, count: int) -> dict[int, float]:
    """Of `count` equal intervals over `length` steps after step `first` the last steps, and the share of the whole that is over there.

    Of several that fall on one step the last counts. The end is always among them.
    """
    return {first + max(1, round(i * length / count)): i / count for i in range(1, count + 1)}
