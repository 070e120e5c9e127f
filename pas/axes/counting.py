"""What torch's own counter says of a single operator."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.utils.flop_counter import FlopCounterMode

from pas.axes.capture import place, shape
from pas.errors import PasError


def counted(node: fx.Node) -> int:
    """Multiply-adds of an operator without a rule, from torch's own counter: on meta tensors or, where it has no meta kernel, on
    zeros.

    Raises PasError when the operator runs on neither: what can't be counted must not count as nothing.
    """
    if not any(_is_tensor(argument) for argument in node.all_input_nodes):
        return 0
    operator: Any = node.target
    for device in ("meta", "cpu"):

        def empty(value: fx.Node, device: str = device) -> Any:
            return torch.zeros(shape(value), dtype=value.meta["val"].dtype, device=device) if _is_tensor(value) else value

        args, kwargs = fx.map_arg(node.args, empty), fx.map_arg(node.kwargs, empty)
        try:
            with FlopCounterMode(display=False) as counter:
                operator(*args, **kwargs)
        except (RuntimeError, NotImplementedError, TypeError, IndexError):
            continue
        return counter.get_total_flops() // 2
    raise PasError(f"the multiply-adds of {place(node)} can't be counted: it runs neither on meta tensors nor on zeros")


def _is_tensor(value: object) -> bool:
    return isinstance(value, fx.Node) and isinstance(value.meta.get("val"), torch.Tensor)
