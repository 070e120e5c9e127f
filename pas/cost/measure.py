"""Latency, measured: networks take turns in one process, so that the machine's moods hit all of them alike."""

import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn

from pas import onnx
from pas.errors import PasError

RUNTIMES = ("onnxruntime", "torch")
Run = Callable[[], None]


@dataclass(frozen=True)
class Latency:
    """Median and interquartile range of the time of a batch in milliseconds, and what it was measured with."""

    median_ms: float
    iqr_ms: float
    runs: int
    runtime: str
    threads: int
    device: str
    dtype: str
    batch: int
    versions: dict[str, str]


@torch.no_grad()
def latency(
    networks: Mapping[str, nn.Module],
    example: Tensor,
    *,
    runtime: str,
    batch: int,
    threads: int,
    repeats: int,
    warmup: int,
) -> dict[str, Latency]:
    """Time every network on `batch` copies of the first image of `example` (N, C, H, W), in eval mode.

    Each of the `repeats` rounds times each network once, right after an untimed run of the same network, so that it
    finds the caches as it would when it runs alone.

    Args:
        runtime: "onnxruntime" (CPU), or "torch" on the device of `example`: on a GPU each network is one CUDA graph.
        threads: CPU threads of the runtime.
        warmup: untimed rounds before the first timed one.

    Raises:
        PasError: the runtime is unknown, or a network can't be exported to it.
    """
    if runtime not in RUNTIMES:
        raise PasError(f"runtime={runtime}: choose from {', '.join(RUNTIMES)}")
    x = example[:1].expand(batch, *example.shape[1:]).contiguous()
    cuda = runtime == "torch" and x.device.type == "cuda"
    prepare = _onnxruntime if runtime == "onnxruntime" else _cuda_graph if cuda else _eager
    timer = _cuda_ms if cuda else _wall_ms
    modes = {name: network.training for name, network in networks.items()}
    times: dict[str, list[float]] = {name: [] for name in networks}
    try:
        with _torch_threads(threads):
            runs = {name: prepare(network.eval(), x, threads) for name, network in networks.items()}
            for turn in range(warmup + repeats):
                for name, run in runs.items():
                    run()
                    taken = timer(run)
                    if turn >= warmup:
                        times[name].append(taken)
    finally:
        for name, network in networks.items():
            network.train(modes[name])
    device = torch.cuda.get_device_name(x.device) if cuda else _cpu_name()
    dtype = str(x.dtype).removeprefix("torch.")
    versions = {"torch": str(torch.__version__)}
    if runtime == "onnxruntime":
        versions["onnxruntime"] = onnxruntime.__version__
    return {
        name: Latency(statistics.median(ms), _iqr(ms), len(ms), runtime, threads, device, dtype, batch, versions)
        for name, ms in times.items()
    }


def _onnxruntime(network: nn.Module, x: Tensor, threads: int) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.export(network, x, path)
        session = onnx.session(path, threads)
    feed = {session.get_inputs()[0].name: x.cpu().numpy()}
    return lambda: session.run(None, feed)


def _eager(network: nn.Module, x: Tensor, threads: int) -> Run:
    return lambda: network(x)


def _cuda_graph(network: nn.Module, x: Tensor, threads: int) -> Run:
    """Capture the whole network once: replaying it costs no time on the CPU, which would hide the GPU's."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # libraries choose their kernels now; that can't be captured
            network(x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        network(x)
    return graph.replay


def _wall_ms(run: Run) -> float:
    start = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - start)


def _cuda_ms(run: Run) -> float:
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    run()
    last.record()
    last.synchronize()
    return first.elapsed_time(last)


def _cpu_name() -> str:
    """The processor's model name where the system tells it (Linux), else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _iqr(values: list[float]) -> float:
    if len(values) < 2:
        return 0.0
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return third - first


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
