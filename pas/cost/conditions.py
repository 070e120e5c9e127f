"""Under which conditions time is measured: runtime, batch, threads, device; and what a measurement says of itself."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from pas.amount import counted
from pas.errors import PasError

RUNTIMES = ("onnxruntime", "torch", "compile")
"""ONNX Runtime on the CPU, torch as it is (on a GPU: CUDA graphs), and `torch.compile`."""
LAYOUTS = ("NCHW", "channels_last")
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Conditions:
    """How a network will be run: with this runtime, on `batch` examples at once, by so many CPU threads, on "cpu" or "cuda".

    `layout` and `dtype`: how torch keeps images in memory, and in which numbers it computes; ONNX Runtime runs what is exported, which is
    NCHW in float32. `spread`: the largest 95 % interval of a ratio of two networks that counts as measured, as a share of it; single
    operators, of which there are many, may spread over ten times as much. Raises PasError for what isn't among the choices.
    """

    runtime: str = "onnxruntime"
    batch: int = 1
    threads: int = 1
    device: str = "cpu"
    layout: str = "NCHW"
    dtype: str = "float32"
    spread: float = 0.05

    def __post_init__(self) -> None:
        if self.runtime not in RUNTIMES:
            raise PasError(f"runtime={self.runtime}: choose from {', '.join(RUNTIMES)}")
        for name, choices in (("layout", LAYOUTS), ("dtype", DTYPES)):
            if getattr(self, name) not in choices:
                raise PasError(f"{name}={getattr(self, name)}: choose from {', '.join(choices)}")
        for name in ("batch", "threads"):
            if getattr(self, name) < 1:
                raise PasError(f"{name}={getattr(self, name)}: must be at least 1")
        if not self.spread > 0:
            raise PasError(f"spread={self.spread}: must be above 0")
        if self.runtime == "onnxruntime" and self.device != "cpu":
            raise PasError(f"ONNX Runtime is timed on the CPU; for {self.device} take runtime=torch or compile")
        for name, own in (("layout", "NCHW"), ("dtype", "float32")):
            if self.runtime == "onnxruntime" and getattr(self, name) != own:
                raise PasError(f"{name}={getattr(self, name)}: ONNX Runtime runs what is exported, in {own}; take runtime=torch or compile")

    @property
    def brief(self) -> str:
        """Runtime, batch and threads in a few words."""
        return f"{self.runtime}, batch {self.batch}, {counted(self.threads, 'thread')}"

    def header(self) -> Header:
        """The same with everything else that times depend on. Raises PasError when there is no such device."""
        if self.device != "cpu" and not torch.cuda.is_available():
            raise PasError(f"device={self.device}: torch sees no GPU here")
        name = cpu_name() if self.device == "cpu" else torch.cuda.get_device_name(self.device)
        versions = {"torch": str(torch.__version__)}
        if self.runtime == "onnxruntime":
            versions = {"onnxruntime": version("onnxruntime")}
        elif self.device != "cpu":
            versions |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
        return Header(name, self.runtime, self.dtype, self.layout, self.batch, self.threads, versions)


@dataclass(frozen=True)
class Header:
    """What times were measured with. Those of two headers say nothing about each other."""

    device: str
    runtime: str
    dtype: str
    layout: str
    batch: int
    threads: int
    versions: dict[str, str]

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        size = f"batch {self.batch}, {counted(self.threads, 'thread')}"
        return f"{self.device}, {self.runtime} ({versions}), {self.dtype}, {self.layout}, {size}"


def cpu_name() -> str:
    """The processor's model name where the system tells it (Linux), else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
