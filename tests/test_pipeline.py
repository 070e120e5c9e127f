"""The main job end to end, on real digits with short trainings: what it leaves, and that nothing is lost when it is killed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

import pas
from pas import pipeline, stages
from pas.amount import human
from pas.compose import compose
from pas.data import load
from pas.errors import PasError
from pas.keys import settings
from pas.pipeline import rehearse, run
from pas.publish import bundle
from pas.publish.evaluate import evaluate
from pas.result import read_result
from pas.runs import Run, read_metrics, run_folder
from pas.setting import Setting
from pas.tracking import Tracker

SHORT = ["data.subset=400", "train.dense.epochs=1", "train.search.epochs=2", "train.finetune.epochs=1", "cost.runtime=torch",
         "cost.repeats=5", "cost.warmup=1", "hardware.threads=1"]  # fmt: skip


def short(runs: Path, *overrides: str) -> list[str]:
    """The configuration of a short run. `pas`, whether it searches itself or is the source of the widths, judges channels by 8 images."""
    given = [word for word in overrides if word.startswith(("method=", "method@"))]
    pas = {"": "method", "method=random": "method.source", "method=scratch": "method.source"}.get(" ".join(given))
    return [*SHORT, *([f"{pas}.options.samples=8"] if pas else []), f"paths.runs={runs}", *overrides]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, dict]:
    runs = tmp_path_factory.mktemp("runs")
    config = compose(short(runs))
    result = run(config, Console(quiet=True))
    return run_folder(config), result


def test_result_and_files(finished: tuple[Path, dict]) -> None:
    folder, result = finished
    assert read_result(folder) == result
    assert result["budget"]["achieved"] == result["searched"]["macs"] <= result["budget"]["target"] == 0.5 * result["dense"]["macs"]
    assert max(result["exactness"]["mask_slice"], result["exactness"]["slice_fuse"]) < 1e-10
    assert result["exactness"]["fuse_onnx"] < 1e-4
    expected = {"config.yaml", "metrics.jsonl", "checkpoint", "architecture.json", "bundle", "figures", "result.json"}
    assert expected <= {path.name for path in folder.iterdir()}
    assert {path.name for path in (folder / "bundle").iterdir()} == set(bundle.FILES)
    stages = {row["stage"] for row in read_metrics(folder)}
    assert stages == {"search", "finetune"}
    last = [row for row in read_metrics(folder) if row["stage"] == "search"][-1]
    assert last["export_macs"] == result["searched"]["macs"]
    assert not [path for path in folder.rglob("*") if path.suffix in (".pt", ".pth", ".pkl", ".bin")]


def test_bundle_is_the_searched_network(finished: tuple[Path, dict]) -> None:
    folder, result = finished
    network = pas.load(folder / "bundle")
    assert sum(p.numel() for p in network.parameters()) == result["searched"]["params"]
    assert (folder / "architecture.json").read_text() == (folder / "bundle" / "architecture.json").read_text()
    card = (folder / "bundle" / "README.md").read_text()
    assert f"{result['searched']['top1']:.2f}" in card


def test_a_finished_run_is_shown_at_once(finished: tuple[Path, dict]) -> None:
    folder, result = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name not in (".lock", "config.yaml")}
    assert run(compose(short(folder.parent)), Console(quiet=True)) == result
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items() if path.is_file())


def test_the_dense_parent_is_trained_once(finished: tuple[Path, dict]) -> None:
    folder, result = finished
    parents = list(folder.parent.glob("*-dense-*"))
    assert len(parents) == 1
    stamp = (parents[0] / "model.safetensors").stat().st_mtime_ns
    other = run(compose(short(folder.parent, "method=uniform", "budget.macs=0.7")), Console(quiet=True))
    assert other["dense"]["top1"] == result["dense"]["top1"]
    assert (parents[0] / "model.safetensors").stat().st_mtime_ns == stamp


def test_a_budget_of_parameters(tmp_path: Path) -> None:
    result = run(compose(short(tmp_path, "budget.macs=null", "budget.params=40k", "options.round_to=1")), Console(quiet=True))
    assert result["budget"]["kind"] == "params"
    assert 0.99 * 40_000 <= result["searched"]["params"] <= 40_000


def test_two_budgets(tmp_path: Path) -> None:
    """And weights in channels_last: what is reloaded lies in memory as a fresh network does, and sums in that order."""
    words = ["model=mobilenetv2_mini", "hardware.channels_last=true", "budget.macs=0.9", "budget.params=0.5", "options.round_to=1"]
    result = run(compose(short(tmp_path, *words)), Console(quiet=True))
    assert [limit["kind"] for limit in result["limits"]] == ["macs", "params"]
    assert all(limit["achieved"] <= limit["target"] for limit in result["limits"])
    params = result["limits"][1]
    assert f"params at most {human(params['target'])} (0.5 of the dense" in next(tmp_path.glob("*/bundle/README.md")).read_text()
    other = compose(short(tmp_path, *words, "budget.params=0.6"))
    assert settings(other) != result["settings"] == settings(compose(short(tmp_path, *words, "budget.macs=0.8")))
    assert result["budget"] == result["limits"][0]
    assert 0.99 * params["target"] <= params["achieved"] == result["searched"]["params"] <= params["target"]


def strip(result: dict) -> dict:
    """Without what a clock decides."""
    kept = json.loads(json.dumps({k: v for k, v in result.items() if k not in ("seconds", "latency", "environment")}))
    for side in ("dense", "searched"):
        kept[side].pop("latency_ms")
    return kept


def losses(folder: Path) -> list[tuple]:
    return [(row["stage"], row["step"], row["loss"], row.get("open")) for row in read_metrics(folder)]


def test_the_parent_is_the_same_whether_trained_or_found(tmp_path: Path) -> None:
    """Also in memory: convolutions sum in another order where weights lie in another layout."""
    config = compose(short(tmp_path, "hardware.channels_last=true"))
    nowhere = Tracker(Run(tmp_path / "run", "run", None), None)
    setting = Setting(config, nowhere, load("digits", image_size=32, subset=100), torch.device("cpu"), Console(quiet=True))
    trained, found = (stages.prepare(setting, None).network.state_dict() for _ in range(2))
    assert all(torch.equal(trained[name], found[name]) for name in found)
    assert {name: value.stride() for name, value in trained.items()} == {name: value.stride() for name, value in found.items()}


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    from pas.runs import open_run

    config = compose(short(tmp_path))
    with open_run(config), pytest.raises(pas.PasError, match="in use by process"):
        run(config, Console(quiet=True))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model=repvgg_nan"], "repvgg_nano"),
        (["budget.macs=0.001"], "smallest possible"),
        (["hardware.device=cuda"], "hardware=cpu"),
        (["data=cifar10", "data.root=/nowhere"], "PAS_DATA"),
        (["model.weights=/nowhere.th"], "no weights at"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(overrides: list[str], words: str, tmp_path: Path) -> None:
    if "hardware.device=cuda" in overrides and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(pas.PasError) as refusal:
        run(compose(short(tmp_path, *overrides)), Console(quiet=True))
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_network_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\n\ndef make(num_classes, in_chans):\n"
        "    return nn.Sequential(nn.Conv2d(in_chans, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 24, 3, 2), nn.ReLU(),\n"
        "                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, num_classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = compose(short(tmp_path / "runs", "model=python", "model.entry=mine:make", "options.round_to=1"))
    result = run(config, Console(quiet=True))
    assert result["model"] == "mine:make"
    assert result["searched"]["macs"] <= result["budget"]["target"]
    folder = run_folder(config) / "bundle"
    with pytest.raises(pas.PasError, match="pass it as model="):
        pas.load(folder)
    with pytest.raises(pas.PasError, match="--entry mine:make"):
        evaluate(folder, "digits", None)
    assert evaluate(folder, "digits", None, "mine:make").top1 == result["searched"]["top1"]
    from mine import make

    network = pas.load(folder, model=make(10, 1))
    assert sum(p.numel() for p in network.parameters()) == result["searched"]["params"]


def test_controls_take_the_widths_of_their_source(finished: tuple[Path, dict]) -> None:
    """random: other channels; scratch: other weights, the epochs of all stages. The source is found, or run first."""
    folder, result = finished
    widths = pas.Architecture.from_json((folder / "architecture.json").read_text()).widths()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    rehearse(compose(short(folder.parent, "method=random", "dry_run=true")))
    for method, epochs in (("random", 3), ("scratch", 4)):
        config = compose(short(folder.parent, f"method={method}"))
        control = run(config, Console(quiet=True))
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before  # a finished source is only read
        assert control["method"] == f"{method}-pas"
        assert control["epochs"] == {"dense": 1, "search": 0, "finetune": epochs}
        assert control["searched"]["macs"] == result["searched"]["macs"]
        kept = pas.Architecture.from_json((run_folder(config) / "architecture.json").read_text())
        assert kept.widths() == widths
        last = [row for row in read_metrics(run_folder(config)) if row["stage"] == "finetune"][-1]
        assert last["step"] == epochs * 6  # 400 training images, batch 64
    other = run(compose(short(folder.parent, "method=random", "method@method.source=uniform", "budget.macs=0.7")), Console(quiet=True))
    assert other["method"] == "random-uniform"
    assert list(folder.parent.glob("*-uniform-macs0.7-*/result.json"))


def test_a_warm_start_and_given_channels(finished: tuple[Path, dict]) -> None:
    folder, _ = finished
    config = compose(short(folder.parent, "method=given", f"options.start={folder}"))
    run(config, Console(quiet=True))
    assert (run_folder(config) / "architecture.json").read_text() == (folder / "architecture.json").read_text()
    copied = folder.parent / "copy.json"
    copied.write_text((folder / "architecture.json").read_text())
    assert run_folder(compose(short(folder.parent, "method=given", f"options.start={copied}"))) == run_folder(config)
    with pytest.raises(PasError, match="nothing at"):
        run(compose(short(folder.parent, "method=given", "options.start=nowhere")))
    with pytest.raises(PasError, match=r"options\.start"):
        run(compose(short(folder.parent, "method=given")), Console(quiet=True))


def test_results_on_the_validation_split(finished: tuple[Path, dict]) -> None:
    folder, result = finished
    chosen = run(compose(short(folder.parent, "data.split=val", "train.dense.epochs=1")), Console(quiet=True))
    assert (chosen["split"], result["split"]) == ("val", "test")
    assert chosen["searched"]["top1"] * 1.44 == pytest.approx(round(chosen["searched"]["top1"] * 1.44))  # 144 images


class StoppedError(Exception):
    """A run that ends in the middle."""


def test_distilled_shrunk_and_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that distils from the dense parent and shrinks twice, stopped between any two of its parts: the same end."""
    words = ["train.search.distill=0.5", "train.finetune.distill=0.5", "options.shrink=[0.55,0.8]", "budget.macs=0.3"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    result = run(compose(short(whole, *words)), Console(quiet=True))
    config = compose(short(parts, *words, "hardware.checkpoint_seconds=0"))
    log = Run.log
    for step in (6, 8):

        def stop(this: Run, row: dict, step: int = step) -> None:
            log(this, row)
            if (row["stage"], row["step"]) == ("search", step):
                raise StoppedError

        with monkeypatch.context() as patched:
            patched.setattr(Run, "log", stop)
            with pytest.raises(StoppedError):
                run(config, Console(quiet=True))
    assert strip(run(config, Console(quiet=True))) == strip(result)
    assert losses(run_folder(config)) == losses(run_folder(compose(short(whole, *words))))
    assert result["searched"]["macs"] <= 0.3 * result["dense"]["macs"]
    alone, plain = ([*words, "train.finetune.distill=0"], ["budget.macs=0.3"])
    for more in (alone, plain):
        run(compose(short(whole, *more)), Console(quiet=True))
    both, searching, neither = (losses(run_folder(compose(short(whole, *more)))) for more in (words, alone, plain))
    assert [row for row in both if row[0] == "search"] == [row for row in searching if row[0] == "search"]
    assert [row for row in both if row[0] == "finetune"] != [row for row in searching if row[0] == "finetune"]
    assert both[0] != neither[0]  # the first row of the search, from the same weights


def test_scratch_starts_from_other_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose(short(tmp_path, "method=scratch", "method@method.source=uniform"))
    started = []
    monkeypatch.setattr(pipeline, "_fresh", lambda setting, make=pipeline._fresh: started.append(make(setting)) or started[-1])
    monkeypatch.setattr(stages, "make", lambda *args, make=stages.make, **how: started.append(make(*args, **how)) or started[-1])
    run(config, Console(quiet=True))
    first, *_, last = (network.stem.conv_kxk.conv.weight.detach() for network in started)
    assert not torch.equal(first, last)
