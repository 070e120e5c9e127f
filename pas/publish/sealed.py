"""The files of a bundle, and the digests by which one that was damaged or edited is refused instead of giving another network.

`config.json` holds the digests of the other files and of itself, and is written last: a folder with it is whole. An architecture is also
read from a run's folder or a file of its own, which have no digests.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pas.architecture import Architecture, read_architecture
from pas.disk import digest, json_digest, parse_json, write_text
from pas.errors import PasError
from pas.publish.backbone import Backbone

SCHEMA = 2  # 1 had no digests
DIGESTED = ("architecture.json", "model.safetensors", "model.onnx")
GRAPH = "backbone.onnx"
FILES = ("config.json", "architecture.json", "model.safetensors", "model.onnx", "README.md")
FUSED, WIDTHS = "fused", "widths"


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
        raise PasError(f"{file} is damaged: {type(error).__name__}: {line(error)}") from error
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


def line(error: Exception) -> str:
    """The last line of an error, where torch says which tensor it is about."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
