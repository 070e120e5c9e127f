"""Why a network can't be captured, and what a person can do about it, in one line each."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from pas.errors import first_line, place

ADVICE = (
    (
        r"data-dependent|unbacked|\.item\(\)",
        "forward() decides by what is in a tensor, which a graph can't: use torch.where or a mask, or make the choice an attribute",
    ),
    (
        r"no fake impl|register_fake|no meta kernel|meta tensors",
        "its sizes must be known without running it: register them with torch.library.register_fake",
    ),
    (r"numpy|__array__|tolist", "the tensor leaves torch there, and a graph with it: compute this with torch"),
    (r"specialized it to be a constant", "forward() must take any number of examples: read x.shape[0], not len(x) or a number"),
)
"""What the exporter's message says, and what it means. The first that fits."""


def refused(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception) -> str:
    """The line for an exporter's exception: whether the network runs at all, where it stopped, what to do."""
    name = type(model).__name__
    try:
        with torch.no_grad():
            model(*args, **kwargs)
    except Exception as own:  # whatever the network's own code raises
        batch = next((len(value) for value in [*args, *kwargs.values()] if isinstance(value, torch.Tensor) and value.dim()), 1)
        return (
            f"{name} doesn't run on {batch} copies of this example: {type(own).__name__}: {first_line(own)}{place(own)}. "
            "Give an example as the network takes it, a tensor and not its shape; it must take any number of them."
        )
    known = (words for pattern, words in ADVICE if re.search(pattern, str(error)))
    advice = next(known, "see torch.export.export(model, (example,), strict=False)")
    return f"{name} can't be captured by torch.export{place(error)}: {advice} ({type(error).__name__}: {first_line(error)})"


def open_ended(name: str, node: fx.Node, where: str) -> str:
    """The line for a tensor whose size depends on the data; `where`: its operator and module."""
    return (
        f"{name} can't be searched: the size of what {where} makes depends on the data{_source(node)}. "
        "Keep the size: multiply by a mask, or use torch.where or topk with a fixed number"
    )


def _source(node: fx.Node) -> str:
    """The last line of Python that made a node, " (nets.py, line 9: y = x[x > 0])"; "" where it isn't known."""
    found = re.findall(r'File "([^"]+)", line (\d+), in [^\n]*\n\s*([^\n]+)', node.meta.get("stack_trace") or "")
    return f" ({Path(found[-1][0]).name}, line {found[-1][1]}: {found[-1][2].strip()})" if found else ""
