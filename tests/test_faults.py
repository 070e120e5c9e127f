"""Runs that are killed, interrupted, or out of disk: nothing is lost, and started again they end as if nothing had happened."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from forks import Forks

from pas.compose import compose
from pas.keys import dense_key
from pas.result import read_result
from pas.runs import open_folder, read_metrics, run_folder
from pas.train.checkpoint import load

SHORT = [
    "data.subset=200", "data.image_size=16", "train.dense.epochs=2", "train.search.epochs=2", "train.finetune.epochs=2",
    "cost.runtime=torch", "cost.repeats=3", "cost.warmup=0", "hardware.threads=1", "hardware.checkpoint_seconds=0",
    "method.options.samples=8",
]  # fmt: skip
DEAD = (-signal.SIGKILL, -signal.SIGALRM)


class Server:
    """`pas search`, short, in processes that may die."""

    def __init__(self, forks: Forks) -> None:
        self.forks = forks

    def start(self, runs: Path, *words: str, **how: object) -> int:
        """Start one in the folder `runs` and return the number of its process. `how`: see `forks.py`."""
        flags, words = [word for word in words if word == "-m"], [word for word in words if word != "-m"]  # Hydra wants -m first
        Path(f"{runs}.log").unlink(missing_ok=True)
        arguments = ["search", *flags, *SHORT, f"paths.runs={runs}", *words]
        return self.forks.start(arguments=arguments, folder=str(runs.parent), out=f"{runs}.log", err=f"{runs}.log", watch=str(runs), **how)

    def end(self) -> int:
        """Wait for its end; the exit code."""
        return self.forks.end()

    def run(self, runs: Path, *words: str, **how: object) -> int:
        """Both."""
        self.start(runs, *words, **how)
        return self.end()


@pytest.fixture(scope="module")
def server(forks: Forks) -> Server:
    return Server(forks)


@pytest.fixture(scope="module")
def trained(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was never stopped."""
    runs = tmp_path_factory.mktemp("whole") / "runs"
    assert server.run(runs, trace=f"{runs}.trace") == 0
    return runs


@pytest.fixture(scope="module")
def whole(trained: Path) -> tuple[dict, list[str]]:
    """What it left, and its file-system operations in order."""
    return left(trained), Path(f"{trained}.trace").read_text().splitlines()


def left(runs: Path) -> dict:
    """All that a run left, but for what a clock decides: numbers, widths, losses, and the weights bit for bit."""
    config = compose([*SHORT, f"paths.runs={runs}"])
    run, parent = run_folder(config), runs / dense_key(config)
    result = read_result(run)
    assert result is not None
    kept = {name: value for name, value in result.items() if name not in ("seconds", "latency", "environment")}
    for side in ("dense", "searched"):
        kept[side] = {name: value for name, value in result[side].items() if name != "latency_ms"}
    rows = [
        [(row["stage"], row["step"], row["loss"], row["lr"], row.get("open")) for row in read_metrics(folder)] for folder in (parent, run)
    ]
    weights = [(folder / "model.safetensors").read_bytes() for folder in (parent, run / "bundle")]
    files = sorted(str(path.relative_to(runs)) for path in runs.rglob("*"))
    return {"result": kept, "rows": rows, "weights": weights, "files": files, "widths": (run / "architecture.json").read_bytes()}


def differing(found: dict, expected: dict) -> list[str]:
    return [name for name in expected if found[name] != expected[name]]


# Places in the order in which a run comes to them, each with its number in the process that dies there.
PLACES = [
    ("os.fsync .*-dense-.*/state.safetensors", 1),  # half a checkpoint, and none before it
    ("os.rename .*-dense-.*/dense .*/dense.old", 1),
    ("os.rename .*-dense-.*/dense.new .*/dense$", 1),  # between the two renames
    ("os.fsync .*-dense-.*/.model.safetensors", 1),
    ("os.rename .*-dense-.*/dense.json", 1),
    ("os.fsync .*/search.new/state.json", 1),
    ("os.rename .*/search.new .*/search$", 1),
    ("os.rename .*/architecture.json", 1),
    ("os.rename .*/finetune.new .*/finetune$", 1),
    ("open .*/bundle/model.onnx", 1),
    ("os.fsync .*/bundle/.config.json", 1),
    ("os.rename .*/result.json", 1),
]


def test_killed_at_every_delicate_place(server: Server, whole: tuple[dict, list[str]], tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for match, number in PLACES:
        assert server.run(runs, match=match, number=number) == -signal.SIGKILL, match
        assert not list(runs.glob("*-pas-*/result.json")), match
    assert server.run(runs) == 0
    assert differing(left(runs), whole[0]) == []


def killed_at_random(server: Server, whole: tuple[dict, list[str]], runs: Path, seed: int, kills: int) -> None:
    """A run that dies again and again, at any of its operations or up to 5 ms later, in the midst of what it does then."""
    chance, deaths, total = random.Random(seed), 0, len(whole[1])
    while deaths < kills:
        # each start has fewer operations left; one that comes to its end makes room for the next
        number, delay = chance.randint(1, total // 2), chance.choice([0, chance.uniform(1e-5, 5e-3)])
        code = server.run(runs, number=number, delay=delay)
        assert code in (0, *DEAD)
        if code == 0:
            assert differing(left(runs), whole[0]) == [], (seed, deaths)
            shutil.rmtree(runs)
        else:
            deaths += 1
    assert server.run(runs) == 0
    assert differing(left(runs), whole[0]) == [], seed


def test_killed_at_random_places(server: Server, whole: tuple[dict, list[str]], tmp_path: Path) -> None:
    killed_at_random(server, whole, tmp_path / "runs", seed=0, kills=4)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 9))
def test_killed_at_random_places_more_often(server: Server, whole: tuple[dict, list[str]], tmp_path: Path, seed: int) -> None:
    killed_at_random(server, whole, tmp_path / "runs", seed=seed, kills=20)


def log(runs: Path) -> str:
    """What the last command has said so far."""
    file = Path(f"{runs}.log")
    return file.read_text() if file.exists() else ""


def wait_for(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_on_request_saves_first(server: Server, number: signal.Signals, code: int, tmp_path: Path) -> None:
    """In a sweep, which it ends as a whole. Checkpoints are an hour apart: what is saved was saved for the signal."""
    runs = tmp_path / "runs"
    process = server.start(runs, "-m", "seed=0,1", "train.dense.epochs=400", "hardware.checkpoint_seconds=3600")
    wait_for(lambda: [row for file in runs.glob("*/metrics.jsonl") for row in read_metrics(file.parent)])
    os.kill(process, number)
    assert server.end() == code, log(runs)
    said = re.search(r"\npas: stopped at dense, step (\d+) of 1200; the same command goes on from the last checkpoint\n\Z", log(runs))
    assert said, log(runs)
    assert log(runs).count("pas: ") == 1
    saved = [load(folder) for folder in runs.glob("*/checkpoint/dense")]
    assert [one["position"]["step"] for one in saved] == [int(said[1])]  # of the first job: the second was never begun
    assert len(list(runs.glob("*-pas-*"))) == 1


def test_stopped_before_the_first_step(server: Server, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    process = server.start(runs)
    wait_for(lambda: list(runs.glob("*/config.yaml")))
    os.kill(process, signal.SIGINT)
    assert server.end() == 130, log(runs)
    assert re.fullmatch(r"pas: stopped.*; the same command goes on from the last checkpoint\n", log(runs)), log(runs)


def test_stopped_and_started_again_gives_the_same(server: Server, whole: tuple[dict, list[str]], tmp_path: Path) -> None:
    """Stopped in the search and in the fine-tuning, at whatever step they are."""
    runs = tmp_path / "runs"
    for stage in ("search", "finetune"):
        process = server.start(runs)
        wait_for(lambda stage=stage: [row for folder in runs.glob("*-pas-*") for row in read_metrics(folder) if row["stage"] == stage])
        os.kill(process, signal.SIGTERM)
        assert server.end() == 143, log(runs)
    assert server.run(runs) == 0
    assert differing(left(runs), whole[0]) == []


def test_too_large_a_checkpoint_leaves_the_previous(server: Server, whole: tuple[dict, list[str]], tmp_path: Path) -> None:
    """The system refuses to write on, in the middle of a file (RLIMIT_FSIZE); afterwards the run goes on where it was."""
    runs = tmp_path / "runs"
    assert server.run(runs, match="os.rename .*/search.new .*/search$", number=2) == -signal.SIGKILL
    before = load(next(runs.glob("*/checkpoint/search.old")))
    assert server.run(runs, limit=300_000) == 2
    assert re.search(rf"^pas: can't write {runs}/\S*/checkpoint/search\S*: File too large\n\Z", log(runs), re.MULTILINE), log(runs)
    assert "Traceback" not in log(runs)
    folder = next(runs.glob("*-pas-*/checkpoint/search*"))
    assert load(folder.with_name("search"))["position"]["step"] == before["position"]["step"]
    assert not [path for path in runs.rglob("*") if path.suffix in (".new", ".tmp")]
    assert server.run(runs) == 0
    assert differing(left(runs), whole[0]) == []


FULL = """
import subprocess, sys
from pathlib import Path
folder, *words = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1536k", "tmpfs", folder], check=True)
from pas.cli import main
from pas.train.checkpoint import load
try:
    main(["search", *words, f"paths.runs={folder}"])
finally:
    print([(one.name, load(one)["position"]["step"]) for one in Path(folder).glob("*/checkpoint/*")])
    print([one.name for one in Path(folder).rglob("*") if one.suffix in (".new", ".tmp")])
"""


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    """On a tmpfs in a mount namespace of its own, where the dense checkpoint (0.9 MB with the momentum) fits once and not twice."""
    own = ["unshare", "--user", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*own, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a tmpfs")
    words = [*own, sys.executable, "-c", FULL, str(tmp_path), *SHORT]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 2, done.stderr
    place = rf"{re.escape(str(tmp_path))}/\S*/checkpoint/dense\S*"
    assert re.fullmatch(rf"pas: can't write {place}: No space left on device\n", done.stderr), done.stderr
    assert done.stdout == "[('dense', 1)]\n[]\n"


@pytest.mark.parametrize("words", [(), ("-m", "seed=0,1")])
def test_a_folder_that_cannot_be_written_is_named(server: Server, words: tuple[str, ...], tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.write_text("a file where the folder should be")
    assert server.run(runs, *words) == 2
    assert re.fullmatch(rf"pas: (can't write )?{runs}\S*: (File exists|Not a directory)\n", log(runs)), log(runs)


def test_a_second_process_is_refused(server: Server, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with open_folder(run_folder(compose([*SHORT, f"paths.runs={runs}"]))):
        assert server.run(runs) == 2
    refusal = rf"pas: \S+ is in use by process {os.getpid()} on \S+: wait for it, or stop it and start again\n"
    assert re.fullmatch(refusal, log(runs)), log(runs)


def test_a_parent_in_training_is_waited_for(
    server: Server, whole: tuple[dict, list[str]], trained: Path, tmp_path: Path
) -> None:
    """While another process trains it; then it isn't trained again."""
    runs = tmp_path / "runs"
    key = dense_key(compose(SHORT))
    with open_folder(runs / key):
        server.start(runs)
        wait_for(lambda: "waiting for it" in log(runs))
        for name in ("model.safetensors", "dense.json", "metrics.jsonl"):
            shutil.copy(trained / key / name, runs / key / name)
    assert server.end() == 0, log(runs)
    assert re.match(rf"\S+/{key} is in use by process {os.getpid()} on \S+: waiting for it\n", log(runs)), log(runs)
    assert "\ndense " not in log(runs)
    assert differing(left(runs), {name: whole[0][name] for name in ("result", "rows", "weights", "widths")}) == []


def test_a_damaged_parent_is_named(server: Server, trained: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    key = dense_key(compose(SHORT))
    shutil.copytree(trained / key, runs / key)
    content = bytearray((runs / key / "model.safetensors").read_bytes())
    content[-100] ^= 1
    (runs / key / "model.safetensors").write_bytes(content)
    assert server.run(runs) == 2
    assert f"pas: the dense parent {runs / key} can't be read (model.safetensors isn't what was saved); delete that folder" in log(runs)


def test_a_second_launch_of_a_sweep_runs_what_is_missing(server: Server, trained: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(trained, runs)  # budget.macs=0.5 is finished
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file()}
    failing = r"\npas: 1 of 3 runs failed; the same command does them again:\n  "
    failing += r".*budget.macs=0.001: budget.macs=0.001: .*smallest possible.*\n\Z"
    for expected in (1, 0):  # the third is missing, then none
        assert server.run(runs, "-m", "budget.macs=0.5,0.001,0.6") == 2
        assert re.search(failing, log(runs)), log(runs)
        assert len(re.findall("^finetune ", log(runs), re.MULTILINE)) == expected
        assert log(runs).count("\nbudget: ") == 2
        assert len(list(runs.glob("*/result.json"))) == 2
    untouched = [path for path in before if path.name != ".lock"]
    assert {path: path.stat().st_mtime_ns for path in untouched} == {path: before[path] for path in untouched}
