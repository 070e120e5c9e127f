"""What is said of a latency that was measured by turns with that of the dense network, and when nothing is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

UNSURE = 0.2
"""A latency whose interval is wider than this share of it isn't told."""


def noisy(measured: Mapping[str, Any]) -> bool:
    """Whether a result's `latency`, or a limit on it, is known too badly to be told; False where it came without an interval."""
    if not {"share", "share_low", "share_high"} <= measured.keys():
        return False
    return bool(measured["share_high"] - measured["share_low"] > UNSURE * measured["share"])


def by_turns(measured: Mapping[str, Any]) -> str | None:
    """The ratio to the dense network and its interval in words; None where it came without one."""
    if not {"share", "share_low", "share_high"} <= measured.keys():
        return None
    interval = f"95 % interval {measured['share_low']:.3f} to {measured['share_high']:.3f}"
    return f"by turns with the dense network it takes {measured['share']:.3f} of its time ({interval})"
