"""Amounts as people write them: "300 M" for a budget, 18.7 M in a table."""

from __future__ import annotations

import math
import re

_TEXT = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*(?:([kKmMgG]?)\s*(?:macs?|params?|parameters)?|(%))\s*")
_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}

ALLOWED = 'a share in (0, 1], a whole number, or text with a unit like "300 M" or "50 %"'


def parse(amount: object) -> float | None:
    """A limit as a number: at most 1 means a share of the dense cost. None for what is no amount."""
    if isinstance(amount, str):
        match = _TEXT.fullmatch(amount)
        if match and match[3]:
            share = float(match[1]) / 100
            return share if 0 < share <= 1 else None
        number = float(match[1]) * _UNITS[match[2].lower()] if match else 0.0
        least = 1.0 if match and match[2] else 0.0  # "0.0005 k" is no share
        return number if least < number < math.inf else None
    if isinstance(amount, bool) or not isinstance(amount, (int, float)) or not 0 < amount < math.inf:
        return None
    return float(amount) if amount <= 1 or float(amount).is_integer() else None


def human(value: float) -> str:
    """A count with three digits after its unit is chosen: 2.10 G, 18.7 M, 35.2 k."""
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= scale:
            scaled = value / scale
            return f"{scaled:.2f} {unit}" if scaled < 10 else f"{scaled:.1f} {unit}" if scaled < 100 else f"{scaled:.0f} {unit}"
    return f"{value:.4g}"
