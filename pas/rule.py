"""What a field of the configuration may be, as metadata of the field; and the check that it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from typing import Any

from pas.amount import ALLOWED, ALLOWED_TIME, parse, parse_time
from pas.errors import PasError

SHARES = ("warmup", "ramp", "hold", "memory", "floor")
"""Options of methods that are shares; all others only have to be finite and not negative."""
WITHOUT_DATA = ("group_l1", "group_l2", "bn_scale", "random")
CHOICES: dict[str, dict[str, tuple[str, ...]]] = {
    "uniform": {"criterion": ("magnitude", "l1", *WITHOUT_DATA)},
    "magnitude": {"criterion": ("magnitude", "l1", *WITHOUT_DATA)},
    "obspa": {"criterion": ("magnitude", "l1", *WITHOUT_DATA)},
    "dtp": {"scope": ("axis", "global")},
    "smcp": {
        "accumulate": ("latest", "average", "momentum"),
        "schedule": ("exp", "exp2", "linear"),
        "norm_scale": ("none", "channels", "importance"),
    },
    "spa": {
        "criterion": (*WITHOUT_DATA, "taylor_squared", "taylor_abs", "fisher", "snip", "grasp", "crop"),
        "reduce": ("sum", "mean", "max", "prod", "first"),
        "normalise": ("none", "sum", "mean", "max", "standardise", "gaussian"),
    },
}
"""Options of methods that are words, per method."""

Rule = dict[str, Any]


def rule(holds: Callable[[Any], bool], allowed: str) -> Rule:
    """`holds`: whether a value is allowed; `allowed`: the same in words."""
    return {"holds": holds, "allowed": allowed}


def at_least(low: float) -> Rule:
    """A finite number from `low` on."""
    return rule(lambda value: low <= value < math.inf, f"a number of at least {low}")


def one_of(*choices: str | None) -> Rule:
    """A word out of these."""
    return rule(lambda value: value in choices, "one of " + ", ".join("null" if c is None else c for c in choices))


def or_none(other: Rule) -> Rule:
    """Null, or what the other rule allows."""
    return rule(lambda value: value is None or other["holds"](value), f"{other['allowed']}, or null")


ABOVE_ZERO = rule(lambda value: 0 < value < math.inf, "a number above 0")
BELOW_ONE = rule(lambda value: 0 <= value < 1, "a number of at least 0 and below 1")
TEXT = rule(lambda value: bool(str(value).strip()), "a name")
BUDGET = or_none(rule(lambda value: parse(value) is not None, ALLOWED))
LATENCY_BUDGET = or_none(rule(lambda value: parse_time(value) is not None, ALLOWED_TIME))


def check(node: Any, path: str) -> None:
    """Hold every field of a dataclass, and of those inside it, against its rule. Raises PasError that names the field below `path`."""
    for one in fields(node):
        value = getattr(node, one.name)
        if is_dataclass(value):
            check(value, f"{path}{one.name}.")
        elif one.metadata and not one.metadata["holds"](value):
            raise PasError(f"{path}{one.name}={value}: must be {one.metadata['allowed']}")


def word(name: str, value: str, choices: Iterable[str]) -> str:
    """The value, a word out of these. Raises PasError that names the choices."""
    if value not in choices:
        raise PasError(f"{name}={value}: must be one of {', '.join(choices)}")
    return value


def checked_options(options: dict[str, Any], path: str, method: str) -> dict[str, Any]:
    """The options of a method, numbers as floats: 1 and 1.0 make the same run. Raises PasError for what is out of range."""
    checked: dict[str, float | str] = {}
    words = CHOICES.get(method, {})
    for name, value in options.items():
        if name in words:
            checked[name] = word(f"{path}.{name}", value, words[name])
            continue
        high = 1 if name in SHARES else math.inf
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= value <= high or value == math.inf:
            allowed = "a number from 0 to 1" if name in SHARES else "a number of at least 0"
            raise PasError(f"{path}.{name}={value}: must be {allowed}")
        checked[name] = float(value)
    return checked
