"""A searched network as a folder: what it is made from, which channels stayed, its weights, an ONNX file and a card.

JSON, safetensors and ONNX only. Nothing in a bundle is imported, instantiated by name or executed: a network is rebuilt
by making its backbone, which must be one that `pas.models` knows or lie in the bundle as an ONNX graph without weights, and
slicing it. Digests of its files lie in `config.json`,
so that a damaged or edited bundle is refused instead of giving another network. A published bundle may hold more (see
`pas.publish.publication`): a figure, and further forms of the network, which `pas` writes and never reads. One whose form is
"widths" holds no weights: others published which channels stay, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from timm.models import get_pretrained_cfg
from torch import nn

from pas import models, onnx
from pas.architecture import Architecture, read_architecture
from pas.data.load import CROP
from pas.disk import digest, json_digest, parse_json, write_bytes, write_text, writing
from pas.errors import PasError
from pas.publish.backbone import Backbone
from pas.publish.names import folder_of, located
from pas.surgery.forms import signature
from pas.surgery.fuse import fuse
from pas.surgery.slice import slice

SCHEMA = 2  # 1 had no digests
DIGESTED = ("architecture.json", "model.safetensors", "model.onnx")
GRAPH = "backbone.onnx"
FILES = ("config.json", "architecture.json", "model.safetensors", "model.onnx", "README.md")
FUSED, WIDTHS = "fused", "widths"


def save(
    folder: Path,
    network: nn.Module,
    backbone: Backbone,
    architecture: Architecture,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    about: Mapping[str, Any],
    card: str,
    graph: bytes | None = None,
) -> None:
    """Write a fused network to `folder`. `about`: budget, method, data, metrics; `card`: the text of README.md; `graph`: the
    backbone's skeleton, where that came from an ONNX file.
    """
    write_network(folder, network, backbone, architecture, graph)
    names = (*DIGESTED, *([] if graph is None else [GRAPH]))
    seal(folder, configured(network, backbone, mean=mean, std=std, about=about), names, card)


def save_widths(
    folder: Path,
    backbone: Backbone,
    architecture: Architecture,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    about: Mapping[str, Any],
    card: str,
) -> None:
    """Write which channels of a network stay, without weights. Arguments as in `save`."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    network = _cut(_dense(backbone, None, None), backbone, architecture)
    write_text(folder / FILES[1], architecture.to_json())
    seal(folder, configured(network, backbone, mean=mean, std=std, about={"form": WIDTHS, **about}), FILES[1:2], card)


def write_network(folder: Path, network: nn.Module, backbone: Backbone, architecture: Architecture, graph: bytes | None) -> None:
    """All of a bundle but what says of it what it is (`seal`), which has to be the last."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # a bundle is one when its config.json is there, and only with the files that belong to it
        (folder / "config.json").unlink(missing_ok=True)
    write_text(folder / "architecture.json", architecture.to_json())
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
    write_bytes(folder / "model.safetensors", to_bytes(tensors, metadata={"format": "pt"}))
    with writing(folder / "model.onnx"):
        onnx.export(network, backbone.example(), folder / "model.onnx")
    if graph is not None:
        write_bytes(folder / GRAPH, graph)


def configured(
    network: nn.Module, backbone: Backbone, *, mean: tuple[float, ...], std: tuple[float, ...], about: Mapping[str, Any]
) -> dict[str, Any]:
    """`config.json` without its digests. timm makes the network from it by the arch `pas_network`, which `import pas` registers."""
    known, weights = get_pretrained_cfg(backbone.name), network.state_dict()
    layers = {"first_conv": known.first_conv, "classifier": known.classifier} if known is not None else {}
    return {
        "architecture": "pas_network",
        "num_classes": backbone.num_classes,
        "pretrained_cfg": {
            "input_size": (backbone.in_chans, backbone.image_size, backbone.image_size),
            "fixed_input_size": False,
            "num_classes": backbone.num_classes,
            "mean": mean,
            "std": std,
            "interpolation": "bilinear",
            # folders of images are cut from the centre (pas.data.folder), the other sets are taken whole
            "crop_pct": CROP if about.get("data") == "imagefolder" else 1.0,
            # which layers timm fits to other images and classes, where they still are what they were in the backbone
            **{field: name for field, name in layers.items() if isinstance(name, str) and f"{name}.weight" in weights},
        },
        "pas": {"schema": SCHEMA, "form": FUSED, "backbone": asdict(backbone), **about},
    }


def seal(folder: Path, config: Mapping[str, Any], names: Iterable[str], card: str) -> None:
    """Write `README.md`, which may be edited later, and `config.json` with the digests of the files `names` and its own."""
    write_text(folder / "README.md", card)
    digests = {name: digest((folder / name).read_bytes()) for name in names}
    whole = {**config, "pas": {**config["pas"], "sha256": digests}}
    digests["config.json"] = _own_digest(whole)
    write_text(folder / "config.json", json.dumps(whole, indent=1))


def read_config(folder: str | Path) -> dict[str, Any]:
    """`config.json` of a bundle, checked. Raises PasError when the folder is not a bundle, is damaged, or from a newer version."""
    folder = Path(folder)
    if not folder.is_dir():
        raise PasError(
            f"no bundle at {folder}: give the folder that a search wrote (runs/.../bundle), or a published name with PAS_MODELS=FOLDER"
        )
    missing = [name for name in FILES[:3] if not (folder / name).is_file()]
    if missing and (folder / "bundle").is_dir():
        raise PasError(f"{folder} is a run; its bundle is {folder / 'bundle'}")
    if missing and missing[0] != FILES[2]:
        raise PasError(f"{folder} is not a bundle: {missing[0]} is missing")
    file = folder / "config.json"
    try:
        config = parse_json(file.read_bytes())
        about = config["pas"]
        if missing and about.get("form") != WIDTHS:
            raise PasError(f"{folder} is not a bundle: {missing[0]} is missing")
        schema, backbone = about["schema"], about["backbone"]
        if schema > SCHEMA:
            raise PasError(f"{folder} has schema {schema}, newer than {SCHEMA}: update pas to read it")
        if schema > 1 or "sha256" in about:
            _verify(about["sha256"][FILES[0]], _own_digest(config), file)
            if any(name in ("", "..") or Path(name).name != name for name in about["sha256"]):
                raise ValueError("it speaks of files outside of its folder")
        Backbone(**backbone).check()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PasError(f"{file} is damaged: {type(error).__name__}: {_line(error)}") from error
    return config


def read_file(folder: str | Path, name: str) -> bytes:
    """One file of a bundle. Raises PasError when it is missing or isn't the one that was saved (bundles of schema 1 can't tell)."""
    about, path = read_config(folder)["pas"], Path(folder) / name
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise PasError(f"{path} is missing or can't be read: take an intact copy of the bundle") from error
    if "sha256" in about:
        _verify(about["sha256"].get(name), digest(content), path)
    return content


def weights_of(folder: Path) -> bytes:
    """`model.safetensors` as it was saved. Raises PasError for a bundle without weights too."""
    if read_config(folder)["pas"].get("form") == WIDTHS:
        raise PasError(f"{folder} has widths without weights: timm.create_model('local-dir:{folder}') makes that network untrained")
    return read_file(folder, "model.safetensors")


def skeleton(folder: str | Path) -> bytes | None:
    """The graph of the backbone, of a bundle whose network came from an ONNX file."""
    return read_file(folder, GRAPH) if GRAPH in read_config(folder)["pas"].get("sha256", ()) else None


def architecture_of(path: Path) -> Architecture:
    """The architecture in a file, a run's folder or a bundle. Raises PasError when it can't be read, or a bundle's was changed."""
    if (path / "config.json").is_file():
        return Architecture.from_json(read_file(path, "architecture.json").decode(errors="replace"))
    return read_architecture(path)


def _own_digest(config: Mapping[str, Any]) -> str:
    """Of `config.json` with the digests of the other files, but without its own."""
    others = {name: value for name, value in config["pas"]["sha256"].items() if name != FILES[0]}
    return json_digest({**config, "pas": {**config["pas"], "sha256": others}})


def _verify(expected: object, found: str, path: Path) -> None:
    if expected != found:
        raise PasError(f"{path} was damaged or changed after the bundle was written: take an intact copy, or search again")


def load(name_or_folder: str | Path, *, model: nn.Module | None = None) -> nn.Module:
    """The network of a bundle, fused, in eval mode, with its weights: of a folder, or of a published network by its name.

    `model`: the dense network, for a bundle whose backbone was a person's own and can't be made by name.
    Raises PasError when there is no such bundle, it is damaged, it holds no weights, or its backbone is unknown.
    """
    folder = located(name_or_folder)
    content = weights_of(folder)
    network, weights = structure(folder, model=model), folder / "model.safetensors"
    try:
        network.load_state_dict(from_bytes(content))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise PasError(f"{weights} can't be read: {_line(error)}") from error
    except RuntimeError as error:
        raise PasError(f"the weights in {folder} don't fit its architecture: {_line(error)}") from error
    return network


def structure(
    folder: Path, *, model: nn.Module | None = None, num_classes: int | None = None, in_chans: int | None = None, **args: Any
) -> nn.Module:
    """The network of a bundle, fused, in eval mode, with other weights.

    Args:
        model: the dense network, where it was a person's own.
        num_classes, in_chans, args: other than the bundle's, of a backbone that is made by name: logits, channels of the image, and
            arguments of timm's constructor.

    Raises PasError as `load` does, and where the backbone can't be made so.
    """
    backbone, graph = _origin(folder, model)
    wanted = replace(
        backbone,
        args={**backbone.args, **args},
        num_classes=backbone.num_classes if num_classes is None else num_classes,
        in_chans=backbone.in_chans if in_chans is None else in_chans,
    )
    try:
        wanted.check()  # what was handed in may come from a file as well
    except ValueError as error:
        raise PasError(f"{folder}: {error}") from error
    if wanted != backbone and (graph is not None or model is not None):
        raise PasError(f"{folder}: its backbone isn't made by name, so it can't be made with other classes, channels or arguments")
    architecture = architecture_of(folder)
    try:
        dense = _dense(wanted, graph, model)
        return _cut(dense, wanted, architecture)
    except PasError as error:
        raise PasError(f"{folder}: {error}") from error
    except Exception as error:  # what a file says can be wrong in any way, and each means that it describes no network
        raise PasError(f"{folder} describes no network that can be made: {type(error).__name__}: {_line(error)}") from error


def _cut(dense: nn.Module, backbone: Backbone, architecture: Architecture) -> nn.Module:
    return fuse(slice(dense, signature(dense, backbone.example()), architecture))


def dense_of(folder: str | Path, *, model: nn.Module | None = None) -> nn.Module:
    """The dense network that a bundle was cut from, with other weights. `model` and what is refused: as in `load`."""
    return _dense(*_origin(Path(folder), model), model)


def _origin(folder: Path, model: nn.Module | None) -> tuple[Backbone, bytes | None]:
    """What the dense network is made from: the backbone, and its graph where it came from a file. Raises PasError for a person's own
    network that wasn't handed in.
    """
    about = read_config(folder)["pas"]
    backbone = Backbone(**about["backbone"])
    _refuse_circle(Path(folder))
    if model is None and ":" in backbone.name:
        raise PasError(
            f"{folder} holds a network of {backbone.name}: make the dense network and pass it as model= "
            f"(on the command line --entry {backbone.name}, if you trust that code)"
        )
    return backbone, skeleton(folder)


def _refuse_circle(folder: Path) -> None:
    """Raise PasError for a bundle that is cut from itself: its backbone may be a published network, whose backbone may be one too."""
    seen, at = set[Path](), folder
    while at.resolve() not in seen:
        seen.add(at.resolve())
        before = folder_of(read_config(at)["pas"]["backbone"]["name"])
        if before is None:
            return
        at = before
    raise PasError(f"{folder} describes no network that can be made: its backbone is made from itself")


def _dense(backbone: Backbone, graph: bytes | None, model: nn.Module | None) -> nn.Module:
    if model is None and graph is not None:
        model = models.from_file(graph, in_chans=backbone.in_chans, image_size=backbone.image_size, fresh=True)
    elif model is None:
        model = models.create(
            backbone.name, num_classes=backbone.num_classes, in_chans=backbone.in_chans, args=backbone.args
        )
    return model.float().cpu().eval()


def _line(error: Exception) -> str:
    """The last line of an error, where torch says which tensor it is about."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
