"""Numbers of channels that a module keeps as attributes, such as `num_heads`: told what stays, its own code may be right again."""

from __future__ import annotations

import ast
import copy
import inspect
import textwrap
from collections import defaultdict
from functools import cache
from typing import Any

import numpy as np
from torch import nn

from pas.axes.capture import owner
from pas.axes.signature import Signature, rows

_SHAPING = ("reshape", "view", "split", "split_with_sizes", "chunk", "expand", "unflatten", "flatten", "narrow", "repeat", "zeros", "ones",
            "empty", "new_zeros", "new_ones", "new_empty", "full", "group_norm", "layer_norm", "rms_norm")  # fmt: skip
"""Calls whose numbers are sizes."""
_BEFORE = ("__init__", "__repr__", "extra_repr", "reset_parameters", "init_weights", "_init_weights")
"""Methods that are over, or only say something."""
Counts = dict[str, dict[Any, set[Any]]]
"""Module -> a number or a list of numbers in its code -> what it would be now."""


def retold(small: nn.Module, signature: Signature, keep: np.ndarray) -> nn.Module | None:
    """A copy of a network that is already cut, in which attributes that equal an old count have the new one; None where there is nothing to
    tell. Whether that makes its code right has to be tried.

    Only attributes of a module whose own forward wrote the count down, which its class uses for nothing but sizes, and only counts of which
    there is one new value: a number that is also divided by, or read in training only, stays what it is.
    """
    small = copy.deepcopy(small)
    modules, changed = dict(small.named_modules()), False
    for path, told in _counts(signature, keep).items():
        module = modules.get(path)
        if module is None or type(module).__module__.startswith("torch."):
            continue
        for name in _sizes(module.__class__):
            value: Any = vars(module).get(name)
            key = tuple(value) if type(value) in (list, tuple) else value
            new = told.get(key, set()) - {key} if type(key) in (int, tuple) else set()
            if len(new) == 1:
                (count,) = new
                setattr(module, name, list(count) if type(value) is list else count)
                changed = True
    return small if changed else None


def _counts(signature: Signature, keep: np.ndarray) -> Counts:
    """What each module's code has written down, and what that would be now."""
    counts: Counts = defaultdict(lambda: defaultdict(set))
    lists: dict[tuple[Any, int], dict[int, int]] = defaultdict(dict)
    for constant in signature.constants:
        kept = rows(constant.dim, keep, 0)
        counts[owner(constant.node)][len(kept)].add(int(kept.sum()))
        if constant.index is not None:
            lists[constant.node, constant.argument][constant.index] = int(kept.sum())
    for (node, argument), found in lists.items():  # sizes that are written down as one list: pieces of a split, the shape of a scale
        sizes: Any = node.args[argument]
        if isinstance(sizes, (list, tuple)) and all(type(size) is int for size in sizes):
            counts[owner(node)][tuple(sizes)].add(tuple(found.get(i, size) for i, size in enumerate(sizes)))
    return counts


@cache
def _sizes(kind: type[nn.Module]) -> tuple[str, ...]:
    """Attributes that the code of a class uses for sizes and nothing else: inside calls such as `reshape`, bounds of slices, assertions."""
    used: dict[str, bool] = {}
    methods: dict[str, list[ast.stmt]] = defaultdict(list)
    for base in kind.__mro__[: kind.__mro__.index(nn.Module)]:
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError, SyntaxError):  # no source, as in an interactive session
            return ()
        for item in tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else tree.body:
            methods[getattr(item, "name", "")].append(item)
    for name, found in methods.items():  # what a class overrides isn't run, unless it calls it
        calls = any(isinstance(one, ast.Name) and one.id == "super" for one in ast.walk(found[0]))
        for part in found if calls or not name else found[:1]:
            _note(part, False, used)
    return tuple(name for name, only in used.items() if only)


def _note(node: ast.AST, sizing: bool, used: dict[str, bool]) -> None:
    """Whether every use of each attribute of `self` so far is a size. `sizing`: whether the node stands where only sizes stand."""
    if isinstance(node, ast.FunctionDef) and node.name in _BEFORE:
        return
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
        used[node.attr] = used.get(node.attr, True) and sizing
        return
    if isinstance(node, ast.Call):
        function: Any = node.func
        _note(function, False, used)
        shaping = getattr(function, "attr", getattr(function, "id", "")) in _SHAPING
        for argument in [*node.args, *node.keywords]:
            _note(argument, shaping, used)
        return
    shape = isinstance(node, ast.Assign) and all(isinstance(name, ast.Name) and "shape" in name.id for name in node.targets)
    within = shape or isinstance(node, (ast.Slice, ast.Assert)) or (sizing and isinstance(node, _INSIDE))
    for child in ast.iter_child_nodes(node):
        _note(child, within, used)


_INSIDE = (ast.keyword, ast.Starred, ast.Tuple, ast.List, ast.BinOp, ast.operator, ast.UnaryOp, ast.Compare, ast.Subscript)
"""What sizes are computed with."""
