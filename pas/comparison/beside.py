"""Results of other programs that stand in the same table as those of the runs."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from pas.disk import parse_json
from pas.errors import PasError
from pas.result import COST, FIELDS, NUMBER, check_fields

WANTED: dict[str, Any] = {
    "row": str,
    "cell": str,
    **{name: FIELDS[name] for name in ("seed", "run_key", "model", "data", "budget")},
    "split": str,
    "dense": COST,
    "searched": COST,
    "seconds": {"search": NUMBER, "finetune": NUMBER},
    "environment": {"device": str, "threads": int, "commit": (str, type(None))},
}
Placed = tuple[str, str, int, dict[str, Any]]
"""Row, cell, seed and result."""


def beside(folder: Path, cells: Collection[str], taken: Collection[tuple[str, str, int]]) -> list[Placed]:
    """Results of other programs: `folder`/beside/*.json, each like a `result.json` with "row", "cell" and "seed".

    Those of other cells are passed over. Raises PasError for a file that is damaged or lacks a field, and for one in the place (row, cell,
    seed) of a run (`taken`) or of another file.
    """
    found: dict[tuple[str, str, int], Placed] = {}
    for path in sorted(folder.glob("beside/*.json")):
        result = read(path)
        place = (result["row"], result["cell"], result["seed"])
        if place[1] not in cells:
            continue
        if place in taken or place in found:
            who = "a run of this comparison" if place in taken else "another file"
            raise PasError(f"{path}: row {place[0]!r}, cell {place[1]!r}, seed {place[2]} is that of {who}: give it a row of its own")
        found[place] = (*place, result)
    return list(found.values())


def read(path: Path) -> dict[str, Any]:
    """One of these results; its method is its row. Raises PasError when it is damaged or lacks a field."""
    try:
        result = parse_json(path.read_bytes())
    except ValueError as error:
        raise PasError(f"{path} is damaged ({error}): delete it, or make it again") from error
    if not isinstance(result, dict):
        raise PasError(f"{path} is not a result")
    check_fields(result, WANTED, str(path))
    return {"method": result["row"], "limits": [result["budget"]], **result}
