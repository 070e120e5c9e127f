"""A network made ready to run in a runtime, and the clock that times it there."""

from __future__ import annotations

import copy
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from pas import onnx
from pas.cost.conditions import Conditions

Run = Callable[[], object]
Call = Callable[[nn.Module, Tensor], object]
MOST_COPIES = 64
SETTLED = 3
"""Runs before a graph is captured, in which libraries choose their kernels."""


def ready(network: nn.Module, x: Tensor, conditions: Conditions) -> tuple[Run, Callable[[Run], float]]:
    """A function that runs the network on x (N, ...), and one that times such a function in ms. Eval mode is the caller's."""
    if conditions.runtime == "onnxruntime":
        return _onnxruntime(network, x, conditions.threads), wall_ms
    dtype = getattr(torch, conditions.dtype)
    x = x.to(conditions.device, dtype if x.is_floating_point() else x.dtype)  # tokens stay numbers
    network = copy.deepcopy(network).to(conditions.device, dtype)
    if conditions.layout == "channels_last":
        x = x.to(memory_format=torch.channels_last) if x.dim() == 4 else x
        network = network.to(memory_format=torch.channels_last)
    call = compiled() if conditions.runtime == "compile" else called
    if conditions.device == "cpu":
        return lambda: call(network, x), wall_ms
    run, copies = _cuda_graph(call, network, x)
    return run, lambda run: _events_ms(run) / copies


def wall_ms(run: Run) -> float:
    """The time of a run by the clock on the wall."""
    start = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - start)


def called(network: nn.Module, x: Tensor) -> object:
    """The network's answer."""
    return network(x)


def compiled() -> Call:
    """The same under `torch.compile`, as one graph of static shapes for each kind of network.

    It has a code object of its own: of one and the same code torch compiles no more than eight variants, and runs all further ones eagerly,
    without an error.
    """
    own = types.FunctionType(called.__code__.replace(), called.__globals__)
    return torch.compile(own, fullgraph=True, dynamic=False)


def _onnxruntime(network: nn.Module, x: Tensor, threads: int) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.export(network, x, path)
        session = onnx.session(path, threads)
    feed = {session.get_inputs()[0].name: x.cpu().numpy()}
    return lambda: session.run(None, feed)


def _cuda_graph(call: Call, network: nn.Module, x: Tensor) -> tuple[Run, int]:
    """One graph of as many copies of the network as together hold twice the L2 cache, and how many these are.

    A replay costs the CPU nothing, whose launches take longer than the GPU for a small network even with large batches, and no copy finds
    its weights in the cache, as a network that runs among others doesn't.
    """
    cache = torch.cuda.get_device_properties(x.device).L2_cache_size
    size = sum(t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers(), x))
    count = min(MOST_COPIES, 1 + 2 * cache // max(size, 1))
    copies = [network, *(copy.deepcopy(network) for _ in range(count - 1))]
    inputs = [x.clone() for _ in copies]

    def all_of_them() -> None:
        for one, its in zip(copies, inputs, strict=True):
            call(one, its)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(SETTLED):
            all_of_them()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        all_of_them()

    def replay() -> object:
        graph.replay()
        return copies, inputs  # a graph knows addresses, and keeps nothing alive that was made before it

    return replay, count


def _events_ms(run: Run) -> float:
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    run()
    last.record()
    last.synchronize()
    return first.elapsed_time(last)
