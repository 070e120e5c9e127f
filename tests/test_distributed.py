"""Several processes under torchrun: together they compute what one computes, one of them writes, and none waits for ever.

Numbers of one process and of two differ by the order of sums: in fp64 nothing else is left at 1e-9 after a whole search.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import one_of_two
import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor

from pas.compose import compose
from pas.pipeline import run
from pas.result import read_result
from pas.runs import open_run, read_metrics, run_folder
from pas.train.checkpoint import load
from pas.train.norm import batch_norm

HERE = Path(__file__).parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def together(*words: str, folder: Path, path: Path | None = None, **more: str) -> subprocess.Popen[str]:
    """Two processes of one thread each, with `path` first on their path and `more` in their environment."""
    paths = [str(one) for one in (path, HERE.parent, HERE) if one is not None]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "120", **more}
    return subprocess.Popen(
        [*TORCHRUN, *words], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes came to."""
    folder = tmp_path_factory.mktemp("two")
    process = together(str(HERE / "one_of_two.py"), str(folder), folder=folder)
    ended(process)
    assert process.returncode == 0
    return [load(folder / str(rank)) for rank in range(2)]


def close(found: Any, expected: Any, atol: float) -> None:
    """Equal nests, numbers and tensors within `atol`."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            close(found[key], value, atol)
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            close(one, other, atol)
    elif isinstance(expected, Tensor):
        assert torch.allclose(found.double(), expected.double(), rtol=0, atol=atol), (found - expected).abs().max()
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=0, abs=atol)
    else:
        assert found == expected


def test_norms_see_the_batch_of_both(two: list[dict[str, Any]], tmp_path: Path) -> None:
    one = one_of_two.norms(tmp_path)
    for name, expected in one.items():
        for rank in range(2):
            found = two[rank]["norms"][name]
            close(found["rows"], {key: rows[rank::2].detach() for key, rows in expected["rows"].items()}, 1e-12)
            close(found["all"], {key: value.detach() for key, value in expected["all"].items()}, 1e-11)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_norm_alone_is_torchs(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    x = (5 + torch.randn(8, 4, 3, 3, generator=generator, dtype=torch.float64)).to(dtype)
    weight, bias, towards = (torch.randn(4, generator=generator, dtype=exact) for _ in range(3))
    results = []
    for function in (F.batch_norm, batch_norm):
        leaves = [one.clone().requires_grad_() for one in (x, weight, bias)]
        statistics = [torch.zeros(4, dtype=exact), torch.ones(4, dtype=exact)]
        y = function(leaves[0], *statistics, *leaves[1:], True, 0.3, 1e-3)
        (y.to(exact).square() * towards.view(1, -1, 1, 1)).sum().backward()
        assert y.dtype == dtype
        results.append([y.detach(), *statistics, *(leaf.grad for leaf in leaves)])
    # sums of 72 products of a few units, in another order; outputs and gradients in bf16 are rounded to 8 bits
    close(results[1], results[0], {torch.float64: 1e-12, torch.float32: 1e-4, torch.bfloat16: 0.25}[dtype])


def test_the_gradient_of_a_norm_is_its_derivative() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in ((5, 3, 2), (3,), (3,))
    )
    assert torch.autograd.gradcheck(lambda *leaves: batch_norm(leaves[0], None, None, *leaves[1:], True), (x, weight, bias))


def test_the_processes_share_one_batch_pixel_for_pixel(two: list[dict[str, Any]], tmp_path: Path) -> None:
    for name, splits in one_of_two.batches(tmp_path).items():
        for split, expected in splits.items():
            shares = [two[rank]["batches"][name][split] for rank in range(2)]
            assert len(shares[0]) == len(expected)
            assert len(shares[1]) == len(expected) - (split == "test")  # nothing is left of the last image
            for number, parts in enumerate(expected):
                for rank in range(2):
                    for place, part in enumerate(parts):
                        if len(part[rank::2]):
                            assert torch.equal(shares[rank][number][place], part[rank::2])


@pytest.mark.parametrize("case", [one_of_two.searches, one_of_two.methods])
def test_two_processes_search_as_one(case: Callable[[Path], dict[str, Any]], two: list[dict[str, Any]], tmp_path: Path) -> None:
    """fp64, but for the gates and their moments, which are fp32: these are compared within 1e-4 of values of about 1.

    Gates of the other methods multiply weights: 20 steps of 2e-2, with gradients of about 1 that are rounded at 6e-8, move these by 2e-8.
    """
    atol = 1e-9 if case is one_of_two.searches else 1e-7
    for name, expected in case(tmp_path).items():
        first, second = (two[rank][case.__name__][name] for rank in range(2))
        assert second.pop("rows") == []
        rows = first.pop("rows")
        close(first, second, 0)  # bit for bit
        assert first["architecture"] == expected["architecture"]
        assert first["open"] == expected["open"]
        for part in ("weights", "ema"):
            close(first[part], {key: value.detach() for key, value in expected[part].items()}, atol)
        close(first["gates"], expected["gates"].detach(), 1e-4)
        close(rows, expected["rows"], 1e-5)
        close(first["test"], expected["test"], 1e-5)
        assert first["test"][0] == expected["test"][0]


def test_interrupted_processes_go_on_bit_for_bit(two: list[dict[str, Any]]) -> None:
    for rank in range(2):
        again, whole = (two[rank]["resumed"][name] for name in ("again", "whole"))
        rows, opened = again.pop("rows"), again.pop("open")
        assert whole.pop("rows")[-len(rows) or len(rows) :] == rows
        assert len(opened) < len(whole["open"])
        assert whole.pop("open")[-len(opened) :] == opened
        close(again, whole, 0)


def test_what_one_process_refuses_all_refuse(two: list[dict[str, Any]]) -> None:
    first, second = (two[rank]["refusals"] for rank in range(2))
    assert first["everywhere"] == second["everywhere"] == {"from": 0, "text": "é" * 300}
    assert first["broken"] == "PasError: process 1 failed: ValueError: broken"
    assert second["broken"] == "ValueError: broken"
    assert first["disagreement"] == second["disagreement"] == "PasError: not the same"
    assert "became infinite or NaN by step 1" in first["infinite"]
    assert "divided evenly among 2 processes" in first["odd"]
    assert "hardware.sync_norm=false" in first["compiled"]
    assert first["full"].startswith("PasError: ")
    assert first["full"] == second["full"]
    assert first["end"] == "still in step"
    for name in ("infinite", "odd", "compiled", "device", "end"):
        assert first[name] == second[name], name


SHORT = ["data.subset=180", "data.image_size=16", "train.dense.epochs=1", "train.search.epochs=2", "train.finetune.epochs=1",
         "cost.runtime=torch", "cost.repeats=3", "cost.warmup=0", "hardware.threads=1", "hardware.device=cpu"]  # fmt: skip

WATCH = '''"""Every process that starts with this on its path notes the files that it opens for writing, makes, renames or removes."""
import os, sys

RUNS, NOTES = os.environ["WATCHED"], os.path.join(os.path.dirname(__file__), f"writes-{os.environ.get('RANK')}")


def watch(event, arguments):
    if event == "open":
        path, _, flags = arguments
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    else:
        path, writes = arguments[0] if arguments else None, event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")
    if writes and isinstance(path, str | os.PathLike) and os.fspath(path).startswith(RUNS):
        with open(NOTES, "a") as notes:
            notes.write(f"{event} {os.fspath(path)}\\n")


if "RANK" in os.environ:
    sys.addaudithook(watch)
'''


def ended(process: subprocess.Popen[str], timeout: float = 400) -> tuple[str, list[str]]:
    """Its stdout, and the lines of stderr that it said itself, without torchrun's report and the bars of trainings."""
    try:
        out, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.terminate()
        raise
    return out, [line for line in errors.splitlines() if line.startswith("pas: ")]


def rows(folder: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in read_metrics(folder)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run that one process made."""
    config = compose([*SHORT, f"paths.runs={tmp_path_factory.mktemp('alone')}"])
    run(config, Console(quiet=True))
    return run_folder(config)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the same run that `torchrun -m pas search` made with two processes; what each wrote lies above it."""
    above = tmp_path_factory.mktemp("both")
    (above / "sitecustomize.py").write_text(WATCH)
    words = [*SHORT, f"paths.runs={above / 'runs'}"]
    process = together("-m", "pas", "search", *words, folder=above, path=above, WATCHED=str(above / "runs"))
    out, said = ended(process)
    assert process.returncode == 0, said
    assert out.count("top-1") == 1  # one table
    return run_folder(compose(words))


def test_two_processes_run_as_one(alone: Path, both: Path) -> None:
    """The same widths, and the losses of one process within what fp32 makes of the order of sums.

    Over these eight steps that is 2e-7 of a loss of 2.3. It grows with every step (that nothing else is different is shown
    in fp64 above), so longer trainings would prove less. One test image of 359 may lie on the edge.
    """
    one, two = read_result(alone), read_result(both)
    assert both.name == alone.name
    assert (both / "architecture.json").read_text() == (alone / "architecture.json").read_text()
    assert two["environment"]["processes"] == 2
    assert one["environment"]["processes"] == 1
    assert max(two["exactness"]["mask_slice"], two["exactness"]["slice_fuse"]) < 1e-10
    for name in ("params", "macs"):
        assert two["searched"][name] == one["searched"][name]
        assert two["dense"][name] == one["dense"][name]
    for side in ("dense", "searched"):
        assert two[side]["top1"] == pytest.approx(one[side]["top1"], abs=0.3)
    ours, expected = rows(both), rows(alone)
    for name in ("stage", "step", "epoch", "lr", "open", "macs", "export_macs"):
        assert [row.get(name) for row in ours] == [row.get(name) for row in expected]
    assert [row["loss"] for row in ours] == pytest.approx([row["loss"] for row in expected], rel=0, abs=1e-5)


@pytest.mark.slow
def test_two_processes_hold_one_latency(tmp_path: Path) -> None:
    """One of them measures, and both land on the same widths (else they would be refused)."""
    words = [*SHORT, f"paths.runs={tmp_path / 'runs'}", "model=repvgg_micro", "budget.latency=0.8", "cost.spread=1e9"]
    process = together("-m", "pas", "search", *words, folder=tmp_path, PAS_CACHE=str(tmp_path / "cache"))
    _, said = ended(process)
    assert process.returncode == 0, said
    result = read_result(run_folder(compose(words)))
    assert result["environment"]["processes"] == 2
    assert result["budget"]["kind"] == "latency"
    assert result["budget"]["share_target"] == pytest.approx(0.8)


def test_only_the_leader_writes(both: Path) -> None:
    above = both.parent.parent
    assert f"{both}/metrics.jsonl" in (above / "writes-0").read_text()
    assert not (above / "writes-1").exists(), (above / "writes-1").read_text()


def test_a_finished_run_is_shown_once_and_at_once(both: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in both.rglob("*")}
    process = together("-m", "pas", "search", *SHORT, f"paths.runs={both.parent}", folder=both)
    out, said = ended(process)
    assert (process.returncode, said) == (0, [])
    assert out.count("top-1") == 1
    assert {path: path.stat().st_mtime_ns for path in both.rglob("*")} == before


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["seed=x"], "pas: seed=x: must be a whole number"),
        pytest.param(["train.dense.batch_size=63"], "a batch of 63 images can't be divided evenly", marks=pytest.mark.slow),
        pytest.param(["train.dense.epochs=0", "budget.macs=0.001"], "smallest possible", marks=pytest.mark.slow),
    ],
)
def test_a_refusal_is_one_line_of_one_process(words: list[str], reason: str, tmp_path: Path) -> None:
    process = together("-m", "pas", "search", *SHORT, f"paths.runs={tmp_path / 'runs'}", *words, folder=tmp_path)
    out, said = ended(process, timeout=120)
    assert process.returncode != 0
    assert out == ""
    assert len(said) == 1, said
    assert reason in said[0]


@pytest.mark.slow
def test_a_run_in_use_ends_both(tmp_path: Path) -> None:
    words = [*SHORT, f"paths.runs={tmp_path / 'runs'}"]
    with open_run(compose(words)):
        process = together("-m", "pas", "search", *words, folder=tmp_path)
        _, said = ended(process, timeout=120)
    assert process.returncode != 0
    assert len(said) == 1, said
    assert f"in use by process {os.getpid()}" in said[0]


@pytest.mark.slow
def test_a_sweep_goes_on_after_a_refused_run(tmp_path: Path) -> None:
    words = [*SHORT, f"paths.runs={tmp_path / 'runs'}", "method=uniform"]
    process = together("-m", "pas", "search", "-m", *words, "budget.macs=0.001,0.5", folder=tmp_path)
    out, said = ended(process)
    assert process.returncode != 0
    assert out.count("top-1") == 1
    assert len(said) == 2, said  # at once, and at the end
    assert "smallest possible" in said[0]
    assert "1 of 2 runs failed" in said[1]
    assert read_result(run_folder(compose([*words, "budget.macs=0.5"])))["environment"]["processes"] == 2


@pytest.mark.slow
def test_killed_processes_start_again_and_come_to_the_same(both: Path, tmp_path: Path) -> None:
    """All killed at two moments, then once more to the end: what the undisturbed processes gave, bit for bit."""
    words = [*SHORT, f"paths.runs={tmp_path}", "hardware.checkpoint_seconds=0"]

    def written() -> int:
        return sum(len(path.read_text().splitlines()) for path in tmp_path.glob("*/metrics.jsonl"))

    for more in (3, 5):
        process = together("-m", "pas", "search", *words, folder=tmp_path)
        start, deadline = written(), time.monotonic() + 200
        while written() < start + more and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=True)
        for pid in (process.pid, *map(int, children.stdout.split())):
            os.kill(pid, signal.SIGKILL)
        process.communicate()
        assert written() >= start + more
    process = together("-m", "pas", "search", *words, folder=tmp_path)
    _, said = ended(process)
    assert process.returncode == 0, said
    again = run_folder(compose(words))
    assert rows(again) == rows(both)
    assert (again / "architecture.json").read_bytes() == (both / "architecture.json").read_bytes()
    weights = [(folder / "bundle" / "model.safetensors").read_bytes() for folder in (again, both)]
    assert weights[0] == weights[1]
    first, second = read_result(again), read_result(both)
    assert [first["searched"]["top1"], first["dense"]["top1"]] == [second["searched"]["top1"], second["dense"]["top1"]]
