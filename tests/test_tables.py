"""`pas table`: means by hand, what is refused, and the tables of the project's experiments, which are what their results say."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest
from results import put

from pas.cli import main
from pas.comparison.jobs import jobs, result_of
from pas.compose import compose, compose_all
from pas.config import Config
from pas.errors import PasError
from pas.keys import method_label
from pas.publish.names import located
from pas.publish.sealed import architecture_of
from pas.report.figures import figure_of
from pas.report.labels import put_names
from pas.report.tables.cells import cells
from pas.report.tables.spec import read
from pas.report.tables.text import as_csv, markdown, results_behind
from pas.tables import CSV, MARKDOWN, make, names, results_of, write

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENTS = ROOT / "experiments"
QUARTER = {"kind": "macs", "target": 25.0, "achieved": 25, "dense": 100}
YAML = """\
title: Two methods
command: pas compare experiment=NAME
missing: needs a GPU
against: pas
columns:
  top-1, %: {of: top1, where: {share: 0.5}}
  pas minus it: {of: gap, where: {share: 0.5}}
  fewer MACs: {of: fewer MACs, where: {share: 0.5}}
  images/s: {}
rows:
  pas: {runs: {method: pas}}
  uniform: {runs: {method: uniform, data: [digits, cifar10]}}
  absent: {runs: {method: smcp}, missing: needs ImageNet}
  theirs: {published: {"top-1, %": "80.10", images/s: 3256}, source: their README, tag: stated}
  unknown: {unknown: not found}
figure: {y: ["top-1, %"]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """experiments/two: three seeds of `pas` and two of `uniform` at half the MACs, and one at a quarter that no column wants."""
    place = tmp_path / "experiments" / "two"
    for seed, top1 in enumerate((81.0, 83.0, 85.0)):
        put(place / "results", f"pas-s{seed}", top1, seed=seed)
    for seed, top1 in enumerate((80.0, 81.0)):
        put(place / "results", f"uniform-s{seed}", top1, seed=seed, method="uniform")
    put(place / "results", "uniform-quarter-s0", 70.0, method="uniform", budget=QUARTER)
    (place / "table.yaml").write_text(YAML)
    return place


def words(folder: Path) -> dict[tuple[str, str], str]:
    table = read(folder)
    return {place: cell.words for place, cell in cells(table, results_of(table, folder)).items()}


def test_means_by_hand(folder: Path) -> None:
    """81, 83 and 85 have the mean 83 and, of a sample, the deviation 2; 80 and 81 have 80.5 and sqrt(0.5) = 0.71. Over the seeds that both
    have, `pas` is 1 and 2 above: 1.5 ± 0.71. Of 100 MACs 49 are left: 2.04 times fewer.
    """
    found = words(folder)
    assert found["pas", "top-1, %"] == "83.00 ± 2.00 (n=3)"
    assert found["pas", "pas minus it"] == ""
    assert found["uniform", "top-1, %"] == "80.50 ± 0.71 (n=2)"
    assert found["uniform", "pas minus it"] == "+1.50 ± 0.71 (n=2)"
    assert found["pas", "fewer MACs"] == "2.04x"
    assert found["absent", "top-1, %"] == "not run: needs ImageNet"
    assert (found["theirs", "top-1, %"], found["theirs", "images/s"], found["theirs", "fewer MACs"]) == ("80.10", "3256", "")
    assert not any(found["unknown", label] for label in ("top-1, %", "fewer MACs", "images/s"))


def test_the_mean_over_shares_and_its_interval(folder: Path) -> None:
    """By hand: gaps of seeds 0 and 1 at half of the MACs 81 - 80 and 83 - 81, at a quarter of them 72 - 70 and 75 - 69, so 1.5 and 4 in the
    mean; their mean 2.75, standard error 1.25, Student's quantile of one degree 12.706: 15.88 to both sides. Seed 2 isn't of all.
    """
    for seed, top1 in enumerate((72.0, 75.0)):
        put(folder / "results", f"pas-quarter-s{seed}", top1, seed=seed, budget=QUARTER)
    put(folder / "results", "uniform-quarter-s1", 69.0, seed=1, budget=QUARTER, method="uniform")
    columns = "  both: {of: gap, over: [0.5, 0.25]}\n  interval: {of: 'gap, 95 %', over: [0.5, 0.25]}\n"
    (folder / "table.yaml").write_text(YAML.replace("  images/s: {}\n", f"{columns}  images/s: {{}}\n"))
    text = (folder / "table.yaml").read_text()
    (folder / "table.yaml").write_text(text.replace("  absent:", "  half: {runs: {method: uniform, share: 0.5}}\n  absent:"))
    found = words(folder)
    assert found["half", "both"] == "", "a row of one share has no mean over two"
    assert found["uniform", "both"] == "+2.75 ± 1.77 (n=2)"
    assert found["uniform", "interval"] == "-13.13 to +18.63 (n=2)"
    assert found["pas", "both"] == found["pas", "interval"] == ""
    made = make(folder.parent, "two")
    assert len(results_behind(made.table, made.cells, "uniform")) == 4
    for file in folder.glob("results/uniform-quarter-s1/*.json"):
        file.unlink()
    assert words(folder)["uniform", "interval"] == "no interval (n=1)"
    for file in folder.glob("results/uniform-quarter-s0/*.json"):
        file.unlink()
    assert words(folder)["uniform", "interval"] == "not run: needs a GPU"


def test_a_table_follows_its_results(folder: Path) -> None:
    file = folder / "results" / "uniform-s1" / "result.json"
    file.unlink()
    assert words(folder)["uniform", "top-1, %"] == "80.00 (n=1)"
    (folder / "results" / "uniform-s0" / "result.json").unlink()
    assert words(folder)["uniform", "top-1, %"] == "not run: needs a GPU"


def test_rows_and_columns_of_different_data_have_nothing_to_say(folder: Path) -> None:
    text = YAML.replace("MACs, where: {share: 0.5}", "MACs, where: {data: imagefolder}")
    (folder / "table.yaml").write_text(text)
    found = words(folder)
    assert found["uniform", "fewer MACs"] == "", "digits or cifar10 can't be imagefolder"
    assert found["pas", "fewer MACs"] == "not run: needs a GPU", "pas may be of any data"


def test_what_is_written(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder / "results")  # the experiments lie above
    with pytest.raises(SystemExit) as ended:
        main(["table", "two"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert shown == (folder / "table.md").read_text()
    assert "| theirs | 80.10 |  |  | 3256 | their README (stated) |" in shown
    assert "| unknown |  |  |  |  | not found |" in shown
    assert "Command: `pas compare experiment=NAME`." in shown
    assert "| pas | 0, 1, 2 | unknown | cpu, threads: 2 | 1.0 s, 2.0 s, 3.0 s |" in shown
    assert (folder / "table.png").stat().st_size > 1000
    lines = {(one["row"], one["column"]): one for one in csv.DictReader(io.StringIO((folder / "table.csv").read_text()))}
    pas, theirs = lines["pas", "top-1, %"], lines["theirs", "images/s"]
    assert (pas["mean"], pas["std"], pas["n"], pas["seeds"], pas["source"]) == ("83", "2", "3", "0 1 2", "this project")
    assert (theirs["mean"], theirs["n"], theirs["source"], theirs["tag"]) == ("3256", "", "their README", "stated")
    assert ("theirs", "fewer MACs") not in lines
    with pytest.raises(SystemExit):
        main(["table", "--list"])
    assert capsys.readouterr().out == "two  2 of 3 rows run  Two methods\n"


def test_results_that_lie_elsewhere(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    (folder / "results" / "uniform-s0").rename(runs / "uniform-s0")
    assert words(folder)["uniform", "top-1, %"] == "81.00 (n=1)"
    with pytest.raises(SystemExit):
        main(["table", "two", "--folder", str(folder.parent), "--runs", str(runs)])
    assert "| uniform | 80.50 ± 0.71 (n=2) |" in capsys.readouterr().out
    for place in ("../nowhere/results", "results/none/at/all"):
        (folder / "table.yaml").write_text(f"results: [{place}]\n{YAML}")
        with pytest.raises(PasError, match=f"there is no folder .*{place} to look for results in"):
            make(folder.parent, "two")


def test_rows_of_another_program(folder: Path) -> None:
    """Its own command, and its own name instead of this project's."""
    text = YAML.replace("uniform: {runs: {method: uniform,", "uniform: {source: Other 1.2, command: other run, runs: {method: uniform,")
    assert text != YAML
    (folder / "table.yaml").write_text(text)
    made = make(folder.parent, "two")
    page, numbers = markdown(made.table, made.cells, None), as_csv(made.table, made.cells)
    assert "| uniform | 80.50 ± 0.71 (n=2) |" in page
    assert re.search(r"\n\| uniform \|.*\| Other 1.2 \|\n", page)
    assert "| uniform | `other run` | 0, 1 |" in page
    assert {line["source"] for line in csv.DictReader(io.StringIO(numbers)) if line["row"] == "uniform"} == {"Other 1.2"}


def test_one_bad_table_does_not_hide_the_others(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder.parent / "a").mkdir()
    (folder.parent / "a" / "table.yaml").write_text("title: [")
    with pytest.raises(SystemExit) as ended:
        main(["table", "--list", "--folder", str(folder.parent)])
    assert ended.value.code == 2
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("a    pas: ")
    assert second == "two  2 of 3 rows run  Two methods"


def test_a_source_of_several_lines_stays_in_its_row(folder: Path) -> None:
    (folder / "table.yaml").write_text(YAML.replace("source: their README", 'source: "their\\nREADME"'))
    made = make(folder.parent, "two")
    assert "| their README (stated) |" in markdown(made.table, made.cells, None)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("images/s: {}", "images/s: {of: top1, where: {share: 0.5}, over: [0.5]}", "says which shares a column is of"),
        ("images/s: {}", "images/s: {of: top1, over: [0.5, 0.5]}", "must be different shares above 0"),
        ("of: fewer MACs", "of: fewer macs", "there is no quantity 'fewer macs'; did you mean fewer MACs?"),
        ("method: pas}", "methd: pas}", "results have no field 'methd'; did you mean method?"),
        ("data: [digits, cifar10]", "epoch.dense: 8", "results have no field 'epoch.dense'; did you mean epochs?"),
        ("where: {share: 0.5}}\n  images", "where: {shares: 0.5}}\n  images", "results have no field 'shares'; did you mean share?"),
        ("where: {share: 0.5}}\n  images", "where: {share: half}}\n  images", "share: half: must be a number, or a list of them"),
        ("method: smcp", "method: {name: smcp}", "must be a text or a number, or a list of them"),
        (YAML, "[1, 2]", "a table has a title, columns and rows"),
        (YAML, "", "title: a value is needed"),
        ("  pas: {runs: {method: pas}}", "  pas:", "rows"),
        ("tag: stated", "tag: remembered", "published values need a tag: stated, restated, digitised, inferred"),
        (", source: their README", "", "published values need a source"),
        ("images/s: 3256", "image/s: 3256", "row 'theirs': there is no column 'image/s'; did you mean images/s?"),
        ("against: pas", "against: theirs", "the quantity 'gap' needs against"),
        ("unknown: {unknown: not found}", "unknown: {}", "a row has runs, or else published values or the reason why"),
        ("title: Two methods", "titel: Two methods", "titel: there is no such setting"),
        ('y: ["top-1, %"]', "y: [top-1]", "figure: there is no column 'top-1'"),
        ("title: Two methods", "title: [", "table.yaml is no YAML"),
        ("  pas: {runs", "  pas: {runs: {method: l0}}\n  pas: {runs", "duplicate key"),
    ],
)
def test_refusals(folder: Path, old: str, new: str, told: str) -> None:
    assert old in YAML
    (folder / "table.yaml").write_text(YAML.replace(old, new, 1))
    with pytest.raises(PasError) as refused:
        make(folder.parent, "two")
    assert str(refused.value).startswith(str(folder / "table.yaml"))
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


def test_two_results_of_one_seed_are_refused(folder: Path) -> None:
    put(folder / "results", "pas-s1-tuned", 90.0, seed=1, settings="12345678")
    with pytest.raises(PasError, match=r"row 'pas', column 'top-1, %': pas-s1 and pas-s1-tuned are both of seed 1; say which"):
        make(folder.parent, "two")
    (folder / "table.yaml").write_text(YAML.replace("pas: {runs: {method: pas}}", 'pas: {runs: {settings: "12345678"}}'))
    assert words(folder)["pas", "top-1, %"] == "90.00 (n=1)"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["table", "two"], "no folder experiments with tables here or above: go to a checkout of the project, or give its"),
        (["table", "--list", "--folder", "nowhere"], "nowhere holds no table.yaml"),
        (["table", "tow", "--folder", "there"], "no table 'tow' in there; did you mean two?"),
        (["table", "--folder", "there"], "say which table: pas table NAME; pas table --list names them"),
    ],
)
def test_refusals_of_the_command(
    arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there" / "two").mkdir(parents=True)
    (tmp_path / "there" / "two" / "table.yaml").write_text(YAML)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.startswith("pas: ")
    assert told in error
    assert error.count("\n") == 1


def test_names_of_points_cover_nothing(tmp_path: Path) -> None:
    figure = figure_of(6, 4)
    axes = figure.subplots()
    points = [(1.0, 1.0), (1.05, 1.0), (1.0, 1.03), (1.04, 1.03), (0.97, 0.99), (3.0, 3.0)]  # five that lie close together
    axes.plot(*zip(*points, strict=True), "o")
    axes.set(xlim=(0, 3.05), ylim=(0, 3.3))
    put_names(axes, points, [f"a name of point {number}" for number in range(6)])
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
    assert len(boxes) == 6
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    assert not any(box.contains(*point) for box in boxes for point in axes.transData.transform(points))
    assert boxes[-1].x1 < axes.bbox.x1, "the last has no room to the right"


def test_tables_do_not_wait_for_torch(folder: Path) -> None:
    arguments = ["table", "two", "--folder", str(folder.parent)]
    code = f"import sys, pas.cli\ntry: pas.cli.main({arguments!r})\nexcept SystemExit: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "False", done.stderr


def test_the_example_of_the_readme_is_a_table(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", (EXPERIMENTS / "README.md").read_text(), re.DOTALL)
    (tmp_path / "table.yaml").write_text(example)
    put(tmp_path / "results", "pas-s0", 81.0, epochs={"dense": 20, "search": 4, "finetune": 16})
    found = words(tmp_path)
    assert found["pas", "top-1, %"] == "81.00 (n=1)"
    assert found["pas", "at half: fewer MACs"] == "2.04x"
    assert found["tuned", "top-1, %"] == "not run: needs a GPU"


# -- the project's own


@pytest.mark.parametrize("name", names(EXPERIMENTS))
def test_a_table_that_is_kept_is_what_its_results_say(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {file: (EXPERIMENTS / name / file).read_text() for file in (MARKDOWN, CSV)}
    written: dict[str, str] = {}
    monkeypatch.setattr("pas.tables.write_text", lambda path, text: written.update({path.name: text}))
    monkeypatch.setattr("pas.report.tables.figure.save", lambda figure, path: path)
    write(make(EXPERIMENTS, name))
    assert written == kept, f"pas table {name} makes it again"


@pytest.mark.parametrize("name", ["fashion_mnist_repvgg/ablation", "cifar10_mobilenetv2"])
def test_rows_are_those_of_the_comparison(name: str) -> None:
    """The command of a table makes the very runs that the table shows."""
    made = make(EXPERIMENTS, name)
    found = jobs([f"experiment={name.replace('/', '_')}"])
    assert found[0].config.compare.folder == f"experiments/{name}"
    assert list(dict.fromkeys(job.row for job in found)) == list(made.table.rows)
    for row in made.table.rows:
        keys = {result_of(job, EXPERIMENTS / name).parent.name for job in found if job.row == row}
        assert {result["run_key"] for result in results_behind(made.table, made.cells, row)} == keys


@pytest.mark.parametrize("name", ["cifar10_resnet20/methods", "cifar10_resnet20/untuned", "fashion_mnist_methods"])
def test_rows_of_the_methods_are_those_of_their_comparison(name: str) -> None:
    folder, made = EXPERIMENTS / name, make(EXPERIMENTS, name)
    keys: dict[str, set[str]] = {}
    for line in csv.DictReader(io.StringIO((folder / "comparison.csv").read_text())):
        keys.setdefault(line["row"], set()).add(line["run_key"])
    assert {row: {result["run_key"] for result in results_behind(made.table, made.cells, row)} for row in made.table.rows} == keys


# -- what is too large to run here


def composed(command: str) -> Config:
    """The first configuration of a command in a table."""
    words = shlex.split(command)
    overrides = [word for word in words[words.index("search") + 1 :] if word != "-m"]
    return compose_all(overrides)[0]


@pytest.mark.parametrize("name", ["imagenet_pruning", "imagenet_family"])
def test_commands_make_what_their_rows_look_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    table = read(EXPERIMENTS / name)
    for label, row in table.rows.items():
        if row.runs is None:
            continue
        config = composed(table.command_of(row))
        assert (config.model.label, method_label(config)) == (row.runs["model"], row.runs["method"]), label
        limit = config.budget.latency if row.runs.get("budget.kind") == "latency" else config.budget.macs
        assert limit == row.runs.get("share", limit), label
        assert (config.data.name, config.data.root, config.hardware.device) == ("imagefolder", "IMAGENET", "cuda")


@pytest.mark.parametrize(
    ("experiment", "batch", "search_lr", "epochs", "first", "second", "tuning_lr", "alpha", "both"),
    [
        # 10 * (512 / 256) * 0.1^3 = 0.02 in epochs 81 to 89: 9 of them; 0.128 * 2 * 0.1^1 = 0.0256 from epoch 52 of 90 on: 38 epochs,
        # a tenth at 60 and again at 80, after 8 and 28 of them; 5 * 3.7275^2 = 69.47, as the published table sums to 3.7275 GMACs
        ("imagenet_resnet50", 512, 0.02, 38, 8, 28, 0.0256, 5 * 3.7275**2, 0.0),
        # from epoch 42 on: 48 epochs, a tenth after 18 and 38 of them; 0.1 * 11.8134^2 = 13.96
        ("imagenet_repvgg", 512, 0.02, 48, 18, 38, 0.0256, 0.1 * 11.8134**2, 0.0),
        # 10 * (1024 / 256) * 0.1^3 = 0.04; 0.128 * 4 * 0.1 = 0.0512; the strength is RepVGG-B1's, 14 in shares (155 on its 0.2995 GMACs)
        ("imagenet_mobilenetv2", 1024, 0.04, 38, 8, 28, 0.0512, 155 * 0.2995**2, 1.0),
    ],
)
def test_the_published_recipe(
    experiment: str, batch: int, search_lr: float, epochs: int, first: int, second: int, tuning_lr: float, alpha: float, both: float
) -> None:
    config = compose([f"experiment={experiment}"])
    search, tuning = config.train.search, config.train.finetune
    assert (search.epochs, search.batch_size, search.lr, search.schedule) == (9, batch, search_lr, "none")
    assert (tuning.epochs, tuning.batch_size, tuning.lr, tuning.schedule) == (epochs, batch, tuning_lr, "step")
    assert [share * epochs for share in tuning.milestones] == pytest.approx([first, second], abs=0.01)
    for stage in (search, tuning):
        assert (stage.optimizer, stage.momentum, stage.weight_decay, stage.decay_norms) == ("momentum", 0.9, 1e-4, True)
        assert (stage.label_smoothing, stage.mixup, stage.cutmix, stage.warmup_epochs, stage.ema) == (0, 0, 0, 0, 0)
    options = config.method.options
    assert (config.method.name, options["initial"], options["decay"], options["both_sides"]) == ("pas_paper", 1.0, 1.0, both)
    assert options["alpha"] == pytest.approx(alpha, rel=0.01)
    assert (config.train.dense.epochs, config.model.pretrained, config.options.round_to, config.data.val_fraction) == (0, True, 1, 0)
    assert (config.data.image_size, config.data.flip, config.data.split) == (224, True, "test")


def test_the_published_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs by hand: a 3x3 convolution at each of 112, 56, 28, 14 and 7 px, biases, and a classifier of 1000 classes."""
    monkeypatch.chdir(ROOT)
    config = compose(["experiment=imagenet_repvgg_widths"])
    tuning = config.train.finetune
    assert (tuning.epochs, tuning.batch_size, tuning.lr, tuning.momentum, tuning.weight_decay) == (120, 8 * 128, 0.256 * 4, 0.875, 3.052e-5)
    assert (tuning.schedule, tuning.warmup_epochs, tuning.decay_norms, config.model.pretrained) == ("cosine", 0, False, False)
    assert (config.train.dense.epochs, config.train.search.epochs, config.method.name) == (0, 0, "given")
    assert config.options.start is not None
    found = architecture_of(located(config.options.start))
    dense, kept = list(found.sizes.values()), list(found.widths().values())
    assert dense == [64, *[128] * 4, *[256] * 6, *[512] * 16, 2048]
    assert kept == [8, 20, 16, 15, 10, 49, 41, 36, 34, 39, 31,
                    125, 107, 102, 97, 106, 123, 127, 170, 196, 202, 232, 269, 315, 425, 475, 450, 2048]  # fmt: skip
    sides = [112, *[56] * 4, *[28] * 6, *[14] * 16, 7]
    for widths, macs, params in ((dense, 11.8134e9, 51.83e6), (kept, 2.102e9, 18.66e6)):
        pairs = list(zip([3, *widths[:-1]], widths, strict=True))
        assert sum(9 * a * b * side**2 for (a, b), side in zip(pairs, sides, strict=True)) == pytest.approx(macs, rel=5e-4)
        assert sum(9 * a * b + b for a, b in pairs) + 1000 * (widths[-1] + 1) == pytest.approx(params, rel=5e-4)


def test_budgets_of_the_common_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """At least as many fewer MACs as the rows of DepGraph that they stand beside, 2.13x and 2.57x, and hardly more; equal epochs in all."""
    monkeypatch.setenv("PAS_DATA", "/nowhere")
    own = [row for row in read(EXPERIMENTS / "cifar10_resnet56").rows.values() if row.runs]
    for experiment, epochs in (("cifar10_resnet56", 100), ("cifar10_resnet56_reduced", 3)):
        found = jobs([f"experiment={experiment}", "seed=0"])
        assert 2.12 < 1 / found[0].config.budget.macs < 2.14
        assert 2.57 < 1 / found[-1].config.budget.macs < 2.61
        assert {job.config.train.search.epochs + job.config.train.finetune.epochs for job in found} == {epochs}
        rows = {(row.runs["method"], row.runs["share"]) for row in own if row.command.split()[0] == f"experiment={experiment}"}
        assert rows == {(method_label(job.config), job.config.budget.macs) for job in found}


def test_every_published_value_has_a_source() -> None:
    for name in names(EXPERIMENTS):
        for label, row in read(EXPERIMENTS / name).rows.items():
            if row.published:
                assert row.source, f"{name}, {label}"
                assert len(row.source) > 5, f"{name}, {label}"
            if row.runs is None and not row.published:
                assert "not found" in json.dumps(row.unknown), f"{name}, {label}"
