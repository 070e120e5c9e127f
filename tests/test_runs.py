"""A run's folder: whole files, one process, rows that survive a crash, a result with a schema."""

import copy
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from results import RESULT

from pas.compose import compose
from pas.environment import environment
from pas.errors import PasError
from pas.keys import run_key
from pas.result import check_result, read_result
from pas.runs import open_folder, open_run, read_metrics, run_folder, write_text

HOLD = """
import sys, time
from pathlib import Path
from pas.runs import open_folder
with open_folder(Path(sys.argv[1])) as run:
    run.log({"stage": "search", "step": 1})
    print("held", flush=True)
    time.sleep(60)
"""


def config_in(folder: Path, *overrides: str):
    return compose([f"paths.runs={folder}", *overrides])


def test_folder_of_a_run(tmp_path: Path):
    config = config_in(tmp_path)
    with open_run(config) as run:
        assert run.folder == run_folder(config) == tmp_path / run_key(config)
        assert run.finished() is None
        assert yaml.safe_load((run.folder / "config.yaml").read_text())["budget"] == {"macs": 0.5, "params": None, "latency": None}
        run.write_json("result.json", RESULT)
        assert run.finished() == RESULT
    assert not list(tmp_path.rglob("*.tmp"))


def test_second_process_is_refused_and_a_dead_one_is_not_waited_for(tmp_path: Path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(PasError, match=f"is in use by process {holder.pid} on {socket.gethostname()}:"), open_folder(tmp_path):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with open_folder(tmp_path) as run:
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()} on {socket.gethostname()}"
        assert read_metrics(run.folder) == [{"stage": "search", "step": 1}]


def test_rows_are_on_disk_at_once_and_resumed_ones_count_once(tmp_path: Path):
    with open_folder(tmp_path) as run:
        for step in (1, 2, 3):
            run.log({"stage": "search", "step": step, "loss": 1.0})
        assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "search", "st')  # a crash in the middle of a line
    with open_folder(tmp_path) as run:
        run.log({"stage": "search", "step": 3, "loss": 2.0})
        run.log({"stage": "finetune", "step": 1, "loss": 3.0})
    assert [(row["stage"], row["step"], row["loss"]) for row in read_metrics(tmp_path)] == [
        ("search", 1, 1.0), ("search", 2, 1.0), ("search", 3, 2.0), ("finetune", 1, 3.0)
    ]  # fmt: skip


def test_other_ranks_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pas.distributed.leads", lambda: False)
    with open_folder(tmp_path) as run:
        run.log({"stage": "search", "step": 1})
        run.write_json("result.json", RESULT)
        assert not run.writes
    assert not list(tmp_path.iterdir())


def test_a_file_is_the_old_one_or_the_new_one(tmp_path: Path):
    path = tmp_path / "data.json"
    write_text(path, "old" * 100_000)
    writer = subprocess.Popen([
        sys.executable, "-c",
        f"from pathlib import Path\nfrom pas.runs import write_text\nwhile True: write_text(Path({str(path)!r}), 'new' * 100_000)",
    ])  # fmt: skip
    deadline = time.monotonic() + 20
    while path.read_text().startswith("old") and time.monotonic() < deadline:
        time.sleep(0.01)
    seen = [path.read_text() for _ in range(300)]
    writer.kill()
    writer.wait()
    assert set(seen) == {"new" * 100_000}


def test_not_finite_is_not_written(tmp_path: Path):
    with open_folder(tmp_path) as run:
        with pytest.raises(ValueError, match="Out of range float"):
            run.write_json("other.json", {"loss": float("nan")})
        damaged = copy.deepcopy(RESULT)
        damaged["searched"]["top1"] = float("nan")
        with pytest.raises(PasError, match=r"searched.top1 is not finite"):
            run.write_json("result.json", damaged)
    assert read_result(tmp_path) is None


@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        (("schema",), 2, "schema 2, newer than 1: update pas"),
        (("schema",), 0, "schema 0 is unknown"),
        (("run_key",), None, "run_key=None has a wrong type"),
        (("seed",), True, "seed=True has a wrong type"),
        (("budget", "kind"), "flops", "budget.kind=flops: must be one of macs, params, latency"),
        (("dense", "macs"), 1.5, "dense.macs=1.5 has a wrong type"),
        (("searched", "form"), ..., "searched.form is missing"),
        (("exactness",), ..., "exactness is missing"),
        (("seconds",), [], "seconds must be an object"),
    ],
)
def test_result_that_does_not_fit_is_refused(where: tuple[str, ...], value: object, words: str, tmp_path: Path):
    check_result(RESULT)
    damaged = copy.deepcopy(RESULT)
    node = damaged
    for name in where[:-1]:
        node = node[name]
    if value is ...:
        del node[where[-1]]
    else:
        node[where[-1]] = value
    (tmp_path / "result.json").write_text(json.dumps(damaged))
    with pytest.raises(PasError, match=str(tmp_path)) as refused:
        read_result(tmp_path)
    assert words in str(refused.value)


def test_damaged_result_is_named(tmp_path: Path):
    (tmp_path / "result.json").write_text('{"schema": 1,')
    with pytest.raises(PasError, match=r"result.json is damaged .* delete it"):
        read_result(tmp_path)


def test_more_fields_are_allowed(tmp_path: Path):
    (tmp_path / "result.json").write_text(json.dumps({**RESULT, "note": "later"}))
    assert read_result(tmp_path)["note"] == "later"


def test_results_from_before_there_was_a_choice(tmp_path: Path):
    """They name neither split nor settings nor further limits: it was the test split, under the one setting and limit there was."""
    before = {name: value for name, value in RESULT.items() if name not in ("split", "settings", "variant", "limits")}
    (tmp_path / "result.json").write_text(json.dumps(before))
    assert read_result(tmp_path) == RESULT


def test_environment_fits_the_schema():
    found = environment("cpu")
    check_result({**RESULT, "environment": found})
    assert found["device"].startswith("cpu (")
    assert found["torch"].startswith("2.")
