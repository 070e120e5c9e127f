"""What `pas inspect` shows: the axes of a network, what each controls, and what is frozen and why."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pas.amount import human
from pas.axes.signature import Axis, Signature
from pas.cost.macs import KINDS, Cost, build
from pas.errors import PasError
from pas.surgery.forms import signature
from pas.wanted import Wanted, network


def inspect(wanted: Wanted) -> Signature:
    """The signature of a network by name, without weights, of one's own, or of that in an ONNX file. Raises PasError as `network` does."""
    if wanted.name is None:
        return signature(*network(wanted))
    try:
        return signature(*network(wanted, "meta"))
    except (PasError, NotImplementedError, RuntimeError):  # some networks compute with their tables before they run
        return signature(*network(wanted))


def rows(sig: Signature) -> list[dict[str, Any]]:
    """One row an axis: name, size, whether and why not it may be sliced, where it lives, what ties these places together, and the share of
    the cost that goes with it.

    A share is what the network would save without the axis; an axis takes part in what its neighbours cost, so shares overlap.
    """
    costs = {kind: build(sig, kind) for kind in KINDS}
    found = []
    for axis in sig.axes:
        found.append(
            {
                "name": axis.name,
                "size": axis.size,
                "prunable": axis.prunable,
                "exact": axis.exact,
                "frozen": axis.frozen,
                "slots": [list(slot) for slot in axis.slots],
                "ties": list(axis.ties),
                **{f"{kind}_share": round(share(cost, [axis], sig.channels), 6) for kind, cost in costs.items()},
            }
        )
    return found


def share(cost: Cost, axes: Iterable[Axis], channels: int) -> float:
    """The share of a network's cost that goes with these axes: what it would save without them."""
    everything = np.ones(channels, dtype=bool)
    without = everything.copy()
    for axis in axes:
        without[axis.start : axis.start + axis.size] = False
    return 1 - cost.at(without) / cost.at(everything)


def as_json(name: str, sig: Signature, pattern: str | None = None) -> dict[str, Any]:
    """All of it as plain data, or of the axes that a pattern names."""
    everything = np.ones(sig.channels, dtype=bool)
    found = rows(sig) if pattern is None else chosen(sig, pattern)
    return {"model": name, **{kind: build(sig, kind).at(everything) for kind in KINDS}, "axes": found}


def title(name: str, sig: Signature) -> str:
    """The network in one line."""
    everything = np.ones(sig.channels, dtype=bool)
    macs, params = (build(sig, kind).at(everything) for kind in KINDS)
    return f"{name}: {len(sig.prunable)} prunable axes, {human(macs)} MACs, {human(params)} parameters (fused form)"


def show(name: str, sig: Signature, console: Console) -> None:
    """A table of all axes in the order of the network; it fits into 80 columns, and says more in wider ones."""
    console.print(title(name, sig), style="bold", highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("axis", overflow="fold", max_width=28)
    for column in ("size", "MACs", "params"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column(Text("weights[dimension], or why frozen"), overflow="fold")
    shown = max(1, (console.width - 60) // 20)
    for row in rows(sig):
        shares = [f"{100 * row[f'{kind}_share']:.1f} %" for kind in KINDS]
        tied = _tied(row["ties"], shown) if console.width >= 100 else ""
        words = row["frozen"] or ("" if row["exact"] else "(norm) ") + "; tied by ".join(filter(None, (_places(row["slots"], shown), tied)))
        table.add_row(Text(row["name"]), str(row["size"]), *shares, Text(words))
    console.print(table)
    console.print("Shares overlap: a layer costs both what it reads and what it makes.", style="dim", highlight=False)
    if not all(axis.exact for axis in sig.prunable):
        words = "(norm): a slice changes the statistics of a norm, softmax or mean over it."
        console.print(words, style="dim", highlight=False)
    if any((axis.frozen or "").startswith("no rule") for axis in sig.axes):
        words = "No rule: what such an operator reads stays whole until it gets one (README, Limits)."
        console.print(words, style="dim", highlight=False)
    words = "--axis NAME (or a pattern, 'blocks.*') shows all its weights, what ties them."
    console.print(words, style="dim", highlight=False)


def show_axis(sig: Signature, pattern: str, console: Console) -> None:
    """All that is known of the axes that a pattern names. Raises PasError as `chosen` does."""
    for number, row in enumerate(chosen(sig, pattern)):
        if number:
            console.print()
        _show_row(row, console)


def chosen(sig: Signature, pattern: str) -> list[dict[str, Any]]:
    """The rows of one axis, of all whose names fit a pattern such as ``blocks.*.heads``, or else of those that live in such a
    module. Raises PasError when there is none, with axes that sound like it.
    """
    found = rows(sig)
    names = [row["name"] for row in found]
    at = lambda row: {_module(parameter) for parameter, _ in row["slots"]}  # noqa: E731
    picked = (
        [row for row in found if row["name"] == pattern]
        or [row for row in found if fnmatch.fnmatchcase(row["name"], pattern)]
        or [row for row in found if any(fnmatch.fnmatchcase(place, pattern) for place in at(row))]
    )
    if not picked:
        near = difflib.get_close_matches(pattern, names, 3, 0.3)
        raise PasError(f"no axis {pattern!r}, and no layer" + (f"; did you mean {', '.join(near)}?" if near else ""))
    return picked


def _show_row(row: dict[str, Any], console: Console) -> None:
    state = row["frozen"] or ("prunable" if row["exact"] else "prunable; a norm over it, so that a slice isn't exactly the mask")
    console.print(f"{row['name']}: {row['size']} channels, {state}", style="bold", highlight=False)
    console.print(f"{100 * row['macs_share']:.1f} % of the MACs, {100 * row['params_share']:.1f} % of the parameters", highlight=False)
    for title, lines in (("lives in", [f"{parameter}[{dim}]" for parameter, dim in row["slots"]]), ("tied by", row["ties"])):
        for number, line in enumerate(lines):
            console.print(f"{title if not number else '':10}{line}", highlight=False, markup=False)


def _tied(ties: list[str], shown: int) -> str:
    """The operators that made the channels of several layers one: the first few, and how many more."""
    found = [words.removeprefix("aten.").replace("_ in ", " in ") for words in ties]
    return _first_few(found, shown)


def _places(slots: list[list[Any]], shown: int) -> str:
    """The weights that an axis lives in, as module[dimension]: the first few, and how many more."""
    found = [f"{_module(parameter)}[{dim}]" for parameter, dim in slots if parameter.endswith("weight")]
    return _first_few(found, shown)


def _first_few(words: list[str], shown: int) -> str:
    return ", ".join(words[:shown]) + (f" +{len(words) - shown}" if len(words) > shown else "")


def _module(parameter: str) -> str:
    """A weight by the path of its module; a block that will be fused by its own."""
    return parameter.removesuffix(".weight").removesuffix(".reparam_conv")
