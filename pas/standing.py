"""How a search stands: what it has reached, in numbers and in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pas.amount import human
from pas.budget import Limit

if TYPE_CHECKING:
    from pas.search import Search


def report(search: Search) -> dict[str, Any]:
    """What the search has reached: per limit the target, what an export would cost, the dense cost, and what the open channels cost
    (`open`), latencies in ms and, once they were measured, with the share of the dense latency; the gates that the export would close or
    reopen; widths; the axes that stay whole, and why.
    """
    mask, now = search.landed(), search.method.open()
    measured = search.verified if search.verified is not None and np.array_equal(search.verified.mask, mask) else None

    def of(limit: Limit) -> dict[str, Any]:
        costs = {"target": limit.target, "achieved": limit.cost.at(mask), "dense": limit.dense, "open": limit.cost.at(now)}
        found = {"kind": limit.kind, **{name: limit.told(value) for name, value in costs.items()}, "relative": limit.relative}
        return {**found, **(measured.as_dict() if measured is not None and limit.kind == "latency" else {})}

    return {
        "budget": [of(limit) for limit in search.limits.each],
        "closed_by_export": int((now & ~mask).sum()),
        "reopened_by_export": int((~now & mask).sum()),
        "widths": search.signature.architecture(search.lifted(mask)).widths(),
        "frozen": {axis.name: axis.frozen for axis in search.signature.axes if not axis.prunable},
    }


def numbers(search: Search) -> dict[str, float]:
    """How far the search is: open channels, and per limit the cost of the open channels and that of an export now (latencies in ms)."""
    now, landed = search.method.open(), search.landed()
    found: dict[str, float] = {"open": int(now[search.method.problem.free].sum())}
    for limit in search.limits.each:
        found[limit.kind] = limit.told(limit.cost.at(now))
        found[f"export_{limit.kind}"] = limit.told(limit.cost.at(landed))
    return found


def status(search: Search) -> dict[str, str]:
    """`numbers` in a few words, for a progress bar."""
    known = numbers(search)
    words = {"open": f"{known['open']}/{len(search.method.problem.free)}"}
    for limit in search.limits.each:
        words[limit.kind] = f"{human(known[limit.kind])} of {human(limit.told(limit.target))}"
        words["export"] = human(known[f"export_{limit.kind}"])
    return words
