"""Measured latency: orders networks of different size rightly, on both runtimes, and says what it measured with."""

import onnxruntime
import pytest
import torch
from torch import nn

from pas import models
from pas.cost.measure import latency
from pas.errors import PasError

pytestmark = pytest.mark.usefixtures("exporter")


def nets() -> dict[str, nn.Module]:
    """About eight times the work between them."""
    names = {"dense": "repvgg_mini", "searched": "repvgg_nano"}
    return {key: models.create(name, num_classes=10, in_chans=1) for key, name in names.items()}


@pytest.mark.parametrize("runtime", ["onnxruntime", "torch"])
def test_smaller_is_faster_and_the_record_is_complete(runtime: str) -> None:
    networks, threads = nets(), torch.get_num_threads()
    networks["searched"].eval()
    found = latency(networks, torch.randn(1, 1, 32, 32), runtime=runtime, batch=4, threads=1, repeats=15, warmup=2)
    assert list(found) == ["dense", "searched"]
    assert 0 < found["searched"].median_ms < found["dense"].median_ms
    for result in found.values():
        assert (result.runs, result.runtime, result.threads, result.batch) == (15, runtime, 1, 4)
        assert result.dtype == "float32"
        assert result.device
        assert result.iqr_ms >= 0
        assert result.versions["torch"] == torch.__version__
        assert result.versions.get("onnxruntime") == (onnxruntime.__version__ if runtime == "onnxruntime" else None)
    assert networks["dense"].training
    assert not networks["searched"].training
    assert torch.get_num_threads() == threads


def test_networks_take_turns_and_warm_up_is_not_counted() -> None:
    calls: list[str] = []

    class Noted(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls.append(f"{self.name}{len(x)}")
            return x

    found = latency(
        {"a": Noted("a"), "b": Noted("b")},
        torch.randn(1, 1, 4, 4),
        runtime="torch",
        batch=2,
        threads=1,
        repeats=3,
        warmup=1,
    )
    assert calls == ["a2", "a2", "b2", "b2"] * 4
    assert found["a"].runs == 3


def test_unknown_runtime_is_refused() -> None:
    with pytest.raises(PasError, match="runtime=tvm: choose from onnxruntime, torch"):
        latency(nets(), torch.randn(1, 1, 32, 32), runtime="tvm", batch=1, threads=1, repeats=1, warmup=0)


@pytest.mark.gpu
def test_cuda_graphs_time_the_gpu_and_order_networks() -> None:
    networks = {name: net.cuda() for name, net in nets().items()}
    found = latency(
        networks, torch.randn(1, 1, 32, 32, device="cuda"), runtime="torch", batch=256, threads=1, repeats=20, warmup=3
    )
    assert 0 < found["searched"].median_ms < found["dense"].median_ms
    assert found["dense"].device == torch.cuda.get_device_name()
