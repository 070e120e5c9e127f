"""The methods, by name."""

from __future__ import annotations

from pas.methods.base import Method, Problem
from pas.methods.pas import Pas
from pas.methods.uniform import Uniform

METHODS: dict[str, type[Method]] = {"pas": Pas, "uniform": Uniform}
DEFAULTS: dict[str, dict[str, float]] = {
    "pas": {"gate_lr": 0.1, "warmup": 0.2, "ramp": 0.3, "hold": 0.2, "memory": 0.9, "floor": 0.1, "reach": 3.0},
    "uniform": {},
}
"""Options of each method; `conf/method/NAME.yaml` holds the same."""

__all__ = ["DEFAULTS", "METHODS", "Method", "Problem"]
