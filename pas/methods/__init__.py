"""The methods, by name."""

from __future__ import annotations

from pas.errors import PasError
from pas.methods.base import Method, Problem
from pas.methods.depgraph import DepGraph
from pas.methods.dms import Dms
from pas.methods.dtp import Dtp
from pas.methods.given import Given, Random, Scratch
from pas.methods.gumbel import GumbelGates
from pas.methods.halp import Halp
from pas.methods.l0 import L0
from pas.methods.magnitude import Magnitude
from pas.methods.obspa import Obspa
from pas.methods.oto import Oto
from pas.methods.pas import Pas
from pas.methods.pas_paper import PasPaper
from pas.methods.resrep import ResRep
from pas.methods.smcp import Smcp
from pas.methods.spa import Spa
from pas.methods.taylor import Taylor
from pas.methods.uniform import Uniform

Option = float | str

METHODS: dict[str, type[Method]] = {
    "pas": Pas,
    "pas_paper": PasPaper,
    "smcp": Smcp,
    "halp": Halp,
    "uniform": Uniform,
    "magnitude": Magnitude,
    "taylor": Taylor,
    "spa": Spa,
    "obspa": Obspa,
    "dms": Dms,
    "dtp": Dtp,
    "l0": L0,
    "gumbel": GumbelGates,
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
    "smcp": {
        "decay": 2e-4, "accumulate": "momentum", "schedule": "exp", "warmup": 0.11, "ramp": 0.61, "rewirings": 60.0, "reads": 0.5,
        "makes": 0.5, "norm_scale": "none",
    },
    "halp": {"ramp": 0.5, "prunings": 30.0},
    "uniform": {"criterion": "magnitude"},
    "magnitude": {"criterion": "magnitude"},
    "taylor": {"samples": 1024.0, "recost": 1.0},
    "spa": {"criterion": "group_l1", "reduce": "sum", "normalise": "mean", "samples": 128.0, "per_cost": 0.0},
    "obspa": {"samples": 256.0, "damping": 0.01, "refit": 1.0, "renorm": 1.0, "relative": 1.0, "obs": 1.0,
              "criterion": "magnitude"},
    "dms": {"steep": 1.0, "decay": 0.99, "weight": 1.0, "below": 0.0, "structure_lr": 1.3, "warmup": 0.0, "ramp": 0.8, "hold": 0.0},
    "dtp": {"scope": "global", "proximal": 1.0, "epsilon": 0.02, "score_lr": 1.0, "initial": 0.1, "warmup": 0.0, "ramp": 0.5, "hold": 0.2},
    "l0": {
        "strength": 0.1, "dual": 5.0, "hard": 1.0, "gate_lr": 20.0, "initial": 1.0, "spread": 1.0, "warmup": 0.0, "ramp": 0.5, "hold": 0.2,
    },
    "gumbel": {
        "hot": 1.0, "cold": 0.5, "strength": 0.1, "dual": 5.0, "hard": 1.0, "gate_lr": 20.0, "initial": 1.0, "spread": 1.0, "warmup": 0.0,
        "ramp": 0.5, "hold": 0.2,
    },
    "depgraph": {"reg": 1.2, "alpha": 16.0, "sl": 1.0},
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
