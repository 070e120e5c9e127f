"""What a run ran on: written beside every number."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

CODE = ("*.py", "*.yaml", "*.toml", "setup.cfg", "constraints.txt")
"""Changes of these are changes of the code; results that land among tracked files aren't."""
PACKAGES = ("pas", "torch", "torchvision", "timm", "numpy", "onnx", "onnxruntime")


def environment(device: str) -> dict[str, Any]:
    """Versions, device, processes and the threads of each, and the commit of the code (null when it isn't run from a checkout)."""
    import torch

    from pas import distributed
    from pas.cost.conditions import cpu_name

    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else cpu_name()
    return {
        **{package: _version(package) for package in PACKAGES},
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": f"{device} ({name})",
        "processes": distributed.world(),
        "threads": torch.get_num_threads(),
        **_commit(),
    }


def commit_of(environment: Mapping[str, Any], digits: int | None = None) -> str | None:
    """The commit that an `environment` holds, and whether its code was changed, in words; None where it isn't known."""
    commit = environment["commit"]
    return None if commit is None else commit[:digits] + (" with changes" if environment.get("dirty") else "")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a checkout that isn't installed
        return "unknown"


def _commit() -> dict[str, Any]:
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return {"commit": None, "dirty": None}
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", *CODE)
        return {"commit": commit, "dirty": bool(changed)}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}


def _git(root: Path, *arguments: str) -> str:
    run = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=20)
    return run.stdout.strip()
