"""A searched network as a folder: what it is made from, which channels stayed, its weights, an ONNX file and a card.

JSON, safetensors and ONNX only. Nothing in a bundle is imported, instantiated by name or executed: a network is rebuilt
by making its backbone, which must be one that `pas.models` knows or lie in the bundle as an ONNX graph without weights, and
slicing it (`pas.publish.sealed`: a damaged or edited one is refused). A published bundle may hold more (see
`pas.publish.publication`): a figure, and further forms of the network, which `pas` writes and never reads. One whose form is
"widths" holds no weights: others published which channels stay, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from timm.models import get_pretrained_cfg
from torch import nn

from pas import models, onnx
from pas.architecture import Architecture
from pas.data.load import CROP
from pas.disk import write_bytes, write_text, writing
from pas.errors import PasError
from pas.publish.backbone import Backbone
from pas.publish.names import folder_of, located
from pas.publish.sealed import DIGESTED, FILES, FUSED, GRAPH, SCHEMA, WIDTHS, architecture_of, line, read_config, seal, skeleton, weights_of
from pas.surgery.forms import signature
from pas.surgery.fuse import fuse
from pas.surgery.slice import slice


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
        raise PasError(f"{weights} can't be read: {line(error)}") from error
    except RuntimeError as error:
        raise PasError(f"the weights in {folder} don't fit its architecture: {line(error)}") from error
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
        raise PasError(f"{folder} describes no network that can be made: {type(error).__name__}: {line(error)}") from error


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
