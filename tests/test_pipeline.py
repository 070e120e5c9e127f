"""The main job end to end, on real digits with short trainings: what it leaves, and that nothing is lost when it is killed."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import timm
import torch
from rich.console import Console
from safetensors.torch import save_model

import pas
from pas import models, pipeline, stages
from pas.amount import human
from pas.compose import compose
from pas.data import load
from pas.errors import PasError
from pas.keys import settings
from pas.pipeline import rehearse, run
from pas.publish import sealed
from pas.publish.evaluate import evaluate
from pas.result import read_result
from pas.runs import Run, read_metrics, run_folder
from pas.setting import Setting
from pas.tracking import Tracker

pytestmark = pytest.mark.usefixtures("exporter")

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
    assert {path.name for path in (folder / "bundle").iterdir()} == set(sealed.FILES)
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


@pytest.mark.no_cover
def test_a_budget_of_parameters(tmp_path: Path) -> None:
    result = run(compose(short(tmp_path, "budget.macs=null", "budget.params=40k", "options.round_to=1")), Console(quiet=True))
    assert result["budget"]["kind"] == "params"
    assert 0.99 * 40_000 <= result["searched"]["params"] <= 40_000


@pytest.mark.no_cover
def test_two_budgets(tmp_path: Path) -> None:
    words = ["budget.macs=0.9", "budget.params=0.5", "options.round_to=1"]
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


def widths(folder: Path) -> dict[str, int]:
    return pas.Architecture.from_json((folder / "architecture.json").read_text()).widths()


def steps(folder: Path) -> int:
    """Steps of the fine-tuning."""
    return [row for row in read_metrics(folder) if row["stage"] == "finetune"][-1]["step"]


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
        "from torch import nn\n\n\ndef block(i, o, *arguments, **more):\n"
        "    return nn.Conv2d(i, o, *arguments, **more), nn.BatchNorm2d(o), nn.ReLU()\n\n\n"
        "def make(num_classes, in_chans):\n"
        "    return nn.Sequential(*block(in_chans, 16, 3, 2), *block(16, 48, 1), *block(48, 48, 3, 2, groups=48), *block(48, 24, 1),\n"
        "                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, num_classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = compose(short(tmp_path / "runs", "model=python", "model.entry=mine:make", "options.round_to=1", "hardware.channels_last=true"))
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


def test_weights_of_channels_last_are_laid_out_as_a_fresh_networks() -> None:
    """Convolutions sum in the order of the layout, and a bundle is loaded into a fresh network."""
    fresh, trained = (timm.create_model("mobilenetv2_mini") for _ in range(2))
    trained.to(memory_format=torch.channels_last)
    layouts = [[tensor.stride() for tensor in network.state_dict().values()] for network in (fresh, trained)]
    assert layouts[0] != layouts[1]
    before = copy.deepcopy(trained.state_dict())
    after = pipeline._as_reloaded(trained).state_dict()
    assert [tensor.stride() for tensor in after.values()] == layouts[0]
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.no_cover
def test_random_takes_the_widths_of_its_source(finished: tuple[Path, dict]) -> None:
    folder, result = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    rehearse(compose(short(folder.parent, "method=random", "dry_run=true")))
    config = compose(short(folder.parent, "method=random"))
    control = run(config, Console(quiet=True))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before  # a finished source is only read
    assert control["method"] == "random-pas"
    assert control["epochs"] == {"dense": 1, "search": 0, "finetune": 3}
    assert control["searched"]["macs"] == result["searched"]["macs"]
    assert widths(run_folder(config)) == widths(folder)
    assert steps(run_folder(config)) == 3 * 6  # 400 training images, batch 64


def test_scratch_runs_its_source_first_and_starts_from_other_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose(short(tmp_path, "method=scratch", "method@method.source=uniform"))
    started = []
    monkeypatch.setattr(pipeline, "_fresh", lambda setting, make=pipeline._fresh: started.append(make(setting)) or started[-1])
    monkeypatch.setattr(stages, "make", lambda *args, make=stages.make, **how: started.append(make(*args, **how)) or started[-1])
    control = run(config, Console(quiet=True))
    first, *_, last = (network.stem.conv_kxk.conv.weight.detach() for network in started)
    assert not torch.equal(first, last)
    (source,) = tmp_path.glob("*-uniform-macs0.5-s0-*[0-9a-f]/result.json")
    assert control["method"] == "scratch-uniform"
    assert control["epochs"] == {"dense": 1, "search": 0, "finetune": 4}
    assert widths(run_folder(config)) == widths(source.parent)
    assert control["searched"]["macs"] == read_result(source)["searched"]["macs"]
    assert steps(run_folder(config)) == 4 * 6


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


def test_distilled_shrunk_and_stopped(finished: tuple[Path, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    alone = compose(short(whole, *words, "train.finetune.distill=0"))
    run(alone, Console(quiet=True))
    both, searching, neither = losses(run_folder(config)), losses(run_folder(alone)), losses(finished[0])
    assert [row for row in both if row[0] == "search"] == [row for row in searching if row[0] == "search"]
    assert [row for row in both if row[0] == "finetune"] != [row for row in searching if row[0] == "finetune"]
    assert both[0] != neither[0]  # from the same weights; neither budget nor shrinking changes the first loss


@pytest.mark.no_cover
def test_given_weights_are_measured_once(tmp_path: Path) -> None:
    """By a file, whose content is part of the folder's name: what the second run finds there is what it says."""
    torch.manual_seed(0)
    save_model(models.create("repvgg_nano", num_classes=10, in_chans=1), str(tmp_path / "weights.safetensors"))
    words = short(tmp_path / "runs", f"model.weights={tmp_path / 'weights.safetensors'}", "method=uniform", "train.finetune.epochs=1")
    first = run(compose(words), Console(quiet=True))
    (file,) = tmp_path.glob("runs/*/given.json")
    assert json.loads(file.read_text()) == {"top1": first["dense"]["top1"]}
    file.write_text('{"top1": 12.5}')
    assert run(compose([*words, "method=magnitude"]), Console(quiet=True))["dense"]["top1"] == 12.5
