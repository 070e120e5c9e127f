"""State on disk: everything comes back equal, nothing is pickled, and no crash loses the previous state."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pas.errors import PasError
from pas.train import checkpoint
from pas.train.checkpoint import Checkpoint, load, random_state, save, set_random_state


def equal(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and a == b


def test_every_kind_of_value_comes_back(tmp_path: Path) -> None:
    state = {
        "numbers": [1, -2.5, 0.1 + 0.2, 2**70, float("inf"), True, None, "text"],
        "keys": {0: {"exp": torch.ones(2)}, "0": 1, (1, 2): 3},
        "tuple": (1, (2, [3])),
        "empty": {"dict": {}, "list": [], "tensor": torch.empty(0, 3), "other": torch.empty(0, 3)},
        "tensors": [torch.randn(3, 4).to(kind) for kind in (torch.float64, torch.bfloat16, torch.int64, torch.bool)],
        "scalar": torch.tensor(3.5),
        "view": torch.arange(12.0).view(3, 4).t()[1:],
        "channels_last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
    }
    save(state, tmp_path / "state")
    assert equal(load(tmp_path / "state"), state)
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["state.json", "state.safetensors"]


def test_optimiser_state_with_integer_keys_comes_back(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    save(optimizer.state_dict(), tmp_path / "state")
    assert equal(load(tmp_path / "state"), optimizer.state_dict())


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    first, second = nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)
    second.weight = first.weight
    state = nn.Sequential(first, second).state_dict()
    save(state, tmp_path / "state")
    assert equal(load(tmp_path / "state"), dict(state))
    assert (tmp_path / "state" / "state.safetensors").stat().st_size < 1.5 * 64 * 64 * 4
    halves = torch.arange(4.0).split(2)  # one storage, two different tensors
    save({"halves": list(halves)}, tmp_path / "halves")
    assert equal(load(tmp_path / "halves"), {"halves": list(halves)})


def test_what_json_and_safetensors_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"state.groups\[0\].hook is a function"):
        save({"groups": [{"hook": lambda: None}]}, tmp_path / "state")
    assert load(tmp_path / "state") is None


def test_random_generators_go_on_where_they_were(tmp_path: Path) -> None:
    np.random.normal()  # leaves half of a pair in numpy's state
    save(random_state(), tmp_path / "state")
    draw = lambda: (random.random(), np.random.normal(), np.random.rand(3).tolist(), torch.rand(3).tolist())  # noqa: E731
    expected = draw()
    assert draw() != expected
    set_random_state(load(tmp_path / "state"))
    assert draw() == expected


@pytest.mark.parametrize("rename", [1, 2])
def test_a_crash_while_renaming_leaves_the_previous_state(tmp_path: Path, monkeypatch, rename: int) -> None:
    folder, calls, real = tmp_path / "state", [], Path.rename
    save({"step": 1, "tensor": torch.ones(2)}, folder)

    def crash(path: Path, target: Path) -> Path:
        calls.append(path)
        if len(calls) == rename:
            raise KeyboardInterrupt
        return real(path, target)

    monkeypatch.setattr(Path, "rename", crash)
    with pytest.raises(KeyboardInterrupt):
        save({"step": 2, "tensor": torch.zeros(2)}, folder)
    assert equal(load(folder), {"step": 1, "tensor": torch.ones(2)})
    monkeypatch.undo()
    save({"step": 3}, folder)
    assert load(folder) == {"step": 3}
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_a_crash_while_writing_leaves_the_previous_state(tmp_path: Path, monkeypatch) -> None:
    save({"step": 1}, tmp_path / "state")
    monkeypatch.setattr(checkpoint, "sync", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save({"step": 2}, tmp_path / "state")
    assert load(tmp_path / "state") == {"step": 1}


def test_killed_at_any_moment_the_files_belong_together(tmp_path: Path) -> None:
    script = (
        "import torch, itertools; from pathlib import Path; from pas.train.checkpoint import save\n"
        "for step in itertools.count():\n"
        f"    save({{'step': step, 'tensor': torch.full((50000,), float(step))}}, Path({str(tmp_path / 'state')!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 60
    while load(tmp_path / "state") is None and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    state = load(tmp_path / "state")
    assert state["step"] > 0
    assert (state["tensor"] == state["step"]).all()


def test_damaged_or_newer_files_are_refused_with_advice(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    save({"step": 1, "tensor": torch.ones(100)}, folder)
    record = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**record, "version": checkpoint.VERSION + 1}))
    with pytest.raises(PasError, match="newer version"):
        load(folder)
    (folder / "state.json").write_text(json.dumps(record))
    (folder / "state.safetensors").write_bytes((folder / "state.safetensors").read_bytes()[:-50])
    with pytest.raises(PasError, match="delete that folder"):
        load(folder)


def test_due_by_steps_or_by_seconds(tmp_path: Path) -> None:
    by_time = Checkpoint(tmp_path, seconds=5)
    assert by_time.due(7, 5.1)
    assert not by_time.due(7, 4.9)
    by_steps = Checkpoint(tmp_path, seconds=1e9, steps=10)
    assert by_steps.due(20, 0)
    assert not by_steps.due(21, 0)
