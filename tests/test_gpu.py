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
from pas.cost.measure import latency, prepared, ratio
from pas.pipeline import run

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


def wide() -> torch.nn.Module:
    """Few operators, that keep a GPU busy: in a small network no width changes its latency there."""
    torch.manual_seed(0)
    layers: list[torch.nn.Module] = []
    for reads, stride in ((3, 2), (48, 1), (48, 1), (48, 2)):
        layers += [torch.nn.Conv2d(reads, 48, 3, stride, 1, bias=False), torch.nn.BatchNorm2d(48), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(48, 10)).cuda()


@pytest.mark.parametrize(
    ("runtime", "dtype", "layout"),
    [
        ("torch", "float32", "NCHW"),
        ("torch", "bfloat16", "channels_last"),
        pytest.param("compile", "bfloat16", "channels_last", marks=pytest.mark.slow),
    ],
)
def test_a_search_under_latency_is_measured_on_the_gpu(runtime: str, dtype: str, layout: str) -> None:
    """The exported network, measured anew, takes no more than the target but for noise, and not much less."""
    conditions = Conditions(runtime, batch=64, device="cuda", layout=layout, dtype=dtype)
    model, example = wide().eval(), torch.zeros(1, 3, 128, 128, device="cuda")
    search = pas.Search(
        model, example, budget=pas.Budget(latency=0.7), steps=1, method="uniform", conditions=conditions, progress=Console(quiet=True)
    )
    assert search.timing is not None
    assert search.timing.table.header.device == torch.cuda.get_device_name()
    found = {"dense": pas.fuse(model), "searched": search.export().eval()}
    times = latency(found, example.cpu(), conditions, repeats=30, warmup=3, spread=None)
    share = ratio(times["searched"], times["dense"])
    print(f"{runtime}, {dtype}: {share} of {times['dense'].median_ms} ms, {search.timing.calibration}, block {search.timing.block}")
    assert 0.6 < share.median < 0.72


def test_graphs_keep_what_they_read() -> None:
    """A graph knows addresses: what it reads must outlive the function that captured it."""
    torch.manual_seed(0)
    run = prepared(wide(), torch.zeros(1, 3, 32, 32), Conditions("torch", device="cuda"))
    torch.cuda.empty_cache()
    filled = [torch.full((1 << 20,), float("nan"), device="cuda") for _ in range(64)]
    assert run.ms() > 0
    torch.cuda.synchronize()
    del filled


@pytest.mark.parametrize("more", [[], ["hardware.precision=fp32", "hardware.channels_last=false"]])
def test_a_run_meets_its_budget_and_the_ladder(more: list[str], tmp_path: Path) -> None:
    short = ["train.dense.epochs=1", "train.search.epochs=1", "train.finetune.epochs=1", "data.subset=256", "cost.repeats=5"]
    result = run(compose([*short, *more, f"paths.runs={tmp_path}", "hardware=cuda"]))
    assert 0.97 < result["budget"]["achieved"] / result["budget"]["target"] <= 1
    assert result["exactness"]["mask_slice"] <= 1e-10
    assert result["exactness"]["slice_fuse"] <= 1e-10
