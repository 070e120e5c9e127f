"""The main job: prepare -> search -> slice -> fine-tune -> fuse -> evaluate -> bundle.

Fine-tuning runs on the sliced network in its training form, so that a re-parameterised block keeps its branches and
norms while the weights settle; fusing comes after it.
"""

from __future__ import annotations

import copy
from dataclasses import asdict
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from pas import onnx
from pas.architecture import Architecture
from pas.config import Config, run_key, variant
from pas.cost.macs import macs, params
from pas.cost.measure import Latency, latency
from pas.data import Data, load
from pas.environment import environment
from pas.errors import PasError
from pas.plan import Plan, plan
from pas.publish import bundle
from pas.publish.backbone import Backbone
from pas.publish.card import card
from pas.report import figures
from pas.runs import Run, open_run, run_folder
from pas.search import Search
from pas.stages import Parent, Setting, find, finetune, prepare
from pas.surgery.fuse import fuse
from pas.surgery.mask import mask
from pas.surgery.slice import slice
from pas.tracking import Tracker, track


def run(config: Config, console: Console | None = None) -> dict[str, Any]:
    """Run, or resume, or show what is finished: the content of the run's `result.json`.

    Raises PasError when data, weights or a model can't be had, the budget can't be met, the loss is not finite, or
    another process holds the run.
    """
    with open_run(config) as this:
        done = this.finished()
        if done is not None:
            return done
        data = _data(config)
        with track(this, config) as tracker:
            result = _steps(_setting(config, tracker, data, console or Console(stderr=True)))
            this.write_json("result.json", result)
            tracker.finish(result)
        return result


def rehearse(config: Config) -> Plan:
    """What `run` would do, from a few steps of each stage; nothing is written. Raises PasError for what `run` refuses."""
    nowhere = Tracker(Run(run_folder(config), run_key(config), None), None)
    return plan(_setting(config, nowhere, _data(config), Console(quiet=True)))


def _data(config: Config) -> Data:
    """The data, read with as many threads as the run has."""
    if config.hardware.threads:
        torch.set_num_threads(config.hardware.threads)
    chosen = config.data
    return load(
        chosen.name,
        root=chosen.root,
        image_size=chosen.image_size,
        val_fraction=chosen.val_fraction,
        subset=chosen.subset,
    )


def _setting(config: Config, tracker: Tracker, data: Data, console: Console) -> Setting:
    return Setting(config, tracker, data, _device(config.hardware.device), console)


def _steps(setting: Setting) -> dict[str, Any]:
    config, this = setting.config, setting.tracker.run
    parent = prepare(setting)
    search, searched_for = find(setting, parent.network)
    architecture = search.architecture
    this.write_text("architecture.json", architecture.to_json())
    backbone = search.settled()
    small = slice(backbone, search.signature, architecture)
    masked = mask(backbone, search.signature, architecture)
    images = _images(setting)
    exactness = {"mask_slice": _error(masked, small, images)}
    small, tuned_for = finetune(setting, small)
    wide = copy.deepcopy(small).cpu().double()
    exactness["slice_fuse"] = _error(wide, fuse(wide), images)
    plain = fuse(small)
    top1 = setting.top1(plain, config.train.finetune.precision)
    plain.cpu().eval()
    seconds = {"prepare": parent.seconds, "search": searched_for, "finetune": tuned_for}
    times = _latencies(setting, fuse(parent.network).cpu(), plain)
    result = _result(setting, search, architecture, parent, top1, times, seconds)
    result["exactness"] = {**exactness, "fuse_onnx": None}
    if this.writes:
        _publish(setting, plain, architecture, images, result)
        axes = search.signature.prunable
        names, dense = [axis.name for axis in axes], [axis.size for axis in axes]
        figures.widths(names, dense, list(architecture.widths().values()), this.figures / "widths.png", title=this.key)
    return result


def _result(
    setting: Setting,
    search: Search,
    architecture: Architecture,
    parent: Parent,
    top1: float,
    times: dict[str, Latency],
    seconds: dict[str, float],
) -> dict[str, Any]:
    """The content of `result.json`, but for the exactness."""
    config, signature = setting.config, search.signature
    dense, limit = signature.dense(), search.report()["budget"][0]
    return {
        "schema": 1,
        "run_key": setting.tracker.run.key,
        "model": config.model.entry or config.model.name,
        "data": config.data.name,
        "method": config.method.name,
        "seed": config.seed,
        "variant": variant(config),
        "budget": {name: limit[name] for name in ("kind", "target", "achieved", "dense")},
        "dense": {
            "top1": parent.top1,
            "params": params(signature, dense),
            "macs": macs(signature, dense),
            "latency_ms": times["dense"].median_ms,
        },
        "searched": {
            "top1": top1,
            "params": params(signature, architecture),
            "macs": macs(signature, architecture),
            "latency_ms": times["searched"].median_ms,
            "form": "fused",
        },
        "seconds": seconds,
        "latency": asdict(times["searched"]),
        "environment": environment(str(setting.device)),
    }


def _publish(
    setting: Setting, plain: nn.Module, architecture: Architecture, images: Tensor, result: dict[str, Any]
) -> None:
    """Write the bundle, read it back, and complete the result's exactness."""
    config, data, this = setting.config, setting.data, setting.tracker.run
    backbone = Backbone(result["model"], dict(config.model.args), data.num_classes, data.channels, data.image_size)
    about = {name: result[name] for name in ("run_key", "data", "method", "seed", "budget", "dense", "searched")}
    text = card(result, backbone)
    bundle.save(this.bundle, plain, backbone, architecture, mean=data.mean, std=data.std, about=about, card=text)
    result["exactness"]["fuse_onnx"] = onnx.max_error(plain, this.bundle / "model.onnx", images)
    if config.model.entry is None and not _equal(bundle.load(this.bundle), plain, images):
        raise PasError(
            f"{this.bundle} does not give back the searched network bit for bit: please report {this.folder}"
        )


def _latencies(setting: Setting, dense: nn.Module, plain: nn.Module) -> dict[str, Latency]:
    """Both fused networks in one process; torch's own runtime measures on the device of the run."""
    cost = setting.config.cost
    device = setting.device if cost.runtime == "torch" else torch.device("cpu")
    networks = {"dense": dense.to(device), "searched": copy.deepcopy(plain).to(device)}
    return latency(networks, setting.example().to(device), **vars(cost))


def _images(setting: Setting) -> Tensor:
    """A few test images on the CPU, for equality checks."""
    x, _ = next(iter(setting.loader("test", 8, train=False).epoch(0)))
    return x.float().cpu()


def _error(one: nn.Module, other: nn.Module, images: Tensor) -> float:
    """max |a - b| / max |a| of two networks in eval mode and fp64."""
    with torch.no_grad():
        a, b = (copy.deepcopy(network).cpu().double().eval()(images.double()) for network in (one, other))
    return float((a - b).abs().max() / a.abs().max())


def _equal(one: nn.Module, other: nn.Module, images: Tensor) -> bool:
    with torch.no_grad():
        return torch.equal(one(images), other(images))


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise PasError(f"hardware.device={name}: torch finds no CUDA device here; use hardware=cpu")
    return torch.device(name)
