"""The table of rules: operator -> how the types of its inputs become the types of its outputs.

A rule is a function ``(trace, node) -> type`` registered for its operators, where a type is one entry a dimension
(see `pas.axes.ids`); of several results it puts the types into `trace.many` and returns the first one's. An operator without a rule
freezes everything that it reads: nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import _ops, fx

from pas.axes.trace import Trace, Type
from pas.errors import PasError

Rule = Callable[[Trace, fx.Node], Type]
RULES: dict[Any, Rule] = {}


def rule(*operators: Any) -> Callable[[Rule], Rule]:
    """Register a rule for operators, all overloads alike: ``torch.ops.lab.swish``, or what `torch.library.custom_op` made of a function.

    Raises PasError for what is no operator.
    """
    packets = [_packet(operator) for operator in operators]

    def register(function: Rule) -> Rule:
        for packet in packets:
            RULES[packet] = function
        return function

    return register


def _packet(operator: Any) -> Any:
    """An operator with all its overloads. Python's own functions (`operator.getitem`) are one each."""
    overload = getattr(operator, "_opoverload", operator)  # of a custom operator's function
    packet = getattr(overload, "overloadpacket", overload)
    if isinstance(packet, _ops.OpOverloadPacket) or getattr(packet, "__module__", "") == "_operator":
        return packet
    raise PasError(f"a rule is for an operator, such as torch.ops.lab.swish, not for {operator!r}")
