"""Pages hold the numbers of the files as text, everything that they need, and nothing that a browser would run or fetch."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import re
import shutil
from collections import Counter
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml
from results import RESULT, put

from pas.architecture import Architecture
from pas.compose import compose
from pas.report import curves, page
from pas.report.collect import Finished, collect
from pas.report.html.run import run_page
from pas.report.html.sweep import sweep_page

HOSTILE = "<script>alert(1)</script>&\"'<img src=x onerror=alert(2)>$\\frac$\x07\x1b"
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """What a browser would make of a page: its tags with their attributes, its text, and its tables as rows of cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.rows: list[list[str]] = []
        self.code = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            self.code += data
        elif "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data
        self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pages of three runs, one of them on its way."""
    root = tmp_path_factory.mktemp("pages") / "runs"
    latency = {"runtime": "onnxruntime", "batch": 1, "threads": 2, "dtype": "float32", "layout": "NCHW", "device": "a processor"}
    latency |= {"median_ms": 1.0, "low_ms": 0.9, "high_ms": 1.2, "runs": 200, "share": 0.5, "share_low": 0.48, "share_high": 0.52}
    recovery, epochs = {"cut": 20.0, "renorm": 60.5, "epoch": 85.0}, {"dense": 3, "search": 2, "finetune": 1}
    for seed, top1 in enumerate((88.0, 90.0)):
        put(root, f"pas-s{seed}", top1, seed=seed, latency=latency, recovery=recovery, epochs=epochs)
    put(root, "uniform-s0", 85.0, method="uniform")
    begun = root / "begun"
    begun.mkdir()
    (begun / "config.yaml").write_text("seed: 0\n")
    (begun / "metrics.jsonl").write_text('{"stage": "search", "step": 7}\n')
    (root / "a parent").mkdir()
    (root / "a parent" / "metrics.jsonl").write_text('{"stage": "dense", "step": 7}\n')
    page.write(root)
    return root


def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def test_a_run(runs: Path):
    found = read(runs / "pas-s1" / "report.html")
    for row in (
        ["top-1", "90.00 %", "90.00 %", "+0.00"],
        ["MACs", "100", "49", "49.0%"],
        ["latency (onnxruntime, batch 1)", "2 ms", "1 ms", "2.00x faster (95 %: 1.92 to 2.08)"],
        ["right after the cut", "", "20.00", "-70.00"],
        ["norms re-estimated", "", "60.50", "-29.50"],
        ["features.body.0", "", "8", "32", "25%"],
        ["sliced = fused, fp64", "1.0e-16", "1e-10", "equal"],
        ["fused = ONNX Runtime, fp32", "", "1e-04", "not measured"],
        ["search", "2", "2.0"],
        ["torch", "2.15.0"],
    ):
        assert row in found.rows
    told = ("Budget: 50 MACs, reached 49 (98.00% of it).", "threads: 2", "interval 0.9 to 1.2", "74 of 112 stay", "there is no config.yaml")
    assert [words for words in told if words not in found.text] == []
    bars = [attributes for attributes in found.all("rect") if attributes.get("class") == "kept"]
    assert [bar["width"] for bar in bars[-3:]] == ["3.125", "12.5", "100"]  # 2, 8 and 64 of the widest, 64
    figures = [attributes["aria-label"] or "" for attributes in found.all("svg") if attributes.get("role") == "img"]
    assert figures[0] == "training loss over steps: search from 2 to 0.25 in 8 points, then fine-tuning from 1 to 0.125 in 8 points"
    assert figures[3].endswith("target 50")
    assert "too noisy" not in found.text
    assert "thinned" not in found.text


def test_a_run_that_says_little(tmp_path: Path):
    """Results of earlier versions, without recovery, latency and metrics, and an error above its bound."""
    untimed = {part: {**RESULT[part], "latency_ms": None} for part in ("dense", "searched")}
    folder = put(tmp_path, "old", 80.0, **untimed, exactness={**RESULT["exactness"], "mask_slice": 0.1})
    (folder / "metrics.jsonl").unlink()
    (run,) = collect(tmp_path)
    found = Page(run_page(run, curves.read(run.metrics, {})))
    assert "there are no curves" in found.text
    assert ["masked = sliced, fp64", "1.0e-01", "1e-10", "not equal"] in found.rows
    assert "Recovery" not in found.text


def test_a_latency_that_was_too_noisy(tmp_path: Path):
    latency = {"share": 0.5, "share_low": 0.2, "share_high": 0.9}
    for seed in (0, 1):
        put(tmp_path, f"s{seed}", 80.0, seed=seed, latency=latency if seed else {**latency, "share_low": 0.49, "share_high": 0.51})
    quiet, noisy = collect(tmp_path)
    assert [("too noisy" in Page(run_page(run, [])).text) for run in (quiet, noisy)] == [False, True]
    assert [Page(sweep_page(tmp_path, [run], [])).rows[1][-1] for run in (quiet, noisy)] == ["2.00", ""]


def test_a_sweep(runs: Path):
    found = read(runs / "report.html")
    assert ["pas", "50 MACs (50%)", "2: 0 1", "90.00 ± 0.00", "89.00 ± 1.41", "49", "10", "2.00"] in found.rows
    assert ["dense", "112", "16", "32", "64"] in found.rows
    assert ["uniform, 50 MACs, seed 0", "74", "2", "8", "64"] in found.rows
    assert ["run", "all", "stem", "body.0", "body.1"] in found.rows
    shades = [attributes["style"] for attributes in found.all("td") if attributes.get("style")]
    assert shades == 3 * ["--kept:0.12", "--kept:0.25", "--kept:1.00"]
    assert "begun: search, step 7" in found.text
    assert "a parent" not in found.text
    (front,) = [attributes["aria-label"] for attributes in found.all("svg")]
    assert front == "test top-1 in percent against cost; pas at 50 MACs: 89.00 ± 1.41; uniform at 50 MACs: 85.00; dense: 90.00 ± 0.00"
    links = [attributes["href"] or "" for attributes in found.all("a")]
    assert len(links) == 3 * 3  # in the means, the widths, and all runs
    assert all((runs / unquote(link)).is_file() for link in links)


def test_a_page_stands_alone_and_can_be_read_aloud(runs: Path):
    for path in (runs / "report.html", runs / "pas-s0" / "report.html"):
        found = read(path)
        assert found.tags[0] == ("html", {"lang": "en"})
        assert found.all("title")
        assert not re.search(r"https?:|url\((?!#)|@import", path.read_text())
        assert not {"link", "img", "iframe", "object", "base", "form"} & {tag for tag, _ in found.tags}
        assert all((attributes.get("href") or "#").startswith("#") for tag, attributes in found.tags if tag != "a")
        assert not [tag for tag, attributes in found.tags if "src" in attributes]
        assert all(svg.get("aria-label") or svg.get("aria-hidden") for svg in found.all("svg"))
        assert all(head.get("scope") in ("col", "row") for head in found.all("th"))
        assert len(found.all("caption")) == len(found.all("table"))
        names = Counter(attributes["id"] for _, attributes in found.tags if "id" in attributes)
        assert set(names.values()) <= {1}
        (policy,) = [attributes["content"] or "" for attributes in found.all("meta") if attributes.get("http-equiv")]
        assert policy.startswith("default-src 'none'")
        scripts = re.findall(r"'sha256-([^']+)'", policy)
        assert scripts == [base64.b64encode(hashlib.sha256(found.code.encode()).digest()).decode()] * len(found.all("script"))


def test_what_files_say_is_text(tmp_path: Path):
    """Names and errors from files, in every place where a page shows one."""
    names = dict.fromkeys(("model", "data", "split", "method"), HOSTILE)
    environment = {**RESULT["environment"], "device": HOSTILE, HOSTILE: HOSTILE, "commit": HOSTILE}
    latency = {"runtime": HOSTILE, "batch": HOSTILE, "device": HOSTILE}
    for number, key in enumerate(("one", "two")):
        budget = {**RESULT["budget"], "target": 50.0 + number}
        folder = put(tmp_path, key, 1.0, **names, budget=budget, environment=environment, latency=latency, settings=HOSTILE)
        result = json.loads((folder / "result.json").read_text())
        (folder / "result.json").write_text(json.dumps({**result, "run_key": HOSTILE + key}))
        (folder / "architecture.json").write_text(Architecture({HOSTILE: 4, "b": 4}, {HOSTILE: (0,), "b": (1, 2)}).to_json())
        rows = [{"stage": HOSTILE, "step": 1, "loss": 1.0}, {"stage": HOSTILE, "step": 2, "loss": HOSTILE}, {"stage": [1], "step": 2}]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "config.yaml").write_text(yaml.safe_dump({HOSTILE: HOSTILE}) if number else f"a: [{HOSTILE}")
    begun = tmp_path / "javascript:alert(3)<script>"
    begun.mkdir()
    (begun / "config.yaml").write_text("seed: 0\n")
    (begun / "metrics.jsonl").write_text(json.dumps({"stage": HOSTILE, "step": 3}) + "\n")
    (tmp_path / "two").rename(tmp_path / "javascript:alert(4)<script>")
    page.write(tmp_path)
    shown = HOSTILE.replace("\x07", "\ufffd").replace("\x1b", "\ufffd")
    for path, scripts in ((tmp_path / "report.html", 1), (tmp_path / "one" / "report.html", 0)):
        found = read(path)
        assert len(found.all("script")) == scripts
        assert not found.all("img")
        assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]
        assert {(link["href"] or "").split("/")[0] for link in found.all("a")} <= {"one", "javascript%3Aalert%284%29%3Cscript%3E"}
        assert found.text.count(shown) > 8
        assert any(shown in (svg.get("aria-label") or "") for svg in found.all("svg"))


def test_the_same_results_give_the_same_bytes(runs: Path, tmp_path: Path):
    """Elsewhere, again, and of one run alone."""
    other = shutil.copytree(runs, tmp_path / "elsewhere" / "deeper")
    pages = {path.relative_to(runs) for path in runs.rglob("*.html")}
    assert set(map(str, pages)) == {"report.html", "pas-s0/report.html", "pas-s1/report.html", "uniform-s0/report.html"}
    for path in pages:
        (other / path).unlink()
    written = page.write(other)
    assert pages == {path.relative_to(other) for path in written if path.suffix == ".html"}
    assert all((other / path).read_bytes() == (runs / path).read_bytes() for path in pages)
    (other / "pas-s0" / "report.html").unlink()
    alone = page.write(other / "pas-s0")
    assert [path.relative_to(other).as_posix() for path in alone][:2] == ["pas-s0/report.html", "pas-s0/results.csv"]
    assert alone[0].read_bytes() == (runs / "pas-s0" / "report.html").read_bytes()


def test_long_curves_are_thinned_and_say_so():
    rows = [{"stage": "search", "step": step, "loss": 1 / step, "macs": 100.0} for step in range(1, 5001)]
    rows[2500]["loss"], rows[3333]["loss"], rows[10]["loss"] = 7.0, -7.0, float("nan")
    (loss, macs) = curves.read(rows, {"macs": 50.0})
    assert (loss.thinned, loss.target, macs.target) == (True, None, 50.0)
    points = loss.stages["search"]
    assert len(points) == 4999  # one was no number
    drawn = curves.thin(points)
    assert len(drawn) <= curves.MOST + 2
    assert drawn == sorted(drawn)
    assert {points[0], points[-1], (2501, 7.0), (3334, -7.0)} <= set(drawn) <= set(points)
    assert curves.thin(points[: curves.MOST]) == points[: curves.MOST]


def test_pages_stay_small(tmp_path: Path):
    """A network of 120 axes, logged 20,000 times; and 50 runs of it."""
    sizes = {f"features.denseblock{i // 24}.denselayer{i}.conv{i % 2}": 32 * (1 + i % 4) for i in range(120)}
    kept = {name: tuple(range(0, size, 2)) for name, size in sizes.items()}
    rows = [{"stage": stage, "step": step, **dict.fromkeys(curves.NAMES, step % 97 + step / 1e5), "export_macs": step}
            for stage in ("search", "finetune") for step in range(1, 10_001)]  # fmt: skip
    results = [copy.deepcopy(RESULT) | {"run_key": f"run-{i}", "seed": i % 5, "variant": str(i // 5)} for i in range(50)]
    runs = [Finished(tmp_path / result["run_key"], result, Architecture(sizes, kept), rows) for result in results]
    text = run_page(runs[0], curves.read(rows, {"macs": 50.0}))
    assert "lowest and the highest point are drawn" in text
    assert len(text) < 500_000
    assert len(sweep_page(tmp_path, runs, [])) < 1_000_000


def test_the_command_is_shown(tmp_path: Path):
    folder = put(tmp_path, "one", 1.0)
    (folder / "config.yaml").write_text(yaml.safe_dump(asdict(compose(["budget.macs=0.3", "options.keep=['a b']", "seed=2"]))))
    (run,) = collect(tmp_path)
    assert """pas search budget.macs=0.3 'options.keep=["a b"]' seed=2""" in Page(run_page(run, [])).text
