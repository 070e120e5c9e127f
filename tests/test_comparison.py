"""Comparisons: which runs they are, what is made of their results, and that they go on where they were stopped."""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from results import RESULT
from rich.console import Console

from pas.cli import main
from pas.compare import beside
from pas.comparison import jobs
from pas.compose import compose
from pas.errors import PasError
from pas.pipeline import run
from pas.report.comparison import as_csv, best, lines, markdown, paired, table
from pas.report.comparison_figure import draw
from pas.runs import run_folder

QUICK = ["data.subset=200", "train.dense.epochs=1", "train.search.epochs=1", "train.finetune.epochs=1", "cost.runtime=torch",
         "cost.repeats=3", "cost.warmup=0", "hardware.threads=1", "hardware.device=cpu"]  # fmt: skip


# -- which runs


def test_every_row_in_every_cell_for_every_seed() -> None:
    found = jobs(["method=pas,uniform", "budget.macs=0.3,0.5", "seed=4,7", "options.round_to=1"])
    assert [job.name for job in found[:3]] == ["pas, macs=0.3, seed 4", "uniform, macs=0.3, seed 4", "pas, macs=0.5, seed 4"]
    assert (len(found), found[-1].name) == (8, "uniform, macs=0.5, seed 7")
    last = found[-1].config
    assert (last.method.name, last.budget.macs, last.seed, last.options.round_to) == ("uniform", 0.5, 7, 1)
    assert found[-1].config == compose(found[-1].overrides)


def test_rows_cells_and_seeds_of_the_configuration() -> None:
    rows = ['+compare.rows.l1=["method=uniform","method.options.criterion=l1"]', '+compare.rows.pas=["method=pas"]']
    found = jobs([*rows, '+compare.cells.half=["budget.macs=0.5"]', "compare.seeds=[3]"])
    assert [job.name for job in found] == ["l1, half, seed 3", "pas, half, seed 3"]
    assert found[0].config.method.options == {"criterion": "l1"}
    assert [job.seed for job in jobs(["method=pas", "seed=5"])] == [5]
    assert [job.seed for job in jobs(["method=pas"])] == [0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "compare: name methods, such as method=pas,uniform"),
        (["method=pas,oracle"], "method=oracle"),
        (["method=pas", "budget.macs=0.5,50 %"], None),
        (["+compare.rows.a=[]", "+compare.rows.b=[]"], "a, seed 0 and b, seed 0 are the same run: their settings don't differ"),
        (["method=pas", "--fast"], "--fast: there is no such option; `pas compare --help` lists what there is"),
        (["method='pas"], "method='pas: can't be read"),
    ],
)
def test_refusals(arguments: list[str], words: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    if words is None:
        assert len(jobs(arguments)) == 6
        return
    with pytest.raises(SystemExit) as ended:
        main(["compare", *arguments])
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_comparing_changes_no_run() -> None:
    job = jobs(["method=pas", "seed=0", "compare.processes=2", "compare.folder=elsewhere"])[0]
    assert run_folder(job.config) == run_folder(compose())


# -- what is made of their results


def result(top1: float, macs: int = 50, **recovery: float) -> dict:
    found = copy.deepcopy(RESULT)
    found["searched"] |= {"top1": top1, "macs": macs}
    return {**found, "recovery": recovery}


def three() -> list:
    found = [("uniform", "half", seed, result(top1, cut=10.0 + seed)) for seed, top1 in enumerate((80.0, 81.0, 82.0))]
    found += [("magnitude", "half", seed, result(70.0)) for seed in range(3)]
    found += [("pas", "half", seed, result(top1, 48)) for seed, top1 in enumerate((81.0, 83.0, 85.0))]
    return lines(found)


def test_a_paired_test_by_hand() -> None:
    """Differences 1, 2 and 3 have the mean 2 and the deviation 1: t = 2 sqrt(3) with two degrees of freedom, for which
    P(|T| > t) = 1 - t / sqrt(2 + t^2) = 1 - sqrt(12 / 14).
    """
    uniform, magnitude, pas = three()
    assert best([uniform, magnitude, pas], ["uniform", "magnitude"]) is uniform
    gap = paired(pas, uniform)
    assert gap is not None
    assert (gap.difference, gap.seeds) == (2.0, 3)
    assert gap.p == pytest.approx(1 - math.sqrt(12 / 14))
    assert paired(uniform, uniform) is None
    same = paired(lines([("a", "", 0, result(71.0)), ("a", "", 1, result(71.0))])[0], magnitude)
    assert same is not None
    assert same.p is None, "equal differences have no deviation"


def test_a_table_by_hand() -> None:
    """81 ± 1 at the end, 11 ± 1 after the cut; 50 and 48 of 100 MACs; latencies of 1 and 2 ms; 2 + 3 s of search and fine-tuning."""
    header, rows = table(three(), ["uniform", "magnitude"])
    assert header == ["method", "n", "cut", "norms", "one epoch", "end", "vs uniform", "p", "MACs", "latency", "seconds"]
    assert rows[0] == ["uniform", "3", "11.00 ± 1.00", "", "", "81.00 ± 1.00", "", "", "50.0%", "50.0%", "5"]
    assert rows[2][5:9] == ["83.00 ± 2.00", "+2.00", "0.074", "48.0%"]
    text = markdown(three(), ["uniform"])
    assert "| pas | 3 |  |  |  | 83.00 ± 2.00 | +2.00 | 0.074 | 48.0% | 50.0% | 5 |" in text
    assert as_csv(three()).splitlines()[1].startswith("uniform,half,0,")


def test_rows_of_other_programs_stand_in_the_same_table(tmp_path: Path) -> None:
    place = tmp_path / "beside"
    place.mkdir()
    (place / "one.json").write_text(json.dumps({**result(77.0), "row": "theirs", "cell": "half", "seed": 1}))
    (place / "other.json").write_text(json.dumps({**result(78.0), "row": "theirs", "cell": "third", "seed": 1}))
    (row,) = beside(tmp_path, {"half"})
    assert row[:3] == ("theirs", "half", 1)
    _, rows = table([*three(), *lines([row])], ["uniform"])
    assert rows[-1][:6] == ["theirs", "1", "", "", "", "77.00"]
    assert rows[-1][6] == "-4.00", "beside uniform's 81 of that seed"
    (place / "one.json").write_text('{"row": "theirs"}')
    with pytest.raises(PasError, match=r"one.json is no result of a comparison \('cell'\)"):
        beside(tmp_path, {"half"})


def test_a_latency_that_is_too_noisy_is_not_told() -> None:
    noisy, calm = result(80.0), result(80.0)
    noisy["latency"] = {"share": 0.5, "share_low": 0.4, "share_high": 0.6}
    calm["latency"] = {"share": 0.5, "share_low": 0.48, "share_high": 0.52}
    shares = [line.share("latency_ms") for line in lines([("noisy", "", 0, noisy), ("calm", "", 0, calm)])]
    assert shares[0] is None
    assert shares[1] is not None
    assert shares[1].mean == 0.5


@pytest.mark.parametrize("cells", [1, 3])
def test_figures(tmp_path: Path, cells: int) -> None:
    found = [(row, f"{cell}", seed, result(80.0 - 5 * cell + seed, 50 - 10 * cell, cut=20.0, renorm=40.0))
             for cell in range(cells) for row in ("uniform", "pas") for seed in (0, 1)]  # fmt: skip
    assert draw(lines(found), tmp_path / "comparison.png", "title").stat().st_size > 10_000


# -- that they are made


def test_recovery_by_runs_that_stop_at_its_stages(tmp_path: Path) -> None:
    """Without fine-tuning the end is the cut; after one epoch of it, the end is one epoch."""
    quick = [*QUICK, "method=uniform", "train.search.epochs=0", f"paths.runs={tmp_path}"]
    none = run(compose([*quick, "train.finetune.epochs=0"]), Console(quiet=True))
    one = run(compose(quick), Console(quiet=True))
    two = run(compose([*quick, "train.finetune.epochs=2"]), Console(quiet=True))
    assert none["searched"]["top1"] == none["recovery"]["cut"] == one["recovery"]["cut"] == two["recovery"]["cut"]
    assert none["recovery"]["epoch"] is None
    assert one["searched"]["top1"] == one["recovery"]["epoch"]
    assert none["recovery"]["renorm"] == two["recovery"]["renorm"] is not None
    assert none["seconds"]["finetune"] == 0
    with pytest.raises(PasError, match=r"train\.search\.epochs=0: method=pas learns while it trains"):
        run(compose([*quick, "method=pas"]), Console(quiet=True))


def test_a_comparison_goes_on_where_it_was_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*QUICK, "method=uniform,magnitude", "seed=0,1", f"paths.runs={tmp_path / 'runs'}", f"compare.folder={tmp_path / 'kept'}",
             "compare.processes=2"]  # fmt: skip
    command = [sys.executable, "-m", "pas", "compare", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("kept/results/*/result.json")) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 143
    assert "pas: stopped; the same command goes on with what is missing" in told
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/result.json")}
    assert 1 <= len(before) < 4
    with pytest.raises(SystemExit) as ended:
        main(["compare", *words])
    shown = capsys.readouterr()
    assert ended.value.code == 0
    assert f"{len(before)} of 4 runs are there already" in shown.err
    assert len(list(tmp_path.glob("kept/results/*/result.json"))) == 4
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())
    assert {"comparison.md", "comparison.csv", "comparison.png"} <= {path.name for path in (tmp_path / "kept").iterdir()}
    assert "vs " in shown.out
    with pytest.raises(SystemExit) as ended:
        main(["compare", "--table-only", *words])
    assert ended.value.code == 0
    assert shown.out == capsys.readouterr().out
    shutil.rmtree(tmp_path / "runs")  # as on another machine, where only the copies are
    with pytest.raises(SystemExit) as ended:
        main(["compare", *words])
    again = capsys.readouterr()
    assert "4 of 4 runs are there already" in again.err
    assert again.out == shown.out


@pytest.mark.parametrize("name", ["cifar10_resnet20_untuned", "cifar10_resnet20_methods", "fashion_mnist_methods"])
def test_the_experiments_are_comparisons(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAS_DATA", "/nowhere")
    found = jobs([f"experiment={name}", "seed=0"])
    compare = found[0].config.compare
    assert len(found) == len(compare.rows) * max(1, len(compare.cells))
    assert set(compare.baselines) <= set(compare.rows)
