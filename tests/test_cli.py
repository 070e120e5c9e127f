"""The `pas` command as a person meets it; in forked processes where starting up is not the point. The main job on real digits, short."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from forks import Forks

from pas import cli
from pas.inspection import inspect
from pas.report.drawing import weights_between
from pas.wanted import Wanted

SHORT = (
    "data.subset=200", "train.dense.epochs=1", "train.search.epochs=2", "train.finetune.epochs=1", "cost.runtime=torch",
    "cost.repeats=5", "cost.warmup=1", "hardware.threads=1", "method.options.samples=8",
)  # fmt: skip


def python(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    where = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1]), "COLUMNS": "120"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=where, capture_output=True, text=True, timeout=300
    )


def pas(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return python("-m", "pas", *arguments, folder=folder)


def refused(run: subprocess.CompletedProcess[str]) -> str:
    """The one line of a refusal."""
    assert run.returncode == 2, run.stderr
    assert run.stdout == ""
    assert run.stderr.startswith("pas: ")
    assert run.stderr.count("\n") == 1, run.stderr
    return run.stderr.strip()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["search", "inspect", "evaluate", "report", "example: pas search"]),
        (["--help"], ["search", "inspect", "evaluate", "report", "example: pas search"]),
        (
            ["search", "--help"],
            ["pas search -m budget.macs=0.3,0.5,0.7 seed=0,1", "or any timm name", "data=", "fashion_mnist"],
        ),
        (["inspect", "--help"], ["example: pas inspect mobilenetv2_100", "--json", "--image-size"]),
        (["evaluate", "--help"], ["example: pas evaluate runs/RUN/bundle --data digits", "PAS_DATA"]),
        (["diff", "--help"], ["example: pas diff runs/RUN runs/OTHER", "--figure", "Exits with"]),
        (["report", "--help"], ["example: pas report runs/"]),
        (["publish", "--help"], ["example: pas publish runs/RUN --name", "--formats", "PAS_MODELS", "--licence"]),
        (["table", "--help"], ["example: pas table search_cost", "--list", "table.yaml"]),
    ],
)
def test_help(arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert left.value.code == 0
    shown = capsys.readouterr().out
    for word in words:
        assert word in shown
    assert max(len(line) for line in shown.splitlines()) <= 121


def test_help_lists_every_choice(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        cli.main(["search", "-h"])
    shown = re.split(r"[\s,]+", capsys.readouterr().out)
    for file in (Path(cli.__file__).parent / "conf").glob("*/*.yaml"):
        assert file.stem in shown


def test_help_and_refusals_do_not_wait_for_torch(tmp_path: Path):
    for arguments in (["--help"], ["search", "foo=1"]):
        code = (
            "import sys, pas.cli\n"
            f"try: pas.cli.main({arguments})\n"
            "except SystemExit: print('torch' in sys.modules, 'timm' in sys.modules, 'matplotlib' in sys.modules)"
        )
        assert python("-c", code, folder=tmp_path).stdout.splitlines()[-1] == "False False False"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["search", "train.search.lrr=1"], "train.search.lrr: there is no such setting; did you mean lr?"),
        (["search", "seed=abc"], "seed=abc: must be a whole number"),
        (["search", "-m", "seed=0,1", "data=cifar"], "data=cifar: did you mean cifar10 or cifar100?"),
        (["search", "-m", "budget.macs=0.5,7.5"], "budget.macs=7.5: must be a share in (0, 1]"),
        (["search", "-m", "seed=0,x"], "seed=x: must be a whole number"),
        (["search", "-m", "seed=0,1", "--cfg", "job"], "leave out -m"),
        (["inspect", "mobilenetv2_1000"], "no model is called 'mobilenetv2_1000': did you mean mobilenetv2_100"),
        (["evaluate", "nowhere", "--data", "digits"], "no bundle at nowhere"),
        (["report", "nowhere"], "no folder nowhere"),
        (["publish", "nowhere", "--name", "pas_tiny"], "no run at nowhere"),
        (["publish", "nowhere", "--name", "PaS"], "--name PaS: must be ARCH or ARCH.TAG"),
        (["search", "--lamda", "1"], "--lamda: there is no such option"),
    ],
)
def test_refused_in_one_line(arguments: list[str], words: str, forks: Forks, tmp_path: Path):
    assert words in refused(forks.run(*arguments, folder=tmp_path))
    assert not list(tmp_path.iterdir())  # nothing was begun


def test_wrong_model_is_refused_before_anything_is_trained(forks: Forks, tmp_path: Path):
    run = forks.run("search", "model=resnet19", folder=tmp_path)
    assert "no model is called 'resnet19': did you mean resnet1" in refused(run)


def test_show_the_configuration(tmp_path: Path):
    shown = pas("search", "--cfg", "job", "model=resnet18", "budget.macs=0.25", folder=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "name: resnet18" in shown.stdout
    assert "macs: 0.25" in shown.stdout


@pytest.mark.parametrize("words", [["--cfg", "job", "budget.latency=0.4"], ["budget.latency=0.4", "--cfg", "job"]])
def test_a_limit_on_latency_may_stand_anywhere(words: list[str], forks: Forks, tmp_path: Path):
    shown = forks.run("search", *words, folder=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "  macs: null\n  params: null\n  latency: 0.4\n" in shown.stdout


def test_inspect(forks: Forks, tmp_path: Path):
    run = forks.run("inspect", "resnet18", "--image-size", "64", "--json", folder=tmp_path)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    sizes = {axis["name"]: axis["size"] for axis in found["axes"] if axis["prunable"]}
    assert sizes["conv1"] == 64
    assert sizes["layer4.1.conv1"] == 512
    frozen = {axis["name"]: axis["frozen"] for axis in found["axes"] if not axis["prunable"]}
    assert all(frozen.values())
    assert found["params"] == 11_689_512


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    with pytest.raises(SystemExit) as left:
        cli.main(["inspect", *words])
    out, err = capsys.readouterr()
    assert left.value.code == 0, err
    return out.splitlines()


def test_inspect_takes_the_images_channels(capsys: pytest.CaptureFixture[str]):
    lines = shown(capsys, "repvgg_nano", "--num-classes", "10", "--in-chans", "1", "--image-size", "32")
    assert lines[0].startswith("repvgg_nano: ")
    assert "2.84 M MACs" in lines[0]  # 2,912,896 with three channels, less 2 x 9 x 16 at 16 x 16 places


def test_inspect_fits_into_80_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = shown(capsys, "mobilenetv2_mini", "--num-classes", "10")
    assert max(len(line) for line in lines) <= 80
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in lines[2:-2]}
    assert len(rows) == 18  # a line an axis, none of them wrapped
    assert rows["x"].endswith(" it is an input of the network")
    assert rows["classifier"].endswith(" it is an output of the network")
    assert rows["blocks.1.0.conv_pw"].startswith("96 9.9 % 1.3 % blocks.1.0.conv_pw[0] +4")
    monkeypatch.setenv("COLUMNS", "160")
    wide = shown(capsys, "mobilenetv2_mini", "--num-classes", "10")
    assert any("blocks.1.0.conv_pw[0], blocks.1.0.bn1[0], blocks.1.0.conv_dw[0]" in line for line in wide)


def test_inspect_says_what_an_axis_is_tied_to(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """conv1 of a ResNet-18: the stem and two blocks that add to it."""
    lines = shown(capsys, "resnet18", "--image-size", "64", "--axis", "conv1")
    assert lines[0] == "conv1: 64 channels, prunable"
    assert lines[2] == "lives in  conv1.weight[0]"
    assert "          layer2.0.downsample.0.weight[1]" in lines
    assert lines[-2:] == ["tied by   aten.add_ in layer1.0", "          aten.add_ in layer1.1"]
    monkeypatch.setenv("COLUMNS", "120")
    table = shown(capsys, "resnet18", "--image-size", "64")
    assert any("tied by add in layer1.0, add in layer1.1" in line for line in table)
    with pytest.raises(SystemExit) as left:
        cli.main(["inspect", "resnet18", "--axis", "conv"])
    assert left.value.code == 2
    assert "no axis 'conv', and no layer; did you mean conv1" in capsys.readouterr().err
    several = shown(capsys, "resnet18", "--image-size", "64", "--axis", "layer[34].*.conv1")
    found = [line.partition(":")[0] for line in several if " channels, " in line]
    assert found == ["layer3.0.conv1", "layer3.1.conv1", "layer4.0.conv1", "layer4.1.conv1"]


def test_inspect_draws_the_axes(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """A bar for each axis with its name, an arc for each weight between two: 8 blocks, of which the last is read by the classifier."""
    words = ["repvgg_nano", "--num-classes", "10", "--image-size", "32"]
    shown(capsys, *words, "--svg", str(tmp_path / "axes.svg"))
    drawing = (tmp_path / "axes.svg").read_text()
    assert "repvgg_nano: 8 prunable axes" in drawing
    for name in ("stem", "stages.2.1", "stages.3.0", "head.fc"):
        assert f"<!-- {name} -->" in drawing
    signature = inspect(Wanted("repvgg_nano", image_size=32, num_classes=10))
    assert len(weights_between(signature, [axis for axis in signature.axes if axis.size > 1])) == 9
    with pytest.raises(SystemExit):
        cli.main(["inspect", *words, "--svg", str(tmp_path / "axes.gif")])
    assert "axes.gif: the name must end in .png, .svg, .pdf" in capsys.readouterr().err


def test_inspect_a_network_that_computes_with_its_tables() -> None:
    """LeViT's tables of positions need values when it is put into eval mode, which networks on the meta device lack."""
    signature = inspect(Wanted("levit_128s", num_classes=10))
    assert sum(axis.prunable for axis in signature.axes) == 50


def test_inspect_a_network_of_ones_own(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "inspected.py").write_text(
        "from torch import nn\n\n\ndef make(num_classes, in_chans):\n"
        "    return nn.Sequential(nn.Conv2d(in_chans, 12, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 36, num_classes))\n\n\n"
        "def other(classes):\n    return nn.Linear(1, classes)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = ["--entry", "inspected:make", "--image-size", "8", "--num-classes", "5", "--in-chans", "2"]
    found = json.loads("\n".join(shown(capsys, *words, "--json")))
    assert [(axis["size"], axis["prunable"]) for axis in found["axes"]] == [(2, False), (12, True), (5, False)]
    assert found["model"] == "inspected:make"
    assert found["params"] == 12 * 2 * 9 + 12 + 5 * 12 * 36 + 5
    assert shown(capsys, *words)[0].startswith("inspected:make: 1 prunable axes, ")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--entry", "timm.models:resnet18"], "pas: a network of your own needs the side of its image: --image-size PIXELS"),
        (["--entry", "nowhere:make", "--image-size", "8"], "pas: model.entry=nowhere:make: No module named 'nowhere'"),
        (["--entry", "json:loads", "--image-size", "8"], "model.entry=json:loads: called with num_classes=1000, in_chans=3: TypeError: "),
        ([], "one of the arguments MODEL --entry --onnx is required"),
        (["resnet18", "--entry", "json:loads"], "not allowed with argument MODEL"),
    ],
)
def test_inspect_refuses(words: list[str], told: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as left:
        cli.main(["inspect", *words])
    assert left.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err


@pytest.fixture(scope="module")
def sweep(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Three budgets, of which the first can't be met."""
    folder = tmp_path_factory.mktemp("sweep")
    return folder, forks.run("search", "-m", "budget.macs=0.001,0.5,0.7", *SHORT, folder=folder, COLUMNS="120")


def test_sweep_goes_on_after_a_failing_run(sweep: tuple[Path, subprocess.CompletedProcess[str]]):
    folder, run = sweep
    assert run.returncode == 2
    assert "Traceback" not in run.stderr
    assert "pas: 1 of 3 runs failed; the same command does them again:\n  budget.macs=0.001 " in run.stderr
    assert "the smallest possible is" in run.stderr
    assert len(list(folder.glob("runs/*/result.json"))) == 2
    assert not list(folder.glob("*.log"))
    assert [path.name for path in folder.iterdir()] == ["runs"]


def test_a_sweep_over_budgets_ends_with_its_front(sweep: tuple[Path, subprocess.CompletedProcess[str]]):
    folder, run = sweep
    figure = folder / re.search(r"^front: (.*)$", run.stdout, re.MULTILINE)[1]
    assert figure.name == "repvgg_nano-digits-macs.png"
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_table_and_paths_at_the_end(sweep: tuple[Path, subprocess.CompletedProcess[str]]):
    folder, run = sweep
    for words in ("top-1", "parameters", "MACs", "latency (torch, batch 1)", "faster"):
        assert words in run.stdout
    figure, bundle = (
        folder / re.search(rf"^{name}: (.*)$", run.stdout, re.MULTILINE)[1] for name in ("figure", "bundle")
    )
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert (bundle / "config.json").exists()


def test_finished_run_is_shown_at_once(sweep: tuple[Path, subprocess.CompletedProcess[str]]):
    folder, before = sweep
    written = lambda: {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}  # noqa: E731
    files = written()
    again = pas("search", *SHORT, folder=folder)
    assert written() == files
    assert again.returncode == 0, again.stderr
    assert again.stderr == ""
    assert again.stdout in before.stdout
    assert "bundle: " in again.stdout


def test_evaluate_and_report_a_finished_run(forks: Forks, sweep: tuple[Path, subprocess.CompletedProcess[str]]):
    folder, _ = sweep
    result = json.loads(next(folder.glob("runs/*/result.json")).read_text())
    run = forks.run("evaluate", f"runs/{result['run_key']}/bundle", "--data", "digits", folder=folder)
    assert run.returncode == 0, run.stderr
    assert f"digits: top-1 {result['searched']['top1']:.2f} %" in run.stdout
    run = forks.run("report", "runs", folder=folder)
    assert run.returncode == 0, run.stderr
    assert "runs/results.csv" in run.stdout.splitlines()
    assert all((folder / line).exists() for line in run.stdout.splitlines())
    assert result["run_key"] in (folder / "runs" / "results.md").read_text()
