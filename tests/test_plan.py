"""`dry_run=true`: what is said is what the search would do, and nothing is begun."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

import pytest
import torch
from results import RESULT

from pas import cli, data, models, plan
from pas.compose import compose
from pas.cost.macs import macs
from pas.errors import PasError
from pas.keys import dense_key, run_key, variant
from pas.pipeline import rehearse
from pas.runs import run_folder
from pas.surgery.forms import signature

pytestmark = pytest.mark.usefixtures("exporter")

# 160 images to train on: 10 batches of 16
SMALL = ["data.subset=160", "data.image_size=16", "hardware.threads=1"]
BATCHES = ["train.dense.batch_size=16", "train.search.batch_size=16", "train.finetune.batch_size=16"]


def told(capsys: pytest.CaptureFixture[str], *overrides: str) -> tuple[int, dict[str, list[str]], str]:
    """The exit code, the lines under each name, and what went to stderr."""
    with pytest.raises(SystemExit) as left:
        cli.main(["search", "dry_run=true", *overrides])
    out, err = capsys.readouterr()
    lines: dict[str, list[str]] = {}
    name = ""
    for line in out.splitlines():
        assert len(line) <= 100 or name == "folder" or line.startswith("folder ")  # a path isn't broken
        name = line[:12].strip() or name
        lines.setdefault(name, []).append(line[12:].strip())
    return left.value.code, lines, err


def test_the_default_run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, lines, err = told(capsys)
    assert code == 0, err
    # 1797 digits less 359 to test and 144 to validate with; 20 whole batches of 64; 12, 6 and 8 epochs
    assert lines["data"] == ["1294 training images, 1 x 32 x 32 each"]
    dense, search, judging, finetune = lines["training"]
    assert dense.startswith("dense: 240 steps of 64 images, 20 an epoch, ")
    assert search.startswith("search: 120 steps of 64 images, 20 an epoch, ")
    assert finetune.startswith("finetune: 160 steps of 64 images, 20 an epoch, ")
    assert lines["axes"] == ["10, of which 8 are prunable and 8 are searched"]
    assert lines["frozen"][1:] == ["x: it is an input of the network", "head.fc: it is an output of the network"]
    # the input: 1 of 1 + 16 + 16 + 32 + 32 + 3 * 48 + 64 + 10 channels; the logits: 10
    assert lines["frozen"][0].startswith("2 axes hold 3.5 % of channels, ")
    assert lines["folder"] == [f"runs/{run_key(compose())}", "new"]
    assert "before that, 1024 examples judge the channels: " in f"{search} {judging}"
    assert "MiB" in lines["memory"][0]
    assert "of training" in lines["time"][0]
    assert not list(tmp_path.iterdir())


def test_numbers_of_a_plan(tmp_path: Path) -> None:
    config = compose([*SMALL, *BATCHES, f"paths.runs={tmp_path}", "budget.params=0.9", "train.search.accumulate=2",
                      "train.dense.epochs=3", "train.search.epochs=4", "train.finetune.epochs=5", "options.min_width=8"])  # fmt: skip
    found = rehearse(config)
    stages = [(stage.name, stage.batches, stage.steps) for stage in found.stages]
    assert stages == [("dense", 10, 30), ("search", 10, 20), ("finetune", 10, 50)]
    assert all(stage.step_seconds > 0 for stage in found.stages)
    _, searching, tuning = found.stages
    assert (searching.examples, tuning.examples) == (160, 0)  # all that there are
    assert searching.seconds == 160 * searching.example_seconds + 20 * searching.step_seconds > 20 * searching.step_seconds
    network = models.create("repvgg_nano", num_classes=10, in_chans=1)
    sig = signature(network, torch.zeros(1, 1, 16, 16))
    eight = sig.dense()
    for axis in sig.prunable:
        eight = eight.keep(axis.name, range(8))
    limit, other = found.ranges
    assert (limit.kind, other.kind) == ("macs", "params")
    assert limit.dense == found.dense["macs"] == macs(sig, sig.dense())
    assert limit.target == limit.dense / 2
    assert limit.smallest == macs(sig, eight)
    assert other.target == 0.9 * found.dense["params"]
    # the input feeds the stem's 16 x 9 weights at 8 x 8 places; the logits are 64 x 10 weights and 10 biases
    assert found.frozen.costs["macs"] == pytest.approx((16 * 9 * 64 + 640) / limit.dense)
    assert found.frozen.costs["params"] == pytest.approx((16 * 9 + 650) / found.dense["params"])
    assert found.memory.peak > 100 * 2**20
    assert not list(tmp_path.iterdir())


def test_steps_are_timed_without_the_first_and_the_last() -> None:
    notes = plan.Notes(accumulate=2, ready=[0, 50, 100, 101, 102, 103, 104, 105])
    setting = dict.fromkeys(("config", "tracker", "data", "device", "console"))
    assert plan.Rehearsal(**setting, few=4, notes=notes).step_seconds() == 2


def test_examples_are_timed_apart_from_steps() -> None:
    """Of a method that takes a second for each example, however many it asks for; no step is longer for it."""
    config = compose([*SMALL, *BATCHES])
    found = data.load("digits", image_size=16, subset=160)
    for wanted in (8, 100):
        setting = plan.Rehearsal(config, None, found, torch.device("cpu"), None, few=4)
        clock = itertools.count()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(time, "perf_counter", lambda clock=clock: next(clock))
            shown = list(itertools.islice(setting.examples(64), wanted))
        assert [len(y) for _, y in shown] == [1] * min(wanted, 32)
        assert setting.notes.example_seconds == 1
        assert not setting.notes.ready


def test_what_is_there_already(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = [*SMALL, *BATCHES, f"paths.runs={tmp_path}", "options.keep=[stem,stages.3]"]
    config = compose(words)
    parent, run = tmp_path / dense_key(config), run_folder(config)
    for folder in (parent, run):
        folder.mkdir()
    (parent / "dense.json").write_text('{"top1": 90.0, "seconds": 1.0}')
    (run / "metrics.jsonl").write_text('{"stage": "search", "step": 7}\n')
    before = sorted(tmp_path.rglob("*"))
    code, lines, err = told(capsys, *words)
    assert code == 0, err
    assert " ".join(lines["training"]).startswith(f"dense: trained already ({parent.name}) search: ")
    assert lines["kept whole"][0].startswith("3 axes hold ")  # what a module reads is kept with it
    assert lines["kept whole"][1] == "stem, stages.2.2, stages.3.0"
    assert lines["axes"] == ["10, of which 8 are prunable and 5 are searched"]
    assert lines["folder"] == [str(run), "begun: search, step 7; it would go on from its last checkpoint"]
    assert sorted(tmp_path.rglob("*")) == before
    (run / "result.json").write_text(json.dumps(RESULT))
    _, lines, _ = told(capsys, *words)
    assert lines["folder"][1] == "finished: it would only be shown"


def test_another_network_and_method_with_weights_given(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = [*SMALL, *BATCHES, f"paths.runs={tmp_path}", "model=mobilenetv2_mini", "method=uniform", "train.dense.epochs=0"]
    code, lines, err = told(capsys, *words)
    assert code == 0, err
    assert lines["training"][0] == "dense: not trained: train.dense.epochs=0"
    assert lines["training"][1] == "search: none: this method decides before the first step"
    assert lines["axes"] == ["18, of which 16 are prunable and 16 are searched"]
    assert not list(tmp_path.iterdir())


def test_refusals(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, lines, err = told(capsys, *SMALL, "budget.macs=0.001")
    assert (code, lines) == (2, {})
    assert err.startswith("pas: budget.macs=0.001: ")
    assert "the smallest possible is" in err
    code, lines, err = told(capsys, "data=cifar10", "data.root=/nowhere")
    assert (code, lines) == (2, {})
    assert "PAS_DATA" in err
    assert not list(tmp_path.iterdir())


def test_every_job_of_a_sweep(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        cli.main(["search", "-m", "dry_run=true", "budget.macs=0.001,0.5", *SMALL, *BATCHES])
    out, err = capsys.readouterr()
    assert left.value.code == 2
    keys = [run_key(compose([*SMALL, *BATCHES, f"budget.macs={share}"])) for share in (0.001, 0.5)]
    assert [line for line in out.splitlines() if line.startswith("run ")] == [f"run 1 of 2: {keys[0]}", f"run 2 of 2: {keys[1]}"]
    assert out.count("of training, at the speed") == 1
    assert err.startswith("pas: budget.macs=0.001: ")
    assert not list(tmp_path.iterdir())


def test_a_control_counts_the_run_before_it(tmp_path: Path) -> None:
    words = [*SMALL, *BATCHES, f"paths.runs={tmp_path}", "method=random", "method@method.source=uniform"]
    found = rehearse(compose(words))
    assert found.first is not None
    assert found.first.folder == run_folder(compose([*words[:-2], "method=uniform"]))
    dense, _, tuning = found.stages
    assert dense.instead == f"that of {found.first.folder.name}"
    assert found.seconds == tuning.seconds + sum(stage.seconds for stage in found.first.stages) > tuning.seconds
    with pytest.raises(PasError, match="no method 'foo'"):
        rehearse(compose([*words, "method.source.name=foo"]))


def test_no_part_of_a_runs_name() -> None:
    assert run_key(compose(["dry_run=true"])) == run_key(compose())
    assert variant(compose(["dry_run=true"])) == variant(compose())
    assert dense_key(compose(["dry_run=true"])) == dense_key(compose())
    assert compose().dry_run is False


@pytest.mark.gpu
def test_memory_of_a_gpu(tmp_path: Path) -> None:
    found = rehearse(compose([*SMALL, *BATCHES, f"paths.runs={tmp_path}", "hardware.device=cuda"]))
    assert found.memory.cuda
    assert 0 < found.memory.peak < 2**30
