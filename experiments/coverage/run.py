"""Every family of timm through `pas` and Torch-Pruning: what each can cut, and whether it is right.

    python experiments/coverage/run.py                  # all networks of networks.csv that have no result yet, then the tables
    python experiments/coverage/run.py resnet18 vit_tiny_patch16_224
    python experiments/coverage/run.py --tables         # only write coverage.csv and frozen.csv from results/

A network is run in a process of its own, of one thread, with a limit on time and memory. Started again, it does what is missing.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
LIMITS = {"pas": (900, 18 << 30), "torch_pruning": (200, 9 << 30)}
"""Seconds and bytes of address space; Torch-Pruning's are those under which its failures were published."""

COLUMNS = ("model", "list", "outcome", "axes", "exact", "frozen_axes", "reachable", "half", "rounding", "permuted", "moved", "error",
           "counted", "form", "export_s", "signature_s", "slice_s", "torch_pruning", "torch_pruning_half", "torch_pruning_s")  # fmt: skip


def networks() -> list[tuple[str, str]]:
    """(name, list): "family" for the smallest variant of a timm module, "cnn" and "transformer" for networks that peers were tried on."""
    with (HERE / "networks.csv").open() as file:
        return [(row["model"], row["list"]) for row in csv.DictReader(file)]


def one(which: str, name: str) -> dict[str, Any]:
    """The result of one process: its line of JSON, or its error."""
    seconds, memory = LIMITS[which]
    began = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, str(HERE / "one.py"), which, name],
            capture_output=True,
            text=True,
            timeout=seconds,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (memory, memory)),
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"no result in {seconds} s"}
    spent = round(time.monotonic() - began, 1)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return {"failed": lines[-1][:300] if lines else f"exit code {done.returncode}", "total_s": spent}
    return {**json.loads(done.stdout.splitlines()[-1]), "total_s": spent}


def collect(which: str, name: str) -> None:
    """Run it unless its result lies there."""
    target = RESULTS / which / f"{name}.json"
    if not target.exists():
        found = one(which, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        half = target.with_suffix(".new")
        half.write_text(json.dumps(found, indent=1) + "\n")
        half.replace(target)


def row(name: str, group: str) -> dict[str, Any]:
    """A network's line of the table."""
    found, peer = (_read(which, name) for which in LIMITS)
    line: dict[str, Any] = {"model": name, "list": group, "outcome": _outcome(found), "torch_pruning": _peer_outcome(peer)}
    if "macs" in found:
        line |= {key: found.get(key) for key in ("axes", "exact", "reachable", "form", "export_s", "signature_s", "slice_s")}
        line |= {key: f"{found[key]:.1e}" for key in ("rounding", "permuted", "moved", "error") if key in found}
        line |= {"frozen_axes": len(found["frozen"]), "half": round(found["macs_half"] / found["macs"], 3)}
        line["counted"] = "equal" if found["macs_half"] == found["macs_counted"] else found["macs_counted"]
    if "macs" in peer:
        line |= {"torch_pruning_half": round(peer["macs_half"] / peer["macs"], 3), "torch_pruning_s": peer["seconds"]}
    return line


def _read(which: str, name: str) -> dict[str, Any]:
    file = RESULTS / which / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else {}


def _outcome(found: dict[str, Any]) -> str:
    if not found:
        return "not run"
    if "failed" in found:
        return str(found["failed"])
    same = found["permuted"] < max(1e-10, 10 * found.get("rounding", 0)) and found.get("error", 0) < 1e-10
    right = same and found["macs_half"] == found["macs_counted"] and found["params_right"]
    return "right" if right else "wrong"


def _peer_outcome(peer: dict[str, Any]) -> str:
    return str(peer["failed"]) if "failed" in peer else "works" if peer else "not run"


def tables() -> None:
    """coverage.csv, a line a network, and frozen.csv, a line for every axis that stays whole."""
    with (HERE / "coverage.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row(name, group) for name, group in networks())
    with (HERE / "frozen.csv").open("w", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(("model", "axis", "size", "why"))
        for name, _ in networks():
            lines.writerows([name, *axis] for axis in _read("pas", name).get("frozen", []))


def summary() -> str:
    """How many of each list are right, and how many Torch-Pruning gets through."""
    told = []
    for group in ("cnn", "transformer", "family"):
        mine = [row(name, group) for name, other in networks() if other == group]
        right, peers = sum(line["outcome"] == "right" for line in mine), sum(line["torch_pruning"] == "works" for line in mine)
        ran = sum(line["outcome"] != "not run" for line in mine)
        told.append(f"{group}: {right} of {len(mine)} right ({ran} run), Torch-Pruning {peers}")
    return "\n".join(told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="networks (all of networks.csv)")
    parser.add_argument("--processes", type=int, default=2, help="at a time (2)")
    parser.add_argument("--only", choices=tuple(LIMITS), help="one of the two")
    parser.add_argument("--tables", action="store_true", help="only write the tables")
    options = parser.parse_args()
    names = dict.fromkeys(name for name, _ in networks())  # some are on two lists
    jobs = [(which, name) for which in LIMITS for name in names if which == (options.only or which)]
    jobs = [(which, name) for which, name in jobs if not options.names or name in options.names]
    jobs = [] if options.tables else [(which, name) for which, name in jobs if not (RESULTS / which / f"{name}.json").exists()]
    began = time.monotonic()
    with ThreadPoolExecutor(options.processes) as pool:
        for number, (job, _) in enumerate(zip(jobs, pool.map(lambda job: collect(*job), jobs), strict=True), start=1):
            left = (time.monotonic() - began) / number * (len(jobs) - number)
            found = _read(*job)
            print(f"{number}/{len(jobs)} {job[0]} {job[1]}: {found.get('failed', 'done')}, about {left / 60:.0f} min left", flush=True)
    tables()
    print(summary())


if __name__ == "__main__":
    main()
