"""Latency, measured: networks take turns in one process, so that the machine's moods hit all of them alike."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor, nn

from pas.axes.capture import in_mode
from pas.cost.conditions import Conditions, Header
from pas.cost.runtimes import Run, ready
from pas.errors import PasError

TURNS, PATIENCE = 4, 20.0
"""A measurement that spreads too far gets so many times the runs, and at least so many seconds, before it is refused."""
SHORT_MS, MOST_RUNS = 2.0, 50
DEVIATIONS = 1.96


@dataclass(frozen=True)
class Latency(Header):
    """Of a batch in milliseconds: the median, its 95 % interval from `low_ms` to `high_ms`, the range of the middle half of the runs; and
    what it was measured with.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    iqr_ms: float
    runs: int
    times: tuple[float, ...] = field(repr=False)

    def as_dict(self) -> dict[str, object]:
        """All but the single times."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "times"}


@dataclass(frozen=True)
class Ratio:
    """How many times as long one network takes as another: the median over turns, and its 95 % interval."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


def ratio(one: Latency, other: Latency) -> Ratio:
    """The first over the second, of two networks that took turns: what slowed a turn down slowed both."""
    return Ratio(*interval([a / b for a, b in zip(one.times, other.times, strict=True)]))


def interval(values: list[float]) -> tuple[float, float, float]:
    """The median and its 95 % interval, from ranks, whatever the distribution: of n values those at n/2 -+ 1.96 sqrt(n)/2."""
    ordered, n = sorted(values), len(values)
    reach = DEVIATIONS * math.sqrt(n) / 2
    low, high = max(0, math.floor(n / 2 - reach)), min(n - 1, math.ceil(n / 2 + reach) - 1)
    return statistics.median(ordered), ordered[low], ordered[high]


@dataclass(frozen=True)
class Timed:
    """A network that is ready to run under some conditions, and the clock for it."""

    run: Run
    timer: Callable[[Run], float]

    def ms(self) -> float:
        """The time of a run, right after an untimed one, which fills the caches as if the network ran alone. Of short runs the mean of as
        many as take about two milliseconds: one alone would measure the clock.
        """
        self.run()
        first = self.timer(self.run)
        more = min(MOST_RUNS, round(SHORT_MS / max(first, 1e-6))) - 1
        return (first + sum(self.timer(self.run) for _ in range(more))) / (1 + more) if more > 0 else first


def prepared(network: nn.Module, example: Tensor, conditions: Conditions) -> Timed:
    """The network in eval mode on a batch of copies of the first image of `example` (N, C, H, W).

    Raises PasError when it can't be exported to the runtime, or there is no such device.
    """
    conditions.header()
    x = example[:1].expand(conditions.batch, *example.shape[1:]).contiguous()
    with torch.no_grad(), torch_threads(conditions.threads), in_mode(network, training=False):
        run, timer = ready(network, x, conditions)
    return Timed(run, timer)


def latency(
    networks: Mapping[str, nn.Module],
    example: Tensor,
    conditions: Conditions,
    *,
    repeats: int,
    warmup: int,
    spread: float | None,
) -> dict[str, Latency]:
    """Time every network on a batch of copies of the first image of `example` (N, C, H, W), in eval mode; see `turns`."""
    runs = {name: prepared(network, example, conditions) for name, network in networks.items()}
    return turns(runs, conditions, repeats=repeats, warmup=warmup, spread=spread)


@torch.no_grad()
def turns(
    networks: Mapping[str, Timed], conditions: Conditions, *, repeats: int, warmup: int, spread: float | None, refuse: bool = True
) -> dict[str, Latency]:
    """Time networks by turns: each of the `repeats` rounds times each network once.

    Args:
        warmup: untimed rounds before the first timed one.
        spread: the largest 95 % interval of the median ratio to the first network (of one alone, of its median time), as a share of it.
            Wider ones get more rounds, four times as many and more. None takes what comes.
        refuse: whether a machine that stays noisier than that is an error.

    Raises:
        PasError: the machine stays too noisy.
    """
    times: dict[str, list[float]] = {name: [] for name in networks}
    with torch_threads(conditions.threads):
        for _ in range(warmup):
            for network in networks.values():
                network.ms()
        began, turn = time.monotonic(), 0
        while not turn or (spread is not None and _widest(times)[1] > spread and (turn < TURNS or time.monotonic() - began < PATIENCE)):
            turn += 1
            for _ in range(repeats):
                for name, network in networks.items():
                    times[name].append(network.ms())
    name, widest = _widest(times)
    if refuse and spread is not None and widest > spread:
        raise PasError(
            f"the machine is too noisy: after {len(times[name])} runs the time of {name!r} is known to {widest:.1%} only "
            f"({spread:.1%} is wanted). Stop what else runs, or allow a larger spread"
        )
    header = conditions.header()
    about = vars(header) | {"versions": {**header.versions, "torch": str(torch.__version__)}}
    return {name: _summary(ms, about) for name, ms in times.items()}


def calm(measure: Callable[[], list[float]], spread: float, tries: int) -> tuple[list[float], float]:
    """The calmest of up to `tries` measurements, and its interquartile range as a share of its median: the first that is at most `spread`
    ends it.
    """
    best: tuple[list[float], float] = ([], math.inf)
    for _ in range(tries):
        times = measure()
        share = _iqr(times) / max(statistics.median(times), 1e-6)
        if share < best[1]:
            best = times, share
        if share <= spread:
            break
    return best


def _widest(times: Mapping[str, list[float]]) -> tuple[str, float]:
    """The network that is known least, and the interval of its median as a share of it: of its ratio to the first one, so that drifts that
    hit both don't count, or, of a network alone, of its time.
    """
    (first, base), *others = times.items()
    shares = {first: _width(base)} if not others else {}
    for name, ms in others:
        shares[name] = _width([a / b for a, b in zip(ms, base, strict=True)])
    return max(shares.items(), key=lambda one: one[1])


def _width(values: list[float]) -> float:
    middle, low, high = interval(values)
    return (high - low) / middle


def _summary(ms: list[float], about: Mapping[str, object]) -> Latency:
    middle, low, high = interval(ms)
    measured = {"median_ms": middle, "low_ms": low, "high_ms": high, "iqr_ms": _iqr(ms), "runs": len(ms), "times": tuple(ms)}
    return Latency(**about, **measured)  # type: ignore[arg-type]


def _iqr(values: list[float]) -> float:
    if len(values) < 2:
        return 0.0
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return third - first


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """So many threads in torch's own operators, for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
