"""A searched network as a folder: what it is made from, which channels stayed, its weights, an ONNX file and a card.

JSON, safetensors and ONNX only. Nothing in a bundle is imported, instantiated by name or executed: a network is rebuilt
by making its backbone, which must be one that `pas.models` knows, and slicing it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from pas import models, onnx
from pas.architecture import Architecture
from pas.errors import PasError
from pas.publish.backbone import Backbone
from pas.surgery.forms import signature
from pas.surgery.fuse import fuse
from pas.surgery.slice import slice

SCHEMA = 1
FILES = ("config.json", "architecture.json", "model.safetensors", "model.onnx", "README.md")


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
) -> None:
    """Write a fused network to `folder`. `about`: budget, method, data, metrics; `card`: the text of README.md."""
    folder.mkdir(parents=True, exist_ok=True)
    size = (backbone.in_chans, backbone.image_size, backbone.image_size)
    config = {
        "architecture": backbone.name,
        "num_classes": backbone.num_classes,
        "pretrained_cfg": {
            "input_size": size,
            "fixed_input_size": False,
            "num_classes": backbone.num_classes,
            "mean": mean,
            "std": std,
        },
        "pas": {"schema": SCHEMA, "form": "fused", "backbone": asdict(backbone), **about},
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    (folder / "architecture.json").write_text(architecture.to_json())
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    onnx.export(network, backbone.example(), folder / "model.onnx")
    (folder / "README.md").write_text(card)


def read_config(folder: str | Path) -> dict[str, Any]:
    """`config.json` of a bundle, checked. Raises PasError when the folder is not a bundle, or from a newer version."""
    folder = Path(folder)
    if not folder.is_dir():
        raise PasError(f"no bundle at {folder}: give the folder that a search wrote (runs/.../bundle)")
    missing = [name for name in FILES[:3] if not (folder / name).is_file()]
    if missing:
        raise PasError(f"{folder} is not a bundle: {missing[0]} is missing")
    try:
        config = json.loads((folder / "config.json").read_text())
        about = config["pas"]
        schema, backbone = int(about["schema"]), about["backbone"]
    except (ValueError, KeyError, TypeError) as error:
        raise PasError(f"{folder / 'config.json'} is damaged: {type(error).__name__}: {error}") from error
    if schema > SCHEMA:
        raise PasError(f"{folder} has schema {schema}, newer than {SCHEMA}: update pas to read it")
    try:
        Backbone(**backbone)
    except TypeError as error:
        raise PasError(f"{folder / 'config.json'} is damaged: pas.backbone: {error}") from error
    return config


def load(folder: str | Path, *, model: nn.Module | None = None) -> nn.Module:
    """The network of a bundle, fused, in eval mode, with its weights.

    `model`: the dense network, for a bundle whose backbone was a person's own and can't be made by name.
    Raises PasError when the folder is not a bundle, is damaged, or its backbone is unknown.
    """
    folder = Path(folder)
    backbone = Backbone(**read_config(folder)["pas"]["backbone"])
    if model is None:
        if ":" in backbone.name:
            raise PasError(f"{folder} holds a network of {backbone.name}: make the dense network and pass it as model=")
        model = models.create(
            backbone.name, num_classes=backbone.num_classes, in_chans=backbone.in_chans, args=backbone.args
        )
    architecture = Architecture.from_json((folder / "architecture.json").read_text(errors="replace"))
    model = model.float().cpu().eval()
    network = fuse(slice(model, signature(model, backbone.example()), architecture))
    try:
        network.load_state_dict(load_file(folder / "model.safetensors"))
    except (SafetensorError, OSError) as error:
        raise PasError(f"{folder / 'model.safetensors'} can't be read: {error}") from error
    except RuntimeError as error:
        raise PasError(
            f"the weights in {folder} don't fit its architecture: {str(error).splitlines()[-1].strip()}"
        ) from error
    return network
