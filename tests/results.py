"""The content of a `result.json`, and the folder of a finished run, for tests that need one."""

import copy
import json
from pathlib import Path

from pas.architecture import Architecture
from pas.runs import write_text

BUDGET = {"kind": "macs", "target": 50.0, "achieved": 49, "dense": 100, "relative": True}
RESULT = {
    "schema": 1, "run_key": "key", "model": "repvgg_nano", "data": "digits", "method": "pas", "seed": 0,
    "split": "test", "settings": "", "variant": "",
    "budget": BUDGET, "limits": [BUDGET],
    "dense": {"top1": 90.0, "params": 20, "macs": 100, "latency_ms": 2.0},
    "searched": {"top1": 89.0, "params": 10, "macs": 49, "latency_ms": 1.0, "form": "fused"},
    "exactness": {"mask_slice": 1e-16, "slice_fuse": 1e-16, "fuse_onnx": None},
    "seconds": {"prepare": 1.0, "search": 2.0, "finetune": 3.0},
    "environment": {"torch": "2.15.0", "timm": "1.0.31", "python": "3.11.7", "device": "cpu", "threads": 2, "commit": None},
}  # fmt: skip
SIZES = {"features.stem": 16, "features.body.0": 32, "features.body.1": 64}
KEPT = {"features.stem": (0, 1), "features.body.0": tuple(range(8)), "features.body.1": tuple(range(64))}


def put(root: Path, key: str, top1: float, **changes: object) -> Path:
    """A finished run as `pas search` leaves it, but for its configuration, checkpoint and bundle; `changes` of its result."""
    result = copy.deepcopy(RESULT) | {"run_key": key} | changes
    result["searched"]["top1"] = top1
    folder = root / key
    write_text(folder / "result.json", json.dumps(result))
    write_text(folder / "architecture.json", Architecture(SIZES, KEPT).to_json())
    rows = [{"stage": "search", "step": s, "loss": 2 / s, "open": 100 - s, "macs": 100 - s} for s in range(1, 9)]
    rows += [{"stage": "finetune", "step": s, "loss": 1 / s, "top1": 80 + s} for s in range(1, 9)]
    write_text(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return folder
