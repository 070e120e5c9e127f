"""The table of rules: operator -> how the types of its inputs become the types of its outputs.

A rule is a function ``(trace, node) -> type`` registered for its operators, where a type is one entry a dimension
(see `pas.axes.ids`); of several results it puts the types into `trace.many` and returns the first one's. An operator without a rule
freezes everything that it reads: nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from pas.axes.trace import Trace, Type

Rule = Callable[[Trace, fx.Node], Type]
RULES: dict[Any, Rule] = {}


def rule(*operators: Any) -> Callable[[Rule], Rule]:
    """Register a rule for operator packets (all overloads alike)."""

    def register(function: Rule) -> Rule:
        for operator in operators:
            RULES[operator] = function
        return function

    return register
