"""Reading finished runs: `result.json`, `architecture.json` and `metrics.jsonl`, nothing else."""

from __future__ import annotations

import csv
import io
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pas.architecture import Architecture, read_architecture
from pas.errors import PasError
from pas.result import FILE, read_result
from pas.runs import METRICS, read_metrics

COLUMNS = (
    "run_key", "model", "data", "split", "method", "seed", "settings", "budget_kind", "budget_target", "budget_achieved", "budget_dense",
    "budget_open", "dense_top1", "top1", "dense_params", "params", "dense_macs", "macs", "dense_latency_ms", "latency_ms", "speedup",
    "form", "mask_slice", "slice_fuse", "fuse_onnx", "prepare_s", "search_s", "finetune_s", "measure_s", "device", "threads", "torch",
    "timm", "python", "commit", "dirty",
)  # fmt: skip


@dataclass(frozen=True)
class Finished:
    """A finished run: its folder, the content of `result.json`, what stays of every axis, the rows of `metrics.jsonl`."""

    folder: Path
    result: dict[str, Any]
    architecture: Architecture
    metrics: list[dict[str, Any]]


@dataclass(frozen=True)
class Mean:
    """Mean and standard deviation (of a sample; 0 for one value) over `n` seeds."""

    mean: float
    std: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        """Of at least one value."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0, len(values))

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.std:.2f}" if self.n > 1 else f"{self.mean:.2f}"


@dataclass(frozen=True)
class Cell:
    """The runs that differ only in their seed (a sweep over any other setting makes cells of its own).

    `split`: of the data, on which it was measured. `label`: the method, and a digest of the settings where it ran under several.
    """

    model: str
    data: str
    split: str
    method: str
    label: str
    kind: str
    target: float
    runs: tuple[Finished, ...]

    def cost(self, dense_ms: float) -> float:
        """The mean of what the budget limits; latencies as shares of the dense one, which they were measured beside, times `dense_ms`."""
        if self.kind != "latency":
            return self.mean("searched", self.kind).mean
        return dense_ms * statistics.fmean(run.result["searched"]["latency_ms"] / run.result["dense"]["latency_ms"] for run in self.runs)

    def mean(self, part: str, name: str) -> Mean:
        """Of one number of the results, such as ("searched", "top1")."""
        return Mean.of([run.result[part][name] for run in self.runs])


def collect(folder: Path) -> list[Finished]:
    """All finished runs under a folder, in the order of their names; runs that are still on their way are passed over. One that is there
    twice, such as a copy in the folder of a comparison, counts once: the one that lies less deep.

    Raises PasError when there is none, or a file is damaged or from a newer version.
    """
    if not folder.is_dir():
        raise PasError(f"no folder {folder}: give the folder that holds the runs, such as runs/")
    found: dict[str, Finished] = {}
    for path in sorted(folder.rglob(FILE), key=lambda path: (len(path.parts), path)):
        run = read(path.parent)
        found.setdefault(run.result["run_key"], run)
    if not found:
        raise PasError(f"no finished run under {folder}: a run has come to its end when it has a {FILE}")
    return sorted(found.values(), key=lambda run: run.folder)


def unfinished(folder: Path) -> list[str]:
    """The runs under a folder that have begun and not come to their end, and how far they are, in the order of their names."""
    found = []
    for run in sorted(path.parent for path in folder.rglob(METRICS)):
        if (run / "config.yaml").exists() and not (run / FILE).exists():  # a dense parent has no configuration
            last = read_metrics(run)[-1:]
            place = f"{last[0]['stage']}, step {last[0]['step']}" if last else "before the first step that is logged"
            found.append(f"{run.relative_to(folder).as_posix()}: {place}")
    return found


def cells(runs: Iterable[Finished]) -> list[Cell]:
    """The runs in groups that differ only in their seed, sorted by model, data, split, kind, method and target."""
    groups: dict[tuple[Any, ...], list[Finished]] = {}
    for run in runs:
        result = run.result
        key = (
            result["model"],
            result["data"],
            result["split"],
            result["budget"]["kind"],
            result["method"],
            result["settings"],
            _asked(result["budget"]),
            result["variant"],
        )
        groups.setdefault(key, []).append(run)
    several = Counter(key[:5] for key in {key[:6] for key in groups})
    found = []
    for key, members in sorted(groups.items()):
        model, data, split, kind, method, settings, *_ = key
        target = statistics.fmean(float(run.result["budget"]["target"]) for run in members)
        label = f"{method} {settings}" if several[key[:5]] > 1 else method
        found.append(Cell(model, data, split, method, label, kind, target, tuple(members)))
    return found


def _asked(budget: dict[str, Any]) -> float:
    """A number that is equal for equal targets: of latency the share of the dense one, which is another in ms whenever it is measured."""
    return round(budget["share_target"], 4) if budget["kind"] == "latency" and budget.get("relative") else float(budget["target"])


def dense_top1(results: Sequence[Mapping[str, Any]]) -> float:
    """The mean top-1 of the dense parents, in percent; where some weren't trained, as a row cuts before training, that of the others."""
    epochs = [result.get("epochs", {}).get("dense", 0) for result in results]
    most = max(epochs)
    return statistics.fmean(result["dense"]["top1"] for result, count in zip(results, epochs, strict=True) if count == most)


def as_csv(runs: Sequence[Finished]) -> str:
    """One row a run."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_row(run.result) for run in runs)
    return text.getvalue()


def speedup(result: Mapping[str, Any]) -> float | None:
    """Dense latency over searched latency, both measured in one process; None where they weren't measured."""
    dense, searched = result["dense"]["latency_ms"], result["searched"]["latency_ms"]
    return dense / searched if dense and searched else None


def read(folder: Path) -> Finished:
    """A finished run. Raises PasError when a file of it is missing or damaged."""
    result = read_result(folder)
    assert result is not None  # the file was just found
    file = folder / "architecture.json"
    if not file.exists():
        raise PasError(f"{file} is missing beside a finished result: delete {folder / FILE} and run again")
    return Finished(folder, result, read_architecture(file), read_metrics(folder))


def _row(result: dict[str, Any]) -> dict[str, Any]:
    row = {name: result[name] for name in ("run_key", "model", "data", "split", "method", "seed", "settings")}
    row |= {f"budget_{name}": result["budget"].get(name) for name in ("kind", "target", "achieved", "dense", "open")}
    for name in ("top1", "params", "macs", "latency_ms"):
        row[f"dense_{name}"] = result["dense"][name]
        row[name] = result["searched"][name]
    row |= {"speedup": speedup(result), "form": result["searched"]["form"], **result["exactness"]}
    row |= {f"{name}_s": value for name, value in result["seconds"].items()}
    row |= result["environment"]
    return {name: _cell(row.get(name)) for name in COLUMNS}


def _cell(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
