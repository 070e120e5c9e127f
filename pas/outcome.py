"""What a run came to, as its `result.json` says it."""

from __future__ import annotations

from typing import Any

from pas.architecture import Architecture
from pas.cost.macs import macs, params
from pas.cost.measure import Latency, Ratio, ratio
from pas.environment import environment
from pas.keys import method_label, settings, variant
from pas.parent import Parent
from pas.search import Search
from pas.setting import Setting


def outcome(
    setting: Setting,
    search: Search,
    architecture: Architecture,
    parent: Parent,
    top1: float,
    times: dict[str, Latency],
    seconds: dict[str, float],
) -> dict[str, Any]:
    """The content of `result.json`, but for its epochs, recovery and exactness."""
    config, signature = setting.config, search.signature
    optimality = search.optimality()
    dense, dense_ms, share = signature.dense(), times["dense"].median_ms, ratio(times["searched"], times["dense"])
    limits = [_as_measured(limit, search, dense_ms, share) for limit in search.report()["budget"]]
    return {
        "schema": 1,
        "run_key": setting.tracker.run.key,
        "model": config.model.label,
        "data": config.data.name,
        "split": config.data.split,
        "method": method_label(config),
        "seed": config.seed,
        "variant": variant(config),
        "settings": settings(config),
        "budget": limits[0],
        "limits": limits,
        "dense": {
            "top1": parent.top1,
            "params": params(signature, dense),
            "macs": macs(signature, dense),
            "latency_ms": dense_ms,
        },
        "searched": {
            "top1": top1,
            "params": params(signature, architecture),
            "macs": macs(signature, architecture),
            "latency_ms": share.median * dense_ms,
            "form": "fused",
        },
        "optimality": None if optimality is None else optimality.as_dict(),
        "seconds": seconds,
        "latency": {**times["searched"].as_dict(), "share": share.median, "share_low": share.low, "share_high": share.high},
        "environment": environment(str(setting.device)),
    }


def _as_measured(limit: dict[str, Any], search: Search, dense: float, share: Ratio) -> dict[str, Any]:
    """A limit as its result says it: latency as in the last measurement, `dense` in ms, of which the target is the same share.

    What the searched network takes is told by the ratio, of turns beside each other: two medians of a noisy machine would say another one.
    """
    if limit["kind"] != "latency":
        return limit
    relative = next(one.relative for one in search.limits.each if one.kind == "latency")
    target = limit["share_target"] * dense if relative else limit["target"]
    found = {"share": share.median, "share_low": share.low, "share_high": share.high, "share_target": target / dense}
    return {**limit, "target": target, "achieved": share.median * dense, "dense": dense, "verified_share": limit["share"], **found}
