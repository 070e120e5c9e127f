"""Amounts as people write them: "300 M" for a budget, 18.7 M in a table."""

from __future__ import annotations

import math
import re

_TEXT = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*(?:([kKmMgG]?)\s*(?:macs?|params?|parameters)?|(%))\s*")
_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}

_TIME = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*(ms|us|µs|ns|s|%)?\s*")
_NANOSECONDS = {"s": 1e9, "ms": 1e6, "us": 1e3, "µs": 1e3, "ns": 1.0}

ALLOWED = 'a share in (0, 1], a whole number, or text with a unit like "300 M" or "50 %"'
ALLOWED_TIME = 'a share in (0, 1], milliseconds above 1, or text with a unit like "8 ms", "500 us" or "50 %"'
UNITS = {"macs": "MACs", "params": "parameters", "latency": "ms"}
BAND = 0.03
"""A network meets a latency when it takes at most that, and at most so much less of it."""


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


def parse_time(amount: object) -> float | None:
    """A latency in nanoseconds: at most 1 means a share of the dense one, a number above 1 without a unit milliseconds. None for what is no
    time.
    """
    unit = None
    if isinstance(amount, str):
        match = _TIME.fullmatch(amount)
        if match is None:
            return None
        amount, unit = float(match[1]), match[2]
    if isinstance(amount, bool) or not isinstance(amount, (int, float)) or not 0 < amount < math.inf:
        return None
    if unit == "%":
        return amount / 100 if amount <= 100 else None
    if unit is None:
        return float(amount) if amount <= 1 else amount * _NANOSECONDS["ms"]
    return amount * _NANOSECONDS[unit] if amount * _NANOSECONDS[unit] > 1 else None


def human(value: float) -> str:
    """A count with three digits after its unit is chosen: 2.10 G, 18.7 M, 35.2 k."""
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= scale:
            scaled = value / scale
            return f"{scaled:.2f} {unit}" if scaled < 10 else f"{scaled:.1f} {unit}" if scaled < 100 else f"{scaled:.0f} {unit}"
    return f"{value:.4g}"


def counted(number: int, noun: str) -> str:
    """So many of something: "1 seed", "3 seeds"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def time_in_words(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    for unit, scale, least in (("h", 3600.0, 2.0), ("min", 60.0, 2.0), ("s", 1.0, 1.0)):
        if seconds >= least * scale:
            return f"{seconds / scale:.1f} {unit}"
    return f"{1000 * seconds:.0f} ms"
