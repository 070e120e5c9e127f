"""Measured latency: orders networks of different size rightly, on both runtimes, and says what it measured with."""

import itertools

import onnxruntime
import pytest
import torch
from torch import nn

from pas import models
from pas.cost.conditions import Conditions
from pas.cost.measure import Latency, Timed, calm, interval, latency, ratio, turns
from pas.cost.runtimes import compiled
from pas.errors import PasError

pytestmark = pytest.mark.usefixtures("exporter")


def nets() -> dict[str, nn.Module]:
    """About eight times the work between them."""
    names = {"dense": "repvgg_mini", "searched": "repvgg_nano"}
    return {key: models.create(name, num_classes=10, in_chans=1) for key, name in names.items()}


@pytest.mark.parametrize("runtime", ["onnxruntime", "torch", pytest.param("compile", marks=pytest.mark.slow)])
def test_smaller_is_faster_and_the_record_is_complete(runtime: str) -> None:
    networks, threads = nets(), torch.get_num_threads()
    networks["searched"].eval()
    found = latency(networks, torch.randn(1, 1, 32, 32), Conditions(runtime, batch=4), repeats=15, warmup=2, spread=None)
    assert list(found) == ["dense", "searched"]
    assert 0 < min(found["searched"].times) < min(found["dense"].times)  # medians too, where nothing else runs
    for result in found.values():
        assert (result.runs, result.runtime, result.threads, result.batch) == (15, runtime, 1, 4)
        assert result.dtype == "float32"
        assert result.device
        assert result.iqr_ms >= 0
        assert result.low_ms <= result.median_ms <= result.high_ms
        assert result.versions["torch"] == torch.__version__
        assert result.versions.get("onnxruntime") == (onnxruntime.__version__ if runtime == "onnxruntime" else None)
    assert networks["dense"].training
    assert not networks["searched"].training
    assert torch.get_num_threads() == threads
    share = ratio(found["searched"], found["dense"])
    assert 0 < share.low <= share.median <= share.high
    assert "times" not in found["dense"].as_dict()


def test_tokens_and_numbers_of_other_precision() -> None:
    """An embedding reads whole numbers, and computes in the dtype that was asked for."""
    seen: list[torch.dtype] = []
    network = nn.Sequential(nn.Embedding(10, 8), nn.Flatten(), nn.Linear(24, 4))
    network[2].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    tokens = torch.randint(0, 10, (1, 3))
    found = latency({"a": network}, tokens, Conditions("torch", batch=2, dtype="bfloat16"), repeats=3, warmup=0, spread=None)
    assert found["a"].dtype == "bfloat16"
    assert set(seen) == {torch.bfloat16}
    assert network[2].weight.dtype is torch.float32


@pytest.mark.slow
def test_compiled_kinds_beyond_the_eighth_are_compiled() -> None:
    """Eight variants of one code are torch's limit; its error, were it met, would be raised, as graphs have to be whole."""
    call = [compiled() for _ in range(10)]
    for width, one in enumerate(call, start=1):
        assert one(nn.Linear(3, width).eval(), torch.ones(1, 3)).shape == (1, width)  # type: ignore[attr-defined]


def test_networks_take_turns_and_warm_up_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    class Noted(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls.append(f"{self.name}{len(x)}")
            return x

    monkeypatch.setattr("pas.cost.measure.SHORT_MS", 0.0)  # else short runs are timed several at once
    found = latency(
        {"a": Noted("a"), "b": Noted("b")}, torch.randn(1, 1, 4, 4), Conditions("torch", batch=2), repeats=3, warmup=1, spread=None
    )
    assert calls == ["a2", "a2", "b2", "b2"] * 4
    assert found["a"].runs == 3


def test_conditions_are_checked() -> None:
    for wrong, words in (
        ({"runtime": "tvm"}, "runtime=tvm: choose from onnxruntime, torch, compile"),
        ({"batch": 0}, "batch=0: must be at least 1"),
        ({"spread": 0.0}, "spread=0.0: must be above 0"),
        ({"layout": "NHWC"}, "layout=NHWC: choose from NCHW, channels_last"),
        ({"dtype": "int8"}, "dtype=int8: choose from float32, bfloat16, float16"),
        ({"device": "cuda"}, "ONNX Runtime is timed on the CPU"),
        ({"dtype": "bfloat16"}, "dtype=bfloat16: ONNX Runtime runs what is exported, in float32; take runtime=torch or compile"),
        ({"layout": "channels_last"}, "layout=channels_last: ONNX Runtime runs what is exported, in NCHW; take runtime=torch"),
    ):
        with pytest.raises(PasError, match=words):
            Conditions(**wrong)
    if not torch.cuda.is_available():
        with pytest.raises(PasError, match="device=cuda: torch sees no GPU here"):
            Conditions("torch", device="cuda").header()


def clock(times: list[float]) -> Timed:
    """A network that takes these times, one after the other, again and again."""
    given = itertools.cycle(times)
    return Timed(lambda: None, lambda run: next(given))


def test_interval_by_ranks() -> None:
    """Of 1 to 100 the median is 50.5; 50 -+ 1.96 * 10 / 2 = 40.2 and 59.8 are the places 40 and 59, counted from 0: 41 and 60."""
    assert interval(list(range(100, 0, -1))) == (50.5, 41, 60)
    assert interval([3.0]) == (3, 3, 3)


def test_noise_gets_more_rounds_and_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times that double from turn to turn: the median of 8, or of 32, lies anywhere between."""
    monkeypatch.setattr("pas.cost.measure.SHORT_MS", 0.0)
    monkeypatch.setattr("pas.cost.measure.PATIENCE", 0.0)
    noisy, calm_one = [1.0, 2.0], [1.0, 1.01]
    found = turns({"a": clock(calm_one)}, Conditions(), repeats=8, warmup=0, spread=0.05)
    assert found["a"].runs == 8
    with pytest.raises(PasError, match="the machine is too noisy: after 32 runs the time of 'a' is known to"):
        turns({"a": clock(noisy)}, Conditions(), repeats=8, warmup=0, spread=0.05)
    found = turns({"a": clock(noisy)}, Conditions(), repeats=8, warmup=0, spread=0.05, refuse=False)
    assert found["a"].runs == 32
    assert turns({"a": clock(noisy)}, Conditions(), repeats=8, warmup=0, spread=None)["a"].runs == 8


def test_short_runs_are_timed_several_at_once() -> None:
    """0.5 ms: as many as fill 2 ms, four, whose mean is 1.25 ms (0.5, 1, 1.5, 2)."""
    assert clock([0.5, 1.0, 1.5, 2.0]).ms() == 1.25
    assert clock([3.0, 1.0]).ms() == 3.0


def test_what_slows_both_down_is_no_noise_of_their_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pas.cost.measure.SHORT_MS", 0.0)
    both = {"a": clock([1.0, 2.0, 4.0]), "b": clock([0.5, 1.0, 2.0])}
    found = turns(both, Conditions(), repeats=8, warmup=0, spread=0.05)
    assert isinstance(found["a"], Latency)
    share = ratio(found["b"], found["a"])
    assert (share.low, share.median, share.high) == (0.5, 0.5, 0.5)
    assert str(share) == "0.500 (0.500 to 0.500)"


def test_the_calmest_measurement_counts() -> None:
    """Ranges of the middle half over the median: 2/2 = 1, then 0.1/1.1, then 0.05/1.05, which is below 0.06 and ends it."""
    tries = iter([[1.0, 1.0, 3.0, 3.0], [1.0, 1.2], [1.0, 1.1], [5.0]])
    times, share = calm(lambda: next(tries), 0.06, 4)
    assert times == [1.0, 1.1]
    assert share == pytest.approx(0.05 / 1.05)
    tries = iter([[1.0, 1.0, 3.0, 3.0], [1.0, 1.2]])
    assert calm(lambda: next(tries), 0.06, 2)[0] == [1.0, 1.2]


@pytest.mark.gpu
def test_cuda_graphs_time_the_gpu_and_order_networks() -> None:
    networks = {name: net.cuda() for name, net in nets().items()}
    for batch in (1, 256):  # by a graph of several copies, and by events
        conditions = Conditions("torch", batch=batch, device="cuda")
        found = latency(networks, torch.randn(1, 1, 32, 32), conditions, repeats=20, warmup=3, spread=None)
        assert 0 < found["searched"].median_ms < found["dense"].median_ms
    assert found["dense"].device == torch.cuda.get_device_name()
