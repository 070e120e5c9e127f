"""On a GPU: searches under MACs and under latency, in the precisions and layouts that one trains and deploys with there."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from networks import error
from rich.console import Console

import pas
from pas import models
from pas.compose import compose
from pas.cost import Conditions
from pas.cost.measure import latency, ratio
from pas.pipeline import run
from pas.timing import timing

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("exporter")]

X = torch.zeros(1, 3, 64, 64)


def dense() -> torch.nn.Module:
    torch.manual_seed(0)
    return models.create("repvgg_a0", num_classes=10, in_chans=3).cuda()


def train(search: pas.Search, steps: int, precision: torch.dtype, layout: torch.memory_format, compiled: bool = False) -> None:
    model = search.model.train()
    model.to(memory_format=layout)  # type: ignore[call-overload]
    call = torch.compile(model) if compiled else model
    optimizer = torch.optim.SGD(search.param_groups(0.02, 1e-4), momentum=0.9)
    for _ in range(steps):
        x, y = torch.randn(16, *X.shape[1:], device="cuda").to(memory_format=layout), torch.randint(10, (16,), device="cuda")
        with torch.autocast("cuda", torch.bfloat16, enabled=precision is torch.bfloat16):
            loss = F.cross_entropy(call(x), y)
        (loss + search.penalty()).backward()
        optimizer.step()
        optimizer.zero_grad()
        search.step()


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_search_meets_its_budget_and_the_cut_is_exact(precision: torch.dtype, compiled: bool) -> None:
    """Masked, cut and fused networks are the same function, compared in fp64 on the GPU, as close as on the CPU."""
    layout = torch.channels_last if precision is torch.bfloat16 else torch.contiguous_format
    search = pas.Search(dense(), X.cuda(), budget=pas.Budget(macs=0.5), steps=12)
    train(search, 12, precision, layout, compiled)
    small = search.export()
    assert next(small.parameters()).is_cuda
    kept = pas.cost.macs(search.signature, search.architecture) / pas.cost.macs(search.signature, search.signature.dense())
    assert 0.485 < kept <= 0.5
    x = torch.randn(4, *X.shape[1:], device="cuda", dtype=torch.float64)
    with torch.no_grad():
        backbone = copy.deepcopy(search.backbone).double().eval()
        cut = pas.slice(backbone, search.signature, search.architecture)
        masked = pas.mask(backbone, search.signature, search.architecture)(x)
        assert error(masked, cut(x)) < 1e-10
        assert error(masked, pas.fuse(cut)(x)) < 1e-10
        assert error(masked, small.double().eval()(x)) < 1e-2  # fused in fp32


@pytest.mark.parametrize("batch", [1, 32])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_search_under_latency_is_measured_on_the_gpu(batch: int, dtype: str, tmp_path: Path) -> None:
    """The exported network, measured anew, takes no more than the target but for noise, and not much less."""
    conditions = Conditions("torch", batch=batch, device="cuda", layout="channels_last", dtype=dtype)
    torch.manual_seed(0)
    model = models.create("repvgg_mini", num_classes=10, in_chans=3).cuda()
    example = torch.zeros(1, 3, 64, 64, device="cuda")
    search = pas.Search(
        model, example, budget=pas.Budget(latency=0.8), steps=1, method="uniform", conditions=conditions, progress=Console(quiet=True)
    )
    assert search.timing is not None
    assert search.timing.table.header.device == torch.cuda.get_device_name()
    small = search.export().eval()
    found = latency({"dense": pas.fuse(model), "searched": small}, example.cpu(), conditions, repeats=30, warmup=3, spread=None)
    share = ratio(found["searched"], found["dense"])
    print(f"batch {batch}, {dtype}: {share}, calibration {search.timing.calibration}, block {search.timing.block}")
    assert 0.6 < share.median < 0.85


@pytest.mark.slow
def test_compiled_operators_are_timed_on_the_gpu() -> None:
    model = models.create("repvgg_nano", num_classes=10, in_chans=1)
    signature = pas.signature(model.eval(), torch.zeros(1, 1, 32, 32))
    found = timing(model, signature, Conditions("compile", batch=32, device="cuda", spread=1e9), None, Console(quiet=True))
    assert found.dense_ms > 0


@pytest.mark.parametrize("more", [[], ["hardware.precision=fp32", "hardware.channels_last=false"]])
def test_a_run_meets_its_budget_and_the_ladder(more: list[str], tmp_path: Path) -> None:
    short = ["train.dense.epochs=1", "train.search.epochs=1", "train.finetune.epochs=1", "data.subset=256", "cost.repeats=5"]
    result = run(compose([*short, *more, f"paths.runs={tmp_path}", "hardware=cuda"]))
    assert 0.97 < result["budget"]["achieved"] / result["budget"]["target"] <= 1
    assert result["exactness"]["mask_slice"] <= 1e-10
    assert result["exactness"]["slice_fuse"] <= 1e-10
