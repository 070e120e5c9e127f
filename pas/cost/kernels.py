"""One operator on a device, timed as it runs inside a network."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from pas import onnx
from pas.cost.conditions import Conditions
from pas.cost.measure import calm
from pas.cost.operator_onnx import onnx_model
from pas.cost.operator_torch import torch_module
from pas.cost.operators import Key
from pas.cost.runtimes import ready, wall_ms
from pas.errors import PasError

RUNS, FEWEST, WARMUP = 15, 5, 3
LONG_MS = 100.0
"""Runs beyond the fewest end when they have taken so long together."""
CALM, TRIES, NOISY = 0.1, 8, 10.0
"""A middle half of the runs within a tenth of the median is calm; after so many tries the calmest counts, unless it spreads over so many
times the spread of the conditions.
"""
PAUSES = (0.0, 0.5, 2.0, 5.0)
"""Seconds to wait before each turn at that: what disturbs a machine for a moment is no reason to give up a table."""
TINY_MS = 0.02
"""Below this the clock's own grain is a good part of a time, so that ranges say nothing."""


@dataclass(frozen=True)
class Kernel:
    """An operator at some widths, made ready to be timed. `measure`: some runs, in ms."""

    key: Key
    widths: tuple[int, ...]
    measure: Callable[[], list[float]]
    spread: float

    def ms(self) -> tuple[float, float]:
        """The median time, and the range of the middle half of the runs. Raises PasError when the machine stays too noisy."""
        for pause in PAUSES:
            time.sleep(pause)
            times, share = calm(self.measure, CALM, TRIES)
            middle = statistics.median(times)
            if share <= NOISY * self.spread or middle <= TINY_MS:
                return middle, share * middle
        raise PasError(
            f"the machine is too noisy: the middle half of the runs of {self.key} ({' to '.join(map(str, self.widths))}) spreads over "
            f"{share:.0%} of their median. Stop what else runs, or allow a larger spread; the same command goes on from here"
        )


def kernel(key: Key, widths: tuple[int, ...], conditions: Conditions) -> Kernel:
    """An operator made ready under some conditions. Raises PasError for one that nobody has said how to build."""
    prepare = _in_onnxruntime if conditions.runtime == "onnxruntime" else _in_torch
    return Kernel(key, widths, prepare(key, widths, conditions), conditions.spread)


def _in_onnxruntime(key: Key, widths: tuple[int, ...], conditions: Conditions) -> Callable[[], list[float]]:
    """By its profiler, without the kernels that turn a tensor into the layout of its convolutions and back: inside a network they stand at
    its ends only. Where an operator takes several kernels, the medians of all but the longest are added to each run of that.
    """
    model, feeds = onnx_model(key, widths, conditions.batch)

    def measure() -> list[float]:
        kernels = kernel_times(model, feeds, conditions.threads)
        if not kernels:
            raise PasError(f"ONNX Runtime runs no kernel for {key} alone: say in pas.cost.operators that it costs nothing")
        *others, longest = sorted(kernels, key=statistics.median)
        rest = sum(map(statistics.median, others))
        return [rest + time for time in longest]

    return measure


def kernel_times(model: bytes, feeds: dict[str, np.ndarray], threads: int) -> list[list[float]]:
    """What ONNX Runtime's profiler says of each kernel in every run, in ms. On a busy machine most runs are interrupted somewhere, but few
    at one kernel, so that the median of each says more than that of their sum.
    """
    options = onnx.session_options(threads, alone=True)  # threads are awake, as in the midst of a network
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        taken = 0.0
        for run in range(WARMUP + RUNS):
            taken += wall_ms(lambda: session.run(None, feeds))
            if run >= WARMUP + FEWEST and taken > LONG_MS:
                break
        events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text())
    kernels: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time") and "Reorder" not in event["args"]["op_name"]:
            kernels[event["name"]].append(event["dur"] / 1e3)
    return [times[WARMUP:] for times in kernels.values()]


@torch.no_grad()
def _in_torch(key: Key, widths: tuple[int, ...], conditions: Conditions) -> Callable[[], list[float]]:
    module, x = torch_module(key, widths, conditions.batch, conditions.device)
    run, timer = ready(module.eval(), x, conditions)
    most = RUNS if conditions.device == "cpu" else FEWEST  # a GPU's differ by a percent, and each is the mean of several copies

    @torch.no_grad()
    def measure() -> list[float]:
        for _ in range(WARMUP):
            run()
        times: list[float] = []
        while len(times) < FEWEST or (len(times) < most and sum(times) < LONG_MS):
            times.append(timer(run))
        return times

    return measure
