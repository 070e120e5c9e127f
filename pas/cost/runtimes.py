"""A network made ready to run in a runtime, and the clock that times it there."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from pas import onnx
from pas.cost.conditions import Conditions

Run = Callable[[], object]
Forward = Callable[[Tensor], object]
LARGE = 16
"""From so many examples on a GPU is timed by events, and below by a CUDA graph."""
MOST_COPIES = 64


def ready(network: nn.Module, x: Tensor, conditions: Conditions, *, operator: bool = False) -> tuple[Run, Callable[[Run], float]]:
    """A function that runs the network on x (N, ...), and one that times such a function in ms. Eval mode is the caller's.

    `operator`: the network is a single one, which is never worth a launch of its own.
    """
    if conditions.runtime == "onnxruntime":
        return _onnxruntime(network, x, conditions.threads), wall_ms
    x = x.to(conditions.device)
    network = copy.deepcopy(network).to(conditions.device)
    if conditions.layout == "channels_last":
        x = x.to(memory_format=torch.channels_last) if x.dim() == 4 else x
        network = network.to(memory_format=torch.channels_last)
    forward: Forward = torch.compile(network) if conditions.runtime == "compile" else network
    if conditions.device == "cpu":
        return lambda: forward(x), wall_ms
    if len(x) >= LARGE and not operator:
        return _settled(lambda: forward(x)), _events_ms
    run, copies = _cuda_graph(network, x, compiled=conditions.runtime == "compile")
    return run, lambda run: _events_ms(run) / copies


def wall_ms(run: Run) -> float:
    """The time of a run by the clock on the wall."""
    start = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - start)


def _onnxruntime(network: nn.Module, x: Tensor, threads: int) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.export(network, x, path)
        session = onnx.session(path, threads)
    feed = {session.get_inputs()[0].name: x.cpu().numpy()}
    return lambda: session.run(None, feed)


def _cuda_graph(network: nn.Module, x: Tensor, *, compiled: bool) -> tuple[Run, int]:
    """One graph of as many copies of the network as together hold twice the L2 cache, and how many these are.

    A replay costs the CPU nothing, whose launches would hide the GPU's time, and no copy finds its weights in the cache, as a network that
    runs among others doesn't.
    """
    cache = torch.cuda.get_device_properties(x.device).L2_cache_size
    size = sum(t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers(), x))
    count = min(MOST_COPIES, 1 + 2 * cache // max(size, 1))
    copies = [network, *(copy.deepcopy(network) for _ in range(count - 1))]
    networks: list[Forward] = [torch.compile(one) if compiled else one for one in copies]
    inputs = [x.clone() for _ in networks]

    def all_of_them() -> None:
        for one, its in zip(networks, inputs, strict=True):
            one(its)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        _settled(all_of_them)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        all_of_them()
    return graph.replay, count


def _settled(run: Run) -> Run:
    """After a few runs, in which libraries choose their kernels."""
    for _ in range(3):
        run()
    return run


def _events_ms(run: Run) -> float:
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    run()
    last.record()
    last.synchronize()
    return first.elapsed_time(last)
