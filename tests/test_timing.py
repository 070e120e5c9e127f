"""Latency of a real network in ONNX Runtime: its table, its calibration, searches under it. How true predictions are, experiments show."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

import pas
from pas import benchmark, models, profiling
from pas.cli import main
from pas.compose import compose
from pas.cost import Conditions
from pas.cost import profile as profile_module
from pas.cost.kernels import Kernel
from pas.cost.profile import PROBE, PROBED, _block, default_path, profile
from pas.cost.table import Writer, read
from pas.errors import PasError
from pas.pipeline import run
from pas.search import Search
from pas.timing import architecture, digest, rewarded, sub_networks, timing
from pas.wanted import Wanted

pytestmark = [pytest.mark.usefixtures("exporter", "patient"), pytest.mark.no_cover]

X = torch.zeros(1, 1, 32, 32)
NOISE = 1e9
HERE, OTHER = Conditions(batch=32, spread=NOISE), Conditions(batch=2, spread=NOISE)  # of one image most is no matter of widths
SHORT = ("train.dense.epochs=1", "train.search.epochs=1", "train.finetune.epochs=1", "data.subset=64", "hardware=cpu", "cost.repeats=3",
         "cost.spread=1e9", "cost.batch=32")  # fmt: skip


def dense() -> nn.Module:
    torch.manual_seed(0)
    return models.create("repvgg_micro", num_classes=10, in_chans=1)


def search(budget: pas.Budget, **options: object) -> Search:
    """Short searches share one table, as they would at home."""
    options = {"conditions": HERE, **options}
    return Search(dense(), X, budget=budget, steps=8, progress=Console(quiet=True), **options)  # type: ignore[arg-type]


def steps(one: Search, count: int) -> None:
    optimizer = torch.optim.SGD(one.param_groups(0.02, 1e-4), momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        x, y = torch.randn(8, 1, 32, 32, generator=generator), torch.randint(0, 10, (8,), generator=generator)
        (torch.nn.functional.cross_entropy(one.model(x), y) + one.penalty()).backward()
        optimizer.step()
        optimizer.zero_grad()
        one.step()


def test_a_search_lands_by_the_table_and_says_what_was_measured() -> None:
    one = search(pas.Budget(latency=0.8))
    assert one.timing is not None
    steps(one, 8)
    before = one.report()["budget"][0]
    assert before["kind"] == "latency"
    assert before["target"] == pytest.approx(0.8 * before["dense"])
    assert before["achieved"] <= before["target"]
    assert "share" not in before
    small = one.export()
    found = one.report()["budget"][0]
    assert one.verified is not None
    assert found["share"] == one.verified.share.median
    assert 0 < found["share_low"] <= found["share"] <= found["share_high"]
    assert found["share_target"] == pytest.approx(0.8)
    assert small.eval()(X).shape == (1, 10)
    assert one.verify() is one.verified  # the same channels are not measured again
    assert pas.cost.macs(one.signature, one.architecture) < pas.cost.macs(one.signature, one.signature.dense())
    if one.timing.block > 1:
        for a, axis in enumerate(one.widths.axes):
            assert all(width % one.timing.block == 0 or width == axis.size for width in one.widths.ladder(a))


def test_what_a_search_holds_for_latency_comes_back() -> None:
    """Another measurement would see another machine: the state brings the old one's calibration and target."""
    one, other = search(pas.Budget(latency=0.8, params=0.9)), search(pas.Budget(latency=0.8, params=0.9))
    steps(one, 4)
    one.export()
    other.load_state_dict(one.state_dict())
    assert [limit.target for limit in other.limits.each] == [limit.target for limit in one.limits.each]
    mask = np.ones(one.signature.channels, dtype=bool)
    assert [limit.cost.at(mask) for limit in other.limits.each] == [limit.cost.at(mask) for limit in one.limits.each]
    assert other.architecture == one.architecture
    record = json.loads(json.dumps(one.record()))
    third = search(pas.Budget(latency=0.8, params=0.9))
    third.load_state_dict(other.state_dict())
    third.recall(record)
    assert third.report()["budget"] == one.report()["budget"]
    with pytest.raises(PasError, match="is of other channels than these gates land on"):
        third.recall({**record, "channels": record["channels"][:-1]})


def test_a_search_under_latency_shrinks() -> None:
    one = search(pas.Budget(latency=0.8))
    steps(one, 6)
    smaller = one.shrink()
    assert smaller.architecture.widths().keys() == one.architecture.widths().keys()
    target = one.limits.each[0].target
    assert smaller.limits.each[0].cost.at(smaller.landed()) <= target


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(PasError, match=r"=0.001: .* ms can't be reached; the smallest possible are [\d.]+ ms \(0.\d+ of the dense"):
        search(pas.Budget(latency=0.001))
    with pytest.raises(PasError, match=r"budget\.latency='1 h'"):
        pas.Budget(latency="1 h")
    with pytest.raises(PasError, match=r"allows more than the dense network's [\d.]+ ms: leave it out"):
        search(pas.Budget(latency="10 s"))
    with pytest.raises(PasError, match="snap='software': choose from hardware, none"):
        search(pas.Budget(latency=0.8), snap="software")
    with pytest.raises(PasError, match="latency: networks of one tensor can be timed"):
        Search(_Two(), (X, X), budget=pas.Budget(latency=0.5), steps=3, conditions=HERE)
    empty = tmp_path / "tables" / "table.jsonl"
    way = r"`pas profile MODEL --out .*table.jsonl --batch 32 --spread .*` measures"
    with pytest.raises(PasError, match=rf"there is no latency table in .*table.jsonl; {way}"):
        search(pas.Budget(latency=0.8), table=empty)
    assert not empty.parent.exists()
    Writer(empty, HERE.header()).close()
    with pytest.raises(PasError, match=rf"table.jsonl lacks \d+ points, conv .* for one; {way}"):
        search(pas.Budget(latency=0.8), table=empty)
    profile(pas.signature(dense(), X), HERE, default_path(HERE), None)
    with pytest.raises(PasError, match=r"is of .* batch 32, 1 thread; this is .* batch 2, 1 thread"):
        search(pas.Budget(latency=0.8), table=default_path(HERE), conditions=OTHER)


class _Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x) + self.a(y))


def test_a_table_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after the second chunk of points: what was written is read back, and the rest alone is measured."""
    path, signature = tmp_path / "table.jsonl", pas.signature(dense(), X)
    real, seen = profile_module._beside, []

    def stopping(reference: Kernel, one: Kernel, ms: float) -> tuple[float, float]:
        seen.append(one)
        if len(seen) > 2 * profile_module.CHUNK * profile_module.PASSES:
            raise KeyboardInterrupt
        return real(reference, one, ms)

    monkeypatch.setattr(profile_module, "_beside", stopping)
    with pytest.raises(KeyboardInterrupt):
        profile(signature, HERE, path, None)
    begun = read(path)
    assert sum(map(len, begun.points.values())) == 2 * profile_module.CHUNK
    with path.open("a") as file:
        file.write('{"operator": "conv 3x3 p1')  # a line that was cut short
    seen.clear()
    monkeypatch.setattr(profile_module, "_beside", lambda *arguments: seen.append(arguments[1]) or real(*arguments))
    found = profile(signature, HERE, path, None)
    assert not {(str(one.key), one.widths) for one in seen} & {(key, w) for key, its in begun.points.items() for w in its}
    whole = read(path)
    assert whole.points == {key: {w: pytest.approx(ms, abs=1e-6) for w, ms in its.items()} for key, its in found.table.points.items()}
    assert all(whole.points[key][w] == ms for key, its in begun.points.items() for w, ms in its.items())
    seen.clear()
    profile(signature, HERE, path, None)
    assert not seen


@pytest.mark.parametrize("block", [1, 8, 16, 32])
def test_blocks_are_seen(block: int) -> None:
    """A runtime that fills up to blocks, with a share of fixed cost, two per cent of noise, and slow widths off multiples of eight."""
    noise = np.random.default_rng(0)
    slow = lambda width: 1.5 if block > 1 and width % 8 else 1.0  # noqa: E731
    time = lambda width: slow(width) * (10 + -(-width // block) * block) * (1 + 0.02 * noise.standard_normal())  # noqa: E731
    made = {width: Kernel(PROBE, (64, width), lambda width=width: [time(width)], np.inf) for width in PROBED}
    assert _block(made) == block


def test_random_sub_networks_are_on_the_rungs() -> None:
    signature = pas.signature(dense(), X)
    found = profile(signature, HERE, default_path(HERE), None)
    ladders = rewarded(signature, found)
    drawn = sub_networks(signature, ladders, 5, seed=3)
    assert all(width in ladders[name] for one in drawn for name, width in one.widths().items())
    assert drawn == sub_networks(signature, ladders, 5, seed=3)
    assert len({one.to_json() for one in drawn}) > 1
    widths = drawn[0].widths()
    assert architecture(signature, widths) == drawn[0]
    with pytest.raises(PasError, match="nothing"):
        architecture(signature, {"nothing": 3})
    other = models.create("repvgg_nano", num_classes=10, in_chans=1)
    assert digest(signature) != digest(pas.signature(other, X))
    assert digest(signature) != digest(pas.signature(dense(), torch.zeros(1, 1, 64, 64)))


def test_profile_and_benchmark_say_what_they_measured(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["repvgg_micro", "--image-size", "32", "--num-classes", "10", "--in-chans", "1"]
    with pytest.raises(SystemExit) as ended:
        main(["profile", *arguments, "--spread", "1e9"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for words in ("onnxruntime (onnxruntime ", "conv 3x3 p1x1", "measured", "predicted", "times what operators take alone", "table: "):
        assert words in shown
    with pytest.raises(SystemExit) as ended:
        main(["benchmark", *arguments, "--json", "--spread", "1e9", "--repeats", "6"])
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["network"] == "repvgg_micro"
    assert found["dense"]["median_ms"] > 0
    assert "ratio" not in found
    for wrong, words in (
        ([], "pas benchmark BUNDLE_OR_MODEL"),
        (["repvgg_micro", "--repeats", "5"], "an interval of 95 % needs at least 6 rounds"),
        (["runs/none/bundle"], "there is no bundle in runs/none/bundle: give the folder that pas search wrote"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["benchmark", *wrong])
        assert ended.value.code == 2
        assert words in capsys.readouterr().err
    wanted = Wanted("repvgg_micro", image_size=32, num_classes=10, in_chans=1)
    made = profiling.profile(wanted, OTHER, tmp_path / "own.jsonl", Console(quiet=True))
    assert made.path == tmp_path / "own.jsonl"
    assert timing(dense(), made.signature, OTHER, made.path).dense_ms == made.timing.dense_ms


def test_a_run_under_latency_and_its_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What was measured is what the result says; a run that is stopped after it goes on with the same widths, unmeasured."""
    config = compose([*SHORT, "model=repvgg_micro", f"paths.runs={tmp_path}", "budget.latency=0.8"])
    tuned = "pas.pipeline.finetune"

    def stopped(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tuned, stopped)
        with pytest.raises(KeyboardInterrupt):
            run(config, Console(quiet=True))
    folder = next(path for path in tmp_path.iterdir() if (path / "latency.json").exists())
    before = json.loads((folder / "architecture.json").read_text())
    with monkeypatch.context() as patch:
        patch.setattr(Search, "verify", stopped)
        result = run(config, Console(quiet=True))
    assert json.loads((folder / "architecture.json").read_text()) == before
    limit = result["budget"]
    assert (limit["kind"], limit["share_target"]) == ("latency", pytest.approx(0.8))
    assert limit["dense"] == result["dense"]["latency_ms"]
    assert limit["achieved"] == result["searched"]["latency_ms"]
    assert limit["target"] == pytest.approx(0.8 * limit["dense"])
    assert limit["verified_share"] == json.loads((folder / "latency.json").read_text())["measured"]["share"]
    assert limit["achieved"] / limit["dense"] == pytest.approx(limit["share"])
    assert result["seconds"]["measure"] > 0
    with pytest.raises(PasError, match=r"bundle has its own image size \(32 px\), classes and channels: leave them out"):
        benchmark.benchmark(Wanted(str(folder / "bundle"), image_size=64), HERE, repeats=3)
    found = benchmark.benchmark(Wanted(str(folder / "bundle")), HERE, repeats=3)
    benchmark.show("bundle", found, Console())
    shown = capsys.readouterr().out
    assert list(found) == ["dense", "searched"]
    assert "searched / dense: " in shown
    assert benchmark.as_json("bundle", found)["ratio"]["median"] > 0
