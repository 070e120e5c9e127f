"""An integer that is only known when the network runs, such as the number of examples."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import fx

from pas.errors import PasError


class Size:
    """An integer that follows from the sizes of the input; Python's arithmetic on it grows the graph, by calls of `call`."""

    def __init__(self, call: Callable[..., Any], node: fx.Node) -> None:
        self._call, self.node = call, node

    @property
    def probes(self) -> tuple[int, int]:
        """Its value at both sizes."""
        return self.node.meta["probes"]


def _arithmetic(function: Callable[..., Any], *, turned: bool = False) -> Callable[[Size, Any], Any]:
    def method(self: Size, other: Any) -> Any:
        other = other if isinstance(other, Size) else int(other)
        return self._call(function, *((other, self) if turned else (self, other)))

    return method


def _comparison(function: Callable[..., bool]) -> Callable[[Size, Any], bool]:
    def method(self: Size, other: Any) -> bool:
        others = other.probes if isinstance(other, Size) else (other, other)
        answers = {function(a, b) for a, b in zip(self.probes, others, strict=True)}
        if len(answers) == 2:
            raise PasError("what it computes depends on the size of the input; write the file again with fixed sizes")
        return answers.pop()

    return method


for _name in ("add", "sub", "mul", "floordiv", "mod"):
    setattr(Size, f"__{_name}__", _arithmetic(getattr(operator, _name)))
    setattr(Size, f"__r{_name}__", _arithmetic(getattr(operator, _name), turned=True))
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(Size, f"__{_name}__", _comparison(getattr(operator, _name)))
Size.__hash__ = object.__hash__  # type: ignore[method-assign]
