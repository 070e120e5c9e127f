"""One rule per ATen operator, by what the operators do."""

from __future__ import annotations

import torch
from torch import fx

from pas.axes.rules import elementwise, fourier, movement, norms, pieces, products, recurrent  # importing them registers their rules
from pas.axes.rules.table import RULES, Rule

__all__ = ["elementwise", "find_rule", "fourier", "movement", "norms", "pieces", "products", "recurrent"]


def find_rule(node: fx.Node) -> Rule | None:
    """The rule of a call, if there is one: by operator, or by torch's own `pointwise` tag."""
    target = node.target
    packet = getattr(target, "overloadpacket", target)
    if packet in RULES:
        return RULES[packet]
    return elementwise.pointwise if torch.Tag.pointwise in getattr(target, "tags", ()) else None
