"""Comparisons: which runs they are, what stands beside them, and that they are made and go on where they were stopped."""

from __future__ import annotations

import copy
import json
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
from pas.comparison.beside import beside
from pas.comparison.jobs import folder_of, jobs
from pas.comparison.plan import pieces
from pas.comparison.runs import make, remaining
from pas.compose import compose
from pas.errors import PasError
from pas.keys import dense_key, run_key
from pas.pipeline import rehearse, run
from pas.report.collect import collect
from pas.report.comparison.lines import lines
from pas.report.comparison.table import table
from pas.runs import run_folder
from pas.stop import Stopped, stoppable

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
        (["method=pas", "hydra/launcher=submitit_slurm"], "pas compare starts its runs itself: leave out hydra/launcher;"),
        (["method=pas", "--fast"], "--fast: there is no such option; `pas compare --help` lists what there is"),
        (["method='pas"], "method='pas: can't be read"),
        (["method=pas", "seed=a,b"], "seed=a: must be a whole number"),
        (["method=pas", "seed=1.5,2"], "seed=1.5: must be a whole number"),
        (["method=uniform,uniform"], "method=uniform: given twice"),
        (["method=pas", "budget.macs=0.5,0.5"], "budget.macs=0.5: given twice"),
        (["method=pas", "seed=1,1"], "seed=1: given twice"),
        (["method=pas", "compare.baselines=[unifrom]"], "compare.baselines: 'unifrom' is no row of this comparison; there are 'pas'"),
        (['compare.rows.l1=["method=spa"]'], "a row is written '+compare.rows.NAME=["),
        (["+compare.rows.l1=[method=spa]"], "a row is written '+compare.rows.NAME=["),
        (['+compare.rows.l1=["method=spa"]', "budget.macs=7.5"], "pas: budget.macs=7.5: must be a share"),
        (["method=uniform,pas", "train.search.epochs=0"], "pas: train.search.epochs=0: method=pas learns while it trains"),
        (["method=random", "method@method.source=uniform", "budget.macs=0.0001"], "random: budget"),
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


def test_cells_are_named_by_as_much_of_a_key_as_tells_it_apart() -> None:
    words = ["method=pas", "seed=0", "train.search.epochs=1,2", "train.finetune.epochs=3,4", "budget.macs=0.3,0.5"]
    assert jobs(words)[0].cell == "search.epochs=1, finetune.epochs=3, macs=0.3"


def test_an_experiment_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\ncompare:\n  rows:\n    mine: [method=uniform]\n")
    assert [job.row for job in jobs([f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine", "seed=0"])] == ["mine"]


def test_a_folder_for_rows_and_cells_whatever_the_seeds() -> None:
    """Beside the runs, where `pas report` would find every result twice, it isn't."""
    folder = folder_of(jobs(["method=pas,uniform", "seed=0"]))
    assert folder.parts[0] == "comparisons"
    assert folder == folder_of(jobs(["method=pas,uniform", "seed=0,1", "compare.processes=2", "compare.baselines=[uniform]"]))
    others = (["method=pas,taylor"], ["method=pas,uniform", "budget.macs=0.3,0.4"], ["method=pas,uniform", "train.finetune.epochs=1"])
    assert len({folder, *(folder_of(jobs([*words, "seed=0"])) for words in others)}) == 4
    assert folder_of(jobs(["method=pas", "compare.folder=elsewhere"])) == Path("elsewhere")


def test_the_time_that_is_left() -> None:
    """Runs of 10 s on average; 3 wait, one under way for 4 s has 6 left and one for 12 s none: 36 s, two at a time."""
    assert remaining([8.0, 12.0], 3, [4.0, 12.0], 2) == 18.0


def test_what_runs_share_is_trained_once() -> None:
    """Two rows and two seeds: two dense parents. A control counts the run of its widths only where that is no row."""
    words = [*QUICK, "train.dense.epochs=2", "seed=0,1"]
    uniform, control = jobs([*words, "method=uniform"]), jobs([*words, "method=random", "method@method.source=uniform"])
    plans = {"uniform": rehearse(uniform[0].config), "random": rehearse(control[0].config)}
    alone = pieces([(job, plans["random"]) for job in control])
    both = pieces([(job, plans[job.row]) for job in (*uniform, *control)])
    names = {run_key(job.config) for job in (*uniform, *control)} | {dense_key(job.config) for job in uniform}
    assert alone.keys() == both.keys() == names
    assert len(names) == 6
    assert both[run_key(uniform[0].config)] == plans["uniform"].stages[2].seconds > 0
    assert both[dense_key(uniform[0].config)] > 0


def test_comparing_changes_no_run() -> None:
    job = jobs(["method=pas", "seed=0", "compare.processes=2", "compare.folder=elsewhere"])[0]
    assert run_folder(job.config) == run_folder(compose())


# -- results of other programs


def placed(top1: float, row: str, cell: str, seed: int, **changes: object) -> str:
    found = copy.deepcopy(RESULT) | {"row": row, "cell": cell, "seed": seed}
    found["searched"]["top1"] = top1
    return json.dumps({name: value for name, value in {**found, **changes}.items() if value is not None})


def test_rows_of_other_programs_stand_in_the_same_table(tmp_path: Path) -> None:
    """Their 77 % beside the 80 % of the run of the same seed."""
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "one.json").write_text(placed(77.0, "theirs", "half", 1, settings=None, method=None, limits=None))
    (tmp_path / "beside" / "other.json").write_text(placed(78.0, "theirs", "third", 1))
    (row,) = beside(tmp_path, {"half"}, {("uniform", "half", 1)})
    assert row[:3] == ("theirs", "half", 1)
    ours = ("uniform", "half", 1, json.loads(placed(80.0, "uniform", "half", 1)))
    _, rows = table(lines([ours, row]), ["uniform"])
    assert rows[-1][:4] == ["theirs", "1", "77.00", "-3.00"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"row": "theirs"}', r"one\.json: cell is missing"),
        (placed(77.0, "theirs", "half", 1, searched={"top1": 77.0}), r"one\.json: searched\.params is missing"),
        (placed(77.0, "theirs", "half", 1, split=1), r"one\.json: split=1 has a wrong type"),
        ("[]", r"one\.json is not a result"),
        ("{", r"one\.json is damaged"),
        (placed(77.0, "uniform", "half", 1), r"one\.json: row 'uniform', cell 'half', seed 1 is that of a run of this comparison"),
    ],
)
def test_results_of_other_programs_that_are_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "one.json").write_text(text)
    with pytest.raises(PasError, match=words):
        beside(tmp_path, {"half"}, {("uniform", "half", 1)})


def test_two_files_for_one_place_are_refused(tmp_path: Path) -> None:
    (tmp_path / "beside").mkdir()
    for name in ("a", "b"):
        (tmp_path / "beside" / f"{name}.json").write_text(placed(77.0, "theirs", "half", 1))
    with pytest.raises(PasError, match=r"b\.json: .* is that of another file"):
        beside(tmp_path, {"half"}, set())


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


def test_ctrl_c_in_a_terminal_reaches_the_runs_once_and_they_save(tmp_path: Path) -> None:
    """A terminal sends it to all processes of the group; a run that gets a second signal ends without saving."""
    words = [*QUICK, "method=uniform", "seed=0", "train.dense.epochs=100000", f"paths.runs={tmp_path / 'runs'}",
             f"compare.folder={tmp_path / 'kept'}"]  # fmt: skip
    command = [sys.executable, "-m", "pas", "compare", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 300
    while not any(path.stat().st_size for path in tmp_path.glob("runs/*/metrics.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "pas: stopped at dense, step" in told, "what the run says: it has saved"
    assert list(tmp_path.glob("runs/*/checkpoint/dense/*"))


def test_a_comparison_goes_on_where_it_was_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*QUICK, "method=uniform,magnitude,spa", "seed=0", f"paths.runs={tmp_path / 'runs'}", f"compare.folder={tmp_path / 'kept'}",
             "compare.processes=2"]  # fmt: skip
    command = [sys.executable, "-m", "pas", "compare", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("kept/results/*/result.json")) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 143
    assert f"3 runs, 2 at a time; log: {tmp_path / 'kept' / 'comparison.log'}\nuniform, seed 0: starts" in told
    assert "pas: stopped; the same command goes on with what is missing" in told
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/result.json")}
    assert 1 <= len(before) < 3
    with pytest.raises(SystemExit):
        main(["compare", "--table-only", *words])
    assert f"{3 - len(before)} of 3 runs " in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["compare", *words, "dry_run=true"])
    assert ended.value.code == 0
    assert f"all {3 - len(before)} runs: about " in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["compare", *words])
    shown = capsys.readouterr()
    assert ended.value.code == 0
    assert f"{len(before)} of 3 runs are there already" in shown.err
    assert len(list(tmp_path.glob("kept/results/*/result.json"))) == 3
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())
    assert {"comparison.md", "comparison.csv", "comparison.png"} <= {path.name for path in (tmp_path / "kept").iterdir()}
    assert "vs " in shown.out
    assert len(collect(tmp_path)) == 3, "the copies don't count"
    with pytest.raises(SystemExit) as ended:
        main(["compare", "--table-only", *words])
    assert ended.value.code == 0
    assert shown.out == capsys.readouterr().out
    shutil.rmtree(tmp_path / "runs")  # as on another machine, where only the copies are
    with pytest.raises(SystemExit) as ended:
        main(["compare", *words])
    again = capsys.readouterr()
    assert "3 of 3 runs are there already" in again.err
    assert again.out == shown.out


def test_a_signal_while_a_run_starts_reaches_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class SignalledAtOnce(subprocess.Popen[bytes]):
        def __init__(self, *arguments: object, **settings: object) -> None:
            super().__init__(*arguments, **settings)  # type: ignore[call-overload]
            started.append(self)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(subprocess, "Popen", SignalledAtOnce)
    words = [*QUICK, "method=uniform,magnitude", "seed=0", f"paths.runs={tmp_path / 'runs'}"]
    with pytest.raises(Stopped), stoppable():
        make(jobs(words), tmp_path / "kept", 2, lambda _: None)
    assert len(started) == 1
    assert started[0].poll() is not None, "it goes on though its comparison has ended"


@pytest.mark.parametrize(
    "name", ["cifar10_resnet20_untuned", "cifar10_resnet20_methods", "fashion_mnist_methods", "fashion_mnist_repvgg_scarce"]
)
def test_the_experiments_are_comparisons(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAS_DATA", "/nowhere")
    found = jobs([f"experiment={name}", "seed=0"])
    compare = found[0].config.compare
    assert len(found) == len(compare.rows) * max(1, len(compare.cells))
    assert set(compare.baselines) <= set(compare.rows)
