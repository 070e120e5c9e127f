"""Nested state on disk: tensors in `state.safetensors`, everything else in `state.json`, never pickle.

A folder is written aside, forced to disk and renamed, so a crash at any moment leaves the new state or the previous.
Digests tell a damaged or edited state from the one that was saved.
"""

import json
import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from pas.disk import digest, json_digest, parse_json, sync, writing
from pas.errors import PasError

VERSION = 2  # 1 had no digests
TENSORS, REST = "state.safetensors", "state.json"
State = Mapping[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """Where a stage saves its state and how often: every so many seconds, and every `steps` steps if given."""

    folder: Path
    seconds: float = 60.0
    steps: int | None = None

    def due(self, step: int, seconds_since_last: float) -> bool:
        return seconds_since_last >= self.seconds or (self.steps is not None and step % self.steps == 0)

    def exists(self) -> bool:
        """Whether a state was ever saved."""
        return _saved(self.folder) is not None

    def save(self, state: State) -> None:
        save(state, self.folder)

    def load(self) -> dict[str, Any] | None:
        """The state saved last, or None when there is none."""
        return load(self.folder)


def save(state: State, folder: Path) -> None:
    """Write a nest of dicts, lists, tuples, tensors, numbers, text and None, in place of what `folder` held.

    Raises PasError when it can't be written, on a full disk for instance: the previous state is still there then.
    """
    tensors: dict[str, Tensor] = {}
    tree = _encode(state, tensors, {}, "state")
    content = to_bytes(tensors)
    digests = {"tensors": digest(content), "state": json_digest(tree)}
    rest = json.dumps({"version": VERSION, "sha256": digests, "state": tree}).encode()
    aside, previous = _aside(folder), _previous(folder)
    with writing(folder):
        shutil.rmtree(aside, ignore_errors=True)
        try:
            aside.mkdir(parents=True)
            for path, data in ((aside / TENSORS, content), (aside / REST, rest)):
                path.write_bytes(data)
                sync(path)
            sync(aside)
            # between these renames `previous` is the valid one, and `load` knows it
            if folder.exists():
                shutil.rmtree(previous, ignore_errors=True)
                folder.rename(previous)
            aside.rename(folder)
            sync(folder.parent)
        except OSError:
            shutil.rmtree(aside, ignore_errors=True)  # a full disk gets its room back
            raise
    shutil.rmtree(previous, ignore_errors=True)


def load(folder: Path) -> dict[str, Any] | None:
    """What `save` wrote last, tensors on the CPU; None when nothing was ever saved.

    Raises:
        PasError: the files are damaged, were changed, or are of a newer version.
    """
    source = _saved(folder)
    if source is None:
        return None
    try:
        record = parse_json((source / REST).read_bytes())
        if record["version"] > VERSION:
            raise PasError(f"the checkpoint {source} was written by a newer version; update, or delete that folder")
        content = (source / TENSORS).read_bytes()
        _verify(record, content)
        return _decode(record["state"], from_bytes(content))
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError, SafetensorError) as error:
        raise PasError(f"the checkpoint {source} can't be read ({error}); delete that folder to start anew") from error


def _verify(record: Mapping[str, Any], tensors: bytes) -> None:
    if record["version"] == 1 and "sha256" not in record:
        return
    found = {"tensors": digest(tensors), "state": json_digest(record["state"])}
    for name, file in (("tensors", TENSORS), ("state", REST)):
        if record["sha256"][name] != found[name]:
            raise ValueError(f"{file} isn't what was saved")


def random_state() -> dict[str, Any]:
    """The states of the global generators of Python, numpy and torch (every CUDA device too)."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    numpy_state = (kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest)
    return {"python": random.getstate(), "numpy": numpy_state, "torch": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: State) -> None:
    """Put back what `random_state` returned; CUDA's only where there are as many devices."""
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def _encode(value: Any, tensors: dict[str, Tensor], seen: dict[tuple, str], path: str) -> Any:
    """JSON for `value`: what JSON can't say (tensors, tuples, dicts) becomes a list of a tag and its content."""
    if isinstance(value, Tensor):
        return ["tensor", _store(value.detach(), tensors, seen)]
    if isinstance(value, Mapping):
        items = [[_encode(key, tensors, seen, path), _encode(item, tensors, seen, f"{path}.{key}")]
                 for key, item in value.items()]  # fmt: skip
        return ["dict", items]
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return [kind, [_encode(item, tensors, seen, f"{path}[{i}]") for i, item in enumerate(value)]]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{path} is a {type(value).__name__}: a checkpoint holds tensors, numbers, text, lists and dicts")


def _store(tensor: Tensor, tensors: dict[str, Tensor], seen: dict[tuple, str]) -> str:
    """Add a tensor and return its key; one that is met twice (tied weights) is stored once."""
    identity = (tensor.data_ptr(), tensor.device, tensor.dtype, tuple(tensor.shape), tensor.stride())
    key = seen.get(identity) if tensor.numel() else None
    if key is None:
        key = f"t{len(tensors)}"
        # a copy: safetensors refuses views into one storage, and wants rows in order
        tensors[key] = tensor.to("cpu", copy=True, memory_format=torch.contiguous_format)
        seen[identity] = key
    return key


def _decode(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(tree, list):
        return tree
    kind, content = tree
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {_decode(key, tensors): _decode(item, tensors) for key, item in content}
    items = [_decode(item, tensors) for item in content]
    return items if kind == "list" else tuple(items)


def _saved(folder: Path) -> Path | None:
    """Where the state that was saved last lies; None when there is none."""
    return next((path for path in (folder, _previous(folder)) if path.exists()), None)


def _aside(folder: Path) -> Path:
    return folder.with_name(folder.name + ".new")


def _previous(folder: Path) -> Path:
    return folder.with_name(folder.name + ".old")
