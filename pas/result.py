"""`result.json`, version 1: what a finished run says of itself. Its presence is the only sign that a run is finished."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pas.disk import parse_json
from pas.errors import PasError

SCHEMA = 1
FILE = "result.json"

NUMBER = (int, float)
# Latencies and the ONNX rung are null where they were not measured. Further keys are allowed everywhere.
OPTIONAL_NUMBER = (int, float, type(None))
COST = {"top1": NUMBER, "params": int, "macs": int, "latency_ms": OPTIONAL_NUMBER}
FIELDS: dict[str, Any] = {
    "schema": int,
    "run_key": str,
    "model": str,
    "data": str,
    "method": str,
    "seed": int,
    "budget": {"kind": str, "target": NUMBER, "achieved": NUMBER, "dense": NUMBER},
    "dense": COST,
    "searched": {**COST, "form": str},
    "exactness": {"mask_slice": NUMBER, "slice_fuse": NUMBER, "fuse_onnx": OPTIONAL_NUMBER},
    "seconds": {"prepare": NUMBER, "search": NUMBER, "finetune": NUMBER},
    "environment": {
        "torch": str,
        "timm": str,
        "python": str,
        "device": str,
        "threads": int,
        "commit": (str, type(None)),
    },
}
BEFORE = {"split": "test", "settings": "", "variant": ""}
"""What results say that were written before there was a choice."""
BUDGETS = ("macs", "params", "latency")


def check_result(result: Mapping[str, Any]) -> None:
    """Raise PasError unless `result` has every field of the schema with its type, and finite numbers."""
    version = result.get("schema")
    if isinstance(version, int) and version > SCHEMA:
        raise PasError(f"{FILE} has schema {version}, newer than {SCHEMA}: update pas to read it")
    check_fields(result, FIELDS, FILE)
    if version != SCHEMA:
        raise PasError(f"{FILE}: schema {version} is unknown, this is schema {SCHEMA}")
    if result["budget"]["kind"] not in BUDGETS:
        raise PasError(f"{FILE}: budget.kind={result['budget']['kind']}: must be one of {', '.join(BUDGETS)}")


def read_result(path: str | Path) -> dict[str, Any] | None:
    """The result of a run's folder (or the file itself); None when there is none yet.

    Raises PasError when the file is damaged, lacks a field, or comes from a newer version.
    """
    path = Path(path)
    file = path / FILE if path.suffix != ".json" else path
    try:
        result = parse_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise PasError(f"{file} is damaged ({error}): delete it to do the end of the run again") from error
    if not isinstance(result, dict):
        raise PasError(f"{file} is not a result")
    try:
        check_result(result)
    except PasError as error:
        raise PasError(f"{file.parent}: {error}") from error
    return {**BEFORE, "limits": [result["budget"]], **result}


def check_fields(value: Mapping[str, Any], wanted: Mapping[str, Any], file: str, path: str = "") -> None:
    """Raise PasError that names the file and the field unless there is every field, of its type and finite."""
    for name, kind in wanted.items():
        where = f"{path}{name}"
        if name not in value:
            raise PasError(f"{file}: {where} is missing")
        found = value[name]
        if isinstance(kind, Mapping):
            if not isinstance(found, Mapping):
                raise PasError(f"{file}: {where} must be an object")
            check_fields(found, kind, file, f"{where}.")
        elif not isinstance(found, kind) or isinstance(found, bool):
            raise PasError(f"{file}: {where}={found!r} has a wrong type")
        elif isinstance(found, float) and not math.isfinite(found):
            raise PasError(f"{file}: {where} is not finite")
