"""The methods, by name."""

from __future__ import annotations

from pas.errors import PasError
from pas.methods.base import Method, Problem
from pas.methods.depgraph import DepGraph
from pas.methods.given import Given, Random, Scratch
from pas.methods.magnitude import Magnitude
from pas.methods.oto import Oto
from pas.methods.pas import Pas
from pas.methods.pas_paper import PasPaper
from pas.methods.resrep import ResRep
from pas.methods.taylor import Taylor
from pas.methods.uniform import Uniform

Option = float | str

METHODS: dict[str, type[Method]] = {
    "pas": Pas,
    "pas_paper": PasPaper,
    "uniform": Uniform,
    "magnitude": Magnitude,
    "taylor": Taylor,
    "depgraph": DepGraph,
    "oto": Oto,
    "resrep": ResRep,
    "given": Given,
    "random": Random,
    "scratch": Scratch,
}
DEFAULTS: dict[str, dict[str, Option]] = {
    "pas": {"gate_lr": 0.1, "warmup": 0.2, "ramp": 0.3, "hold": 0.2, "memory": 0.9, "floor": 0.1, "reach": 3.0,
            "scarcity": 1.0, "follow": 1.0, "samples": 1024.0, "noise": 0.0},
    "pas_paper": {
        "alpha": 20.0, "initial": 1.0, "decay": 1.0, "both_sides": 0.0, "guard": 1.0, "land": 1.0, "normalise": 0.0, "multiplier": 0.0,
        "spread": 0.0, "noise": 0.0,
    },
    "uniform": {"criterion": "magnitude"},
    "magnitude": {"criterion": "magnitude"},
    "taylor": {"samples": 1024.0, "recost": 1.0},
    "depgraph": {"reg": 0.01, "alpha": 16.0, "sl": 1.0},
    "oto": {"warmup": 0.2, "shrink": 0.3, "epsilon": 0.0, "amplify": 2.0, "cap": 10.0},
    "resrep": {"lasso": 1e-4, "momentum": 0.99, "warmup": 0.1, "ramp": 0.3, "every": 0.02, "fall": 0.2},
    "given": {},
    "random": {},
    "scratch": {},
}  # fmt: skip
"""Options of each method; `conf/method/NAME.yaml` holds the same."""


def named(name: str) -> type[Method]:
    """The method of this name. Raises PasError when there is none."""
    if name not in METHODS:
        raise PasError(f"no method {name!r}; there are {', '.join(METHODS)}")
    return METHODS[name]


__all__ = ["DEFAULTS", "METHODS", "Method", "Option", "Problem", "named"]
