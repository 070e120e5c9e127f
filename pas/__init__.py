"""Find the width of every layer of a network under a budget.

Names are imported when they are first used, so that the command line answers before torch is loaded. Published networks become names of
timm as soon as timm is imported too.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pas.after_import import after_import

if TYPE_CHECKING:
    from pas import cost as cost
    from pas.architecture import Architecture as Architecture
    from pas.budget import Budget as Budget
    from pas.errors import PasError as PasError
    from pas.onnx_read.read import from_onnx as from_onnx
    from pas.publish.bundle import load as load
    from pas.publish.hub import Published as Published
    from pas.search import Search as Search
    from pas.surgery.forms import signature as signature
    from pas.surgery.fuse import fuse as fuse
    from pas.surgery.mask import mask as mask
    from pas.surgery.slice import slice as slice

__version__ = "0.1.0"

_HOMES = {
    "Architecture": "pas.architecture",
    "Budget": "pas.budget",
    "PasError": "pas.errors",
    "Published": "pas.publish.hub",
    "Search": "pas.search",
    "from_onnx": "pas.onnx_read.read",
    "fuse": "pas.surgery.fuse",
    "load": "pas.publish.bundle",
    "mask": "pas.surgery.mask",
    "signature": "pas.surgery.forms",
    "slice": "pas.surgery.slice",
}
__all__ = [
    "Architecture", "Budget", "PasError", "Published", "Search", "cost", "from_onnx", "fuse", "load", "mask", "signature", "slice"
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "cost":
        return importlib.import_module("pas.cost")
    if name not in _HOMES:
        raise AttributeError(f"module 'pas' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


after_import("timm", lambda: importlib.import_module("pas.publish.registry").register())
