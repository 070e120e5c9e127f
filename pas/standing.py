"""How a search stands: what its limits have come to, in numbers and in words."""

from __future__ import annotations

from typing import Any

import numpy as np

from pas.amount import human
from pas.budget import Limit, Limits
from pas.verify import Verified


def limit_rows(limits: Limits, landed: np.ndarray, now: np.ndarray, verified: Verified | None) -> list[dict[str, Any]]:
    """Per limit the target, what an export would cost, the dense cost, and what the open channels cost (`open`), latencies in ms and, once
    these channels were measured, with the share of the dense latency. `landed`, `now`: the channels of an export and the open ones (C,).
    """
    measured = verified is not None and np.array_equal(verified.mask, landed)

    def row(limit: Limit) -> dict[str, Any]:
        costs = {"target": limit.target, "achieved": limit.cost.at(landed), "dense": limit.dense, "open": limit.cost.at(now)}
        found = {"kind": limit.kind, **{name: limit.told(value) for name, value in costs.items()}, "relative": limit.relative}
        return {**found, **(verified.as_dict() if measured and verified and limit.kind == "latency" else {})}

    return [row(limit) for limit in limits.each]


def costs_now(limits: Limits, landed: np.ndarray, now: np.ndarray) -> dict[str, float]:
    """Per limit the cost of the open channels and that of an export now (latencies in ms)."""
    found: dict[str, float] = {}
    for limit in limits.each:
        found[limit.kind] = limit.told(limit.cost.at(now))
        found[f"export_{limit.kind}"] = limit.told(limit.cost.at(landed))
    return found


def in_words(limits: Limits, costs: dict[str, float]) -> dict[str, str]:
    """What `costs_now` gave beside the targets, for a progress bar."""
    words = {}
    for limit in limits.each:
        words[limit.kind] = f"{human(costs[limit.kind])} of {human(limit.told(limit.target))}"
        words["export"] = human(costs[f"export_{limit.kind}"])
    return words
