"""What makes two runs the same one: the names of their folders."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from pas.architecture import architecture_file
from pas.config import Config, MethodConfig
from pas.disk import digest, json_digest
from pas.publish.names import located


def run_key(config: Config) -> str:
    """The name of a run's folder: model, data, method, budget, seed, and eight hex digits over everything that changes its result.

    Where data and weights lie, the folder of the runs, the tracker and the machine are left out (but `train` holds the precision,
    the memory layout and whether it compiles); no clock is involved.
    """
    limits = (f"{kind}{amount}" for kind, amount in asdict(config.budget).items() if amount is not None)
    return _key(config, [method_label(config), *limits], _identity(config))


def dense_key(config: Config) -> str:
    """The name of the dense parent's training, which all runs share that start from it."""
    whole = _identity(config)
    whole["data"].pop("calibration", None)  # what a search looks at
    shared = {name: whole[name] for name in ("model", "data", "task", "seed")} | {"dense": whole["train"]["dense"]}
    return _key(config, ["dense"], shared)


def source_of(config: Config) -> Config | None:
    """The run whose widths a control takes over: all as here, but for the method; None when it is no control."""
    source = config.method.source
    return None if source is None else replace(config, method=MethodConfig(name=source.name, options=dict(source.options)))


def method_label(config: Config) -> str:
    """The method and, of a control, whose widths it takes: "pas", "random-pas"."""
    source = config.method.source
    return config.method.name if source is None else f"{config.method.name}-{source.name}"


def variant(config: Config) -> str:
    """Eight hex digits over everything that changes a run's result but the seed: equal for the runs that are averaged."""
    return _short({name: value for name, value in _identity(config).items() if name != "seed"})


def settings(config: Config) -> str:
    """The same without the budget (its first limit, where it has several): equal for the points of a method's line in a figure."""
    identity = {name: value for name, value in _identity(config).items() if name not in ("seed", "budget")}
    _, *further = ((kind, amount) for kind, amount in asdict(config.budget).items() if amount is not None)
    return _short({**identity, "budget": further} if further else identity)


def _short(identity: dict[str, Any]) -> str:
    return json_digest(identity)[:8]


def _identity(config: Config) -> dict[str, Any]:
    whole = {name: value for name, value in asdict(config).items() if name not in ("compare", "paths", "logger", "hardware", "dry_run")}
    whole["data"].pop("root")
    if config.model.weights is not None:
        whole["model"]["weights"] = _weights(Path(config.model.weights))
    whole["cost"].pop("table")
    whole["cost"].pop("spread")
    if config.budget.latency is None:  # runs keep the names from before there were such fields
        whole["budget"].pop("latency")
        whole["options"].pop("snap")
    if config.data.calibration == "train":
        whole["data"].pop("calibration")
    if config.cost.layout == "NCHW":
        whole["cost"].pop("layout")
    if config.cost.dtype == "float32":
        whole["cost"].pop("dtype")
    if config.model.path is None:  # the names of runs are those from before there was such a field
        whole["model"].pop("path")
    else:
        whole["model"]["path"] = [_weights(part) for part in _parts(Path(config.model.path))]
    if config.options.start is not None:  # what it holds, not where it lies
        whole["options"]["start"] = digest(architecture_file(located(config.options.start)).read_bytes())[:8]
    return whole


def _parts(path: Path) -> list[Path]:
    """An ONNX file and the files beside it that hold its weights."""
    from pas.onnx_read.file import beside  # where there is such a file only: onnx takes time to load

    return [path, *beside(path)]


def _weights(path: Path) -> str:
    """A file of weights by what it holds; one that isn't there, which is refused later, by its name."""
    if not path.is_file():
        return path.name
    state = path.stat()
    return _of_content(path.resolve(), state.st_size, state.st_mtime_ns)


@lru_cache
def _of_content(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:8]


def _key(config: Config, parts: list[str], identity: dict[str, Any]) -> str:
    network = config.model.label
    words = [network, config.data.name, *parts, f"s{config.seed}", _short(identity)]
    return "-".join(re.sub(r"[^\w.]+", "" if " " in word else "_", word) for word in words)
