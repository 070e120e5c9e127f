"""Sweeps whose runs are jobs of submitit: really started on this machine, and as they would be handed to Slurm."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pas import cli
from pas.compose import compose, launcher
from pas.job import Job
from pas.keys import dense_key
from pas.order import needs
from pas.runs import open_folder, read_metrics, run_folder
from pas.submission import executor, places, sweep
from pas.train.checkpoint import load

pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="hydra-submitit-launcher isn't installed")

LOCAL = ["hydra/launcher=submitit_local", "hydra.launcher.cpus_per_task=1"]
SHORT = [
    "data.subset=100", "data.image_size=16", "train.dense.epochs=40", "train.search.epochs=1", "train.finetune.epochs=1",
    "cost.runtime=torch", "cost.repeats=3", "cost.warmup=0", "hardware.checkpoint_seconds=3600", "method.options.samples=8",
]  # fmt: skip


def wait_for(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 240
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def holder(folder: Path) -> int:
    """The process that has the folder of a run."""
    return int((folder / ".lock").read_text().split(" on ")[0])


class Command:
    """A sweep on this machine, in a session of its own as in a terminal, and what it has said."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.runs = folder, folder / "runs"

    def start(self, *words: str) -> None:
        self.file = self.folder / f"{len(list(self.folder.glob('*.log')))}.log"
        environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "pas", "search", "-m", *LOCAL, *SHORT, *words]
        with self.file.open("wb") as out:
            self.process = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=out, stderr=out, start_new_session=True)

    def end(self) -> int:
        """Wait for its end; the exit code."""
        return self.process.wait(240)

    @property
    def said(self) -> str:
        return self.file.read_text()

    def logs(self) -> list[str]:
        """What the jobs have said."""
        return [file.read_text() for file in sorted(self.runs.glob(".submitit/*/*_log.err"))]


def test_a_sweep_in_processes_of_its_own(tmp_path: Path) -> None:
    """One is told by a cluster's signal to make room, one has to wait for another process, one fails."""
    command = Command(tmp_path)
    one, damaged, other = (compose([*SHORT, f"budget.macs={share}", f"paths.runs={command.runs}"]) for share in (0.5, 0.3, 0.6))
    parent = command.runs / dense_key(one)
    run_folder(damaged).mkdir(parents=True)
    (run_folder(damaged) / "result.json").write_text("{")
    command.start("budget.macs=0.5,0.3,0.6", "hydra.sweeper.max_batch_size=2")
    wait_for(lambda: read_metrics(parent))
    os.kill(holder(parent), signal.SIGUSR2)
    with open_folder(run_folder(other)):
        wait_for(lambda: any(f"in use by process {os.getpid()} on " in log and "waiting for it" in log for log in command.logs()))
    assert command.end() == 2, command.said
    assert command.said.startswith("3 runs to do, 2 at a time\n")
    for share in (0.5, 0.6):
        assert re.search(rf"\nbudget.macs={share}: starts as job \d+, log: runs/.submitit/\d+/\d+_0_log.err\n", command.said), command.said
    reason = r"runs/\S+/result.json is damaged .*"
    assert re.search(rf"\n\d/3 budget.macs=0.3: failed\npas: {reason} \(log: runs/\.submitit/\S+\)\n", command.said), command.said
    assert re.search(rf"\nfront: \S+\n\npas: 1 of 3 runs failed; the same command does them again:\n  .* budget.macs=0.3: {reason}\n\Z",
                     command.said), command.said  # fmt: skip
    assert "Traceback" not in command.said
    assert len(re.findall(r"^budget: ", command.said, re.MULTILINE)) == 2  # of both results
    assert len(list(command.runs.glob("*/bundle/model.onnx"))) == 2
    assert sum("pas: stopped at dense, step " in log for log in command.logs()) == 1
    assert len((parent / "metrics.jsonl").read_text().splitlines()) == len(read_metrics(parent)), "it went on where it had stopped"

    before = {path: path.stat().st_mtime_ns for path in command.runs.rglob("*")}
    command.start("budget.macs=0.5,0.6")
    assert command.end() == 0, command.said
    assert "2 of 2 runs are there already" in command.said
    assert "starts as job" not in command.said
    changed = [path for path, stamp in before.items() if path.stat().st_mtime_ns != stamp]
    assert all(path == command.runs or "figures" in path.parts or path.name.startswith("front") for path in changed), changed


def test_one_is_killed_then_ctrl_c_ends_all(tmp_path: Path) -> None:
    """Of the first the command says so and goes on. A terminal sends Ctrl-C to all its processes; the second run saves all the same."""
    command = Command(tmp_path)
    command.start("seed=0,1,2", "train.dense.epochs=40000", "hydra.sweeper.max_batch_size=2")
    configs = [compose([*SHORT, "train.dense.epochs=40000", f"seed={seed}"]) for seed in (0, 1)]
    first, second = (command.runs / dense_key(config) for config in configs)
    wait_for(lambda: read_metrics(first) and read_metrics(second))
    jobs = holder(first), holder(second)
    os.kill(jobs[0], signal.SIGKILL)
    told = r"\n1/3 seed=0: failed\npas: its process ended without a result \(finished\); the last that it said: .*\(log: .*\nseed=2: starts"
    wait_for(lambda: re.search(told, command.said))
    os.killpg(command.process.pid, signal.SIGINT)
    assert command.end() == 130, command.said
    assert command.said.endswith("ending 2 jobs, which save first\npas: stopped; the same command goes on from the last checkpoint\n")
    said = next(found for log in command.logs() if (found := re.search(r"seed=1\n(?:.*\n)*pas: stopped at dense, step (\d+) of", log)))
    assert load(second / "checkpoint" / "dense")["position"]["step"] == int(said[1])
    for job in jobs:
        with pytest.raises(ProcessLookupError):
            os.kill(job, 0)


SLURM = [
    "hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu", "hydra.launcher.gpus_per_node=1", "hydra.launcher.cpus_per_task=8",
    "hydra.launcher.timeout_min=720", "hydra.launcher.max_num_timeout=5", "hydra.launcher.array_parallelism=2", "hydra.launcher.mem_gb=32",
]  # fmt: skip


def test_what_slurm_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an sbatch that keeps the file it is given. There is no cluster to test on."""
    for name, line in (("srun", ""), ("sbatch", f'cp "$1" {tmp_path}/batch; echo Submitted batch job 7')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    words = [f"paths.runs={tmp_path / 'runs'}", "seed=0,1,2"]
    found = launcher([*SLURM, *words])
    assert places(found) > 1000
    configs = [compose([words[0], f"seed={seed}"]) for seed in range(3)]
    queue = executor(found)
    jobs = queue.submit_array([Job(f"seed={config.seed}", config, 8) for config in configs])
    assert [job.job_id for job in jobs] == ["7_0", "7_1", "7_2"]
    lines = (tmp_path / "batch").read_text().splitlines()
    for option in ("partition=gpu", "gpus-per-node=1", "cpus-per-task=8", "time=720", "array=0-2%2", "mem=32GB", "signal=USR2@120",
                   "job-name=pas", "nodes=1", "ntasks-per-node=1"):  # fmt: skip
        assert f"#SBATCH --{option}" in lines
    assert lines[-1].startswith("srun ")
    assert lines[-1].endswith(f"-u -m submitit.core._submit {tmp_path}/runs/.submitit/%j")
    assert [job.submission().function.config for job in jobs] == configs
    again = jobs[1].submission().function
    assert again.checkpoint().function == again
    assert str(jobs[2].paths.stderr) == f"{tmp_path}/runs/.submitit/7_2/7_2_0_log.err"


def test_what_slurm_refuses_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, line in (("srun", ""), ("sbatch", "echo sbatch: error: invalid partition >&2; exit 1")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    words = [f"paths.runs={tmp_path / 'runs'}"]
    runs = [(seed, compose([*words, *seed])) for seed in (["seed=0"], ["seed=1"])]
    assert sweep(runs, launcher([*SLURM, *words])) == [(seed[0], "sbatch: error: invalid partition") for seed, _ in runs]
    assert capsys.readouterr().err == "2 runs to do, 2 at a time\nsbatch: error: invalid partition\n"


def test_places_on_this_machine() -> None:
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert places(launcher(LOCAL)) == processors
    assert places(launcher([LOCAL[0], "hydra.launcher.cpus_per_task=100000"])) == 1
    assert places(launcher([*LOCAL, "hydra.sweeper.max_batch_size=3"])) == 3


def test_an_hour_is_no_limit_on_this_machine(tmp_path: Path) -> None:
    words = [f"paths.runs={tmp_path}", LOCAL[0]]
    assert executor(launcher(words)).parameters["timeout_min"] > 100_000
    assert executor(launcher([*words, "hydra.launcher.timeout_min=60"])).parameters["timeout_min"] == 60


def test_who_waits_for_whom(tmp_path: Path) -> None:
    runs = f"paths.runs={tmp_path}"
    first, second, third = (needs(compose([runs, *words])) for words in ([], ["budget.macs=0.3"], ["seed=1"]))
    assert first.wait_for(second)
    assert not first.wait_for(third)
    (tmp_path / first.parent.name).mkdir()
    (first.parent / "dense.json").touch()
    assert not first.wait_for(second)
    control = needs(compose([runs, "method=random", "method@method.source=pas"]))
    assert control.source == first.run
    assert control.wait_for(first)
    assert first.wait_for(control), "which makes it"
    assert not control.wait_for(second)
    given, other = (needs(compose([runs, "train.dense.epochs=0", f"budget.macs={share}"])) for share in (0.3, 0.4))
    assert given.parent is None
    assert not given.wait_for(other)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([*LOCAL], "hydra/launcher=submitit_local: launchers start the runs of sweeps: add -m"),
        (["-m", *LOCAL, "hydra.launcher.nodes=2"], "hydra.launcher.nodes, tasks_per_node: must be 1, as every run is one process"),
        (["-m", *LOCAL, "hydra.launcher.timeout=9"], "hydra.launcher.timeout: there is no such setting; did you mean timeout_min?"),
        (["-m", *LOCAL, "hydra.launcher.cpus_per_task=two"], "hydra.launcher.cpus_per_task=two: must be a whole number"),
        (["-m", "hydra/launcher=submitit_slurm"], 'pas: hydra/launcher=submitit_slurm: Could not detect "srun", are you'),
        (["-m", "--config-dir", "mine", *LOCAL], '"hydra.searchpath=[file://mine]"'),
    ],
)
def test_refusals(words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main(["search", *words])
    assert ended.value.code == 2
    assert told in capsys.readouterr().err
