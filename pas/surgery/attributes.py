"""Numbers of channels that a module keeps as attributes, such as `num_heads`: told what stays, its own code may be right again."""

from __future__ import annotations

import copy
import re
from collections import defaultdict
from typing import Any

import numpy as np
from torch import nn

from pas.axes.capture import owner
from pas.axes.signature import Signature, rows

_COUNTS = re.compile(r"head|dim|cha?n|chs|group|feature|width|planes|hidden|embed|split|size|shape|_kd?$|^dh?$|^c\d?$", re.IGNORECASE)
"""Names of attributes that may count channels."""
_OTHERS = re.compile(r"kernel|stride|window|patch|pool|grid|img|image|input|area|block|classes|registers|tokens", re.IGNORECASE)
"""Names of attributes that count something else."""


def retold(small: nn.Module, signature: Signature, keep: np.ndarray) -> nn.Module | None:
    """A copy of a network that is already cut, in which attributes that equal an old count have the new one; None where there is nothing to
    tell. Whether that makes its code right has to be tried.

    Only attributes of a module whose own forward wrote the count down, only names that count channels, and only counts of which there is
    one new value.
    """
    counts: dict[str, dict[Any, set[Any]]] = defaultdict(lambda: defaultdict(set))
    lists: dict[tuple[Any, int], dict[int, int]] = defaultdict(dict)
    for constant in signature.constants:
        kept = rows(constant.dim, keep, 0)
        old, new, path = len(kept), int(kept.sum()), owner(constant.node)
        counts[path][old].add(new)
        if constant.index is not None:
            lists[constant.node, constant.argument][constant.index] = new
    for (node, argument), found in lists.items():  # sizes that are written down as one list: pieces of a split, the shape of a scale
        sizes: Any = node.args[argument]
        if isinstance(sizes, (list, tuple)) and all(type(size) is int for size in sizes):
            counts[owner(node)][tuple(sizes)].add(tuple(found.get(i, size) for i, size in enumerate(sizes)))
    small = copy.deepcopy(small)
    changed = False
    for path, told in counts.items():
        module = dict(small.named_modules()).get(path)
        if module is None or type(module).__module__.startswith("torch."):
            continue
        for name, value in list(vars(module).items()):
            key = tuple(value) if isinstance(value, (list, tuple)) else value
            counted = all(type(one) is int for one in key) if isinstance(key, tuple) else type(key) is int
            told_new = told.get(key, set()) - {key} if counted and _COUNTS.search(name) and not _OTHERS.search(name) else set()
            if len(told_new) == 1:
                setattr(module, name, type(value)(told_new.pop()))
                changed = True
    return small if changed else None
