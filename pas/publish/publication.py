"""`pas publish`: a finished run's network under a public name, with a card that tells how it was made and how to load it.

The folder OUT/NAME is a bundle (`pas.publish.bundle`) with more in it: a figure of the widths, and on request the network as a program of
`torch.export` (`model.pt2`) and in eight bits (`model.int8.onnx`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pas import onnx
from pas.axes.capture import in_mode
from pas.command import command, settings
from pas.data import load
from pas.errors import PasError
from pas.exactness import relative_error
from pas.publish import bundle, int8, place, program, registry, sealed
from pas.publish.backbone import Backbone
from pas.publish.card import Facts, Int8, published_card
from pas.publish.chain import chain_of
from pas.publish.licences import licence, start
from pas.publish.names import checked
from pas.publish.place import INT8, PT2, WIDTHS
from pas.publish.plain import plain
from pas.report import figures
from pas.result import read_result
from pas.rule import word

FORMATS = ("onnx", "pt2", "int8")
EXACT = 1e-5  # what one network may differ in fp32, computed in two ways


def publish(
    run: Path,
    name: str,
    out: Path,
    *,
    formats: Sequence[str] = (),
    terms: str | None = None,
    root: str | None = None,
    entry: str | None = None,
    force: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write the network of a finished run to `out`/`name`, whole or not at all; that folder.

    Args:
        run: its folder, or the bundle in it.
        name: arch or arch.tag.
        formats: of `onnx`, which is always written, `pt2` and `int8`. A network that isn't a chain gets `pt2` in any case: its card loads
            that without `pas`.
        terms: of the data; by default what is known of it.
        root: where the data is, for `int8`.
        entry: what makes the dense network, where it was a person's own.
        force: replace another bundle of that name, or one with more formats.
        say: takes a line before what takes a while.

    Raises PasError for a bad name, a run that isn't finished, another bundle in the same place or one whose formats would be lost, another
    publisher of that name, and a format that can't be written.
    """
    _free(checked(name))
    asked = {word("--formats", one, FORMATS) for one in formats}
    folder, result = _finished(run)
    source = folder / "bundle"
    config = sealed.read_config(source)
    backbone = Backbone(**config["pas"]["backbone"])
    if config["pas"].get("run_key") != result["run_key"]:
        raise PasError(f"{source} is not of the run {result['run_key']}: take an intact copy of the run's folder")
    made_by = _made_by(folder)
    there = out / name
    place.occupied(there)
    own = backbone.own(entry)
    network, architecture = bundle.load(source, model=own), sealed.architecture_of(source)
    graph = sealed.skeleton(source)
    chain = chain_of(network, backbone.example())
    further = asked if chain is not None else {*asked, "pt2"}
    with place.aside(there) as aside:
        place.check(there, name, source, further, force=force)
        say("writing weights and ONNX")
        bundle.write_network(aside, network, backbone, architecture, graph)
        figures.widths_of(architecture, aside / WIDTHS, title=name)
        if "pt2" in further:
            say("writing a program of torch.export")
            program.export(network, backbone.example(), aside / PT2)
        eight = None
        if "int8" in further:
            say("calibrating in eight bits, and measuring")
            eight = _quantised(aside, folder, result, backbone, root)
        seeds = _seeds(folder, result)
        mean, std = (tuple(config["pretrained_cfg"][field]) for field in ("mean", "std"))
        terms, began = terms or licence(result["data"]), start(settings(folder / "config.yaml")["model"])
        layers = len(chain.convolutions) if chain else 0
        text = published_card(Facts(name, result, backbone, mean, std, made_by, terms, began, seeds, layers, "pt2" in further, eight))
        about = {key: result[key] for key in ("run_key", "data", "split", "method", "seed", "limits", "budget", "dense", "searched")}
        about |= {"name": name, "command": made_by, "licence": terms, "environment": result["environment"]}
        about |= {"start": began.strip()} if began else {}
        about |= {"chain": asdict(chain)} if chain else {}
        about |= {"int8": asdict(eight)} if eight else {}
        names = sorted(file.name for file in aside.iterdir())
        sealed.seal(aside, bundle.configured(network, backbone, mean=mean, std=std, about=about), names, text)
        say("reading it back")
        _verify(aside, network, own, backbone, chained=chain is not None)
        place.check(there, name, source, further, force=force)  # it took a while, and not all that writes there asks for the lock
        place.put(aside, there)
    return there


def _free(name: str) -> None:
    """Raise PasError for the arch of another network, which a published one would hide."""
    arch = name.partition(".")[0]
    if registry.taken(arch):
        raise PasError(f"--name {name}: {arch} is another network, which timm knows by that name: choose a name of its own")


def _finished(run: Path) -> tuple[Path, dict[str, Any]]:
    """The folder of a run, given as that or as the bundle in it, and its result."""
    if not run.is_dir():
        raise PasError(f"no run at {run}: give the folder that pas search wrote, runs/RUN")
    folder = run
    if (run / "config.json").is_file():
        folder = run.resolve().parent if run.resolve().name == "bundle" else run
    result = read_result(folder)
    if result is None and (run / "config.json").is_file():
        raise PasError(f"{run} is a bundle without its run, whose settings and results the card tells: give the folder runs/RUN")
    if result is None:
        raise PasError(f"{run} is not a finished run: it has no result.json; start its search again, which goes on")
    if not (folder / "bundle").is_dir():
        raise PasError(f"{folder} has no bundle: give the folder that pas search wrote, not a copy of its results")
    return folder, result


def _made_by(folder: Path) -> str:
    try:
        return command(folder / "config.yaml", elsewhere=True)
    except PasError as error:
        raise PasError(f"{folder}: {error}: publish with the version of pas that made the run") from error


def _quantised(aside: Path, folder: Path, result: dict[str, Any], backbone: Backbone, root: str | None) -> Int8:
    """The network in eight bits, calibrated on the images that the run trained on and measured on those that it was measured on."""
    chosen = settings(folder / "config.yaml")["data"]
    data = load(result["data"], root=root or chosen["root"], image_size=backbone.image_size, val_fraction=chosen["val_fraction"],
                subset=chosen["subset"])  # fmt: skip
    images = int8.quantise(aside / "model.onnx", aside / INT8, data)
    before, after = (int8.top1(aside / file, data, result["split"]) for file in ("model.onnx", INT8))
    return Int8(before, after, images)


def _seeds(folder: Path, result: dict[str, Any]) -> dict[int, float]:
    """Top-1 by seed of the finished runs beside this one that differ from it in their seed alone, and its own."""
    found = {}
    for file in sorted(folder.parent.glob("*/result.json")) if result["variant"] else ():
        try:
            other = read_result(file.parent)
        except PasError:  # a damaged run is no part of this one
            continue
        if other is not None and other["variant"] == result["variant"]:
            found[other["seed"]] = other["searched"]["top1"]
    return {**found, result["seed"]: result["searched"]["top1"]}


def _verify(folder: Path, network: nn.Module, own: nn.Module | None, backbone: Backbone, *, chained: bool) -> None:
    """Raise PasError unless the folder gives the network back, bit for bit, and in plain torch and ONNX Runtime up to rounding."""
    images = torch.randn(2, *backbone.example().shape[1:], generator=torch.Generator().manual_seed(0))
    errors = {"bundle": _error(network, bundle.load(folder, model=own), images)}
    errors["model.onnx"] = onnx.max_error(network, folder / "model.onnx", images)
    if chained:
        errors["the card's code"] = _error(network, plain(folder), images)
    for what, error in errors.items():
        if not error <= {"bundle": 0, "model.onnx": 1e-4}.get(what, EXACT):
            raise PasError(f"{what} does not give back the network (it differs by {error:.1e}): please report it")


@torch.no_grad()
def _error(one: nn.Module, other: nn.Module, images: Tensor) -> float:
    with in_mode(one, training=False), in_mode(other, training=False):
        a, b = one(images), other(images)
    return relative_error(a, b)
