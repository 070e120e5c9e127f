"""What is made of a comparison's results: statistics, tables, captions, numbers and figures."""

from __future__ import annotations

import copy
import csv
import io
import math
from pathlib import Path

import matplotlib.image
import pytest
from matplotlib.figure import Figure
from results import RESULT
from rich.console import Console

from pas.errors import PasError
from pas.report.collect import dense_top1
from pas.report.comparison.caption import absent, caption
from pas.report.comparison.figure import are_curves, draw
from pas.report.comparison.lines import Line, lines, results_of
from pas.report.comparison.numbers import as_csv
from pas.report.comparison.pairs import Pairing, best, paired
from pas.report.comparison.table import markdown, show, table

LIMIT = RESULT["budget"]


def result(top1: float, macs: int = 50, **recovery: float) -> dict:
    found = copy.deepcopy(RESULT)
    found["searched"] |= {"top1": top1, "macs": macs}
    return {**found, "recovery": recovery}


def changed(top1: float = 80.0, **changes: object) -> dict:
    """A result with other fields; of those that are objects, with other fields inside."""
    found = result(top1)
    for name, value in changes.items():
        found[name] = {**found.get(name, {}), **value} if isinstance(value, dict) else value
    return found


def three() -> list[Line]:
    found = [("uniform", "half", seed, result(top1, cut=10.0 + seed)) for seed, top1 in enumerate((80.0, 81.0, 82.0))]
    found += [("magnitude", "half", seed, result(70.0)) for seed in range(3)]
    found += [("pas", "half", seed, result(top1, 48)) for seed, top1 in enumerate((81.0, 83.0, 85.0))]
    return lines(found)


# -- statistics


def test_a_paired_test_by_hand() -> None:
    """Differences 1, 2 and 3 have the mean 2 and the deviation 1: t = 2 sqrt(3) with two degrees of freedom, for which
    P(|T| > t) = 1 - t / sqrt(2 + t^2) = 1 - sqrt(12 / 14). So |T| < q in 95 % where q^2 = 2 * 0.95^2 / (1 - 0.95^2).
    """
    uniform, magnitude, pas = three()
    assert best([uniform, magnitude, pas], ["uniform", "magnitude"]) is uniform
    gap = paired(pas, uniform)
    assert gap is not None
    assert (gap.difference, gap.gaps) == (2.0, (1.0, 2.0, 3.0))
    assert gap.test is not None
    assert gap.test.p == pytest.approx(1 - math.sqrt(12 / 14))
    reach = math.sqrt(2 * 0.95**2 / (1 - 0.95**2)) / math.sqrt(3)
    assert (gap.test.low, gap.test.high) == pytest.approx((2 - reach, 2 + reach))
    assert paired(uniform, uniform) is None


@pytest.mark.parametrize("gaps", [(1.0,), (1.0, 1.0), (80.1 - 79.1, 81.1 - 80.1, 82.1 - 81.1)])
def test_where_nothing_can_be_tested(gaps: tuple[float, ...]) -> None:
    assert Pairing(gaps).difference == pytest.approx(1.0)
    assert Pairing(gaps).test is None


def test_baselines_are_chosen_over_the_seeds_that_they_share() -> None:
    """Over all seeds `b` has the higher mean, 85 to 82, by a seed that `a` doesn't have; on the one that both have it's 80 to 82."""
    a, b = lines([("a", "", 0, result(82.0)), ("b", "", 0, result(80.0)), ("b", "", 1, result(90.0))])
    assert best([a, b], ["a", "b"]) is a
    c, d = lines([("c", "", 0, result(90.0)), ("d", "", 1, result(80.0)), ("d", "", 2, result(80.0))])
    assert best([c, d], ["c", "d"]) is d, "none in common: the one of most seeds"
    assert best([a, b], ["e"]) is None


# -- the table


def test_a_table_by_hand() -> None:
    """81 ± 1 at the end, 11 ± 1 after the cut; 50 and 48 of 100 MACs; latencies of 1 and 2 ms; 2 + 3 s of search and fine-tuning. The
    differences of `magnitude` are -10, -11 and -12: t = -11 sqrt(3), p = 1 - sqrt(363 / 365) = 0.0027.
    """
    header, rows = table(three(), ["uniform", "magnitude"])
    assert header == ["method", "n", "cut", "end", "vs uniform", "95 % interval", "p", "MACs", "latency", "search s", "fine-tune s"]
    assert rows[0] == ["uniform", "3", "11.00 ± 1.00", "81.00 ± 1.00", "baseline", "", "", "50.0%", "50.0%", "2.0", "3.0"]
    assert rows[1][4:7] == ["-11.00", "-13.48 to -8.52", "0.003"]
    assert rows[2][2:8] == ["", "83.00 ± 2.00", "+2.00", "-0.48 to +4.48", "0.074", "48.0%"]
    text = markdown(three(), ["uniform"], "1 of 10 runs is missing: pas, half (seed 3)")
    assert "| pas | 3 |  | 83.00 ± 2.00 | +2.00 | -0.48 to +4.48 | 0.074 | 48.0% | 50.0% | 2.0 | 3.0 |" in text
    assert "|---|---:|---:|" in text
    assert "1 of 10 runs is missing: pas, half (seed 3)" in text


def test_a_difference_says_how_many_pairs_it_is_of() -> None:
    found = [("uniform", "", seed, result(80.0 + seed)) for seed in (0, 1)] + [("pas", "", seed, result(81.0)) for seed in (0, 1, 2)]
    _, rows = table(lines(found), ["uniform"])
    assert rows[1][3] == "+0.50 (2)"
    assert rows[1][4:6] == ["-5.85 to +6.85", "0.500"], "gaps 1 and 0: 0.5 ± 12.706 / 2, t = 1 with one degree of freedom"


def test_a_clear_difference() -> None:
    """Gaps 10, 10.01 and 10.02: t = 10.01 sqrt(3) / 0.01 = 1734, p about 2 / t^2 = 3e-7."""
    found = [("a", "", seed, result(70.0)) for seed in range(3)] + [("b", "", seed, result(80.0 + seed / 100)) for seed in range(3)]
    assert table(lines(found), ["a"])[1][1][5] == "<0.001"


def test_without_fine_tuning_the_end_is_the_cut() -> None:
    spared = {"search": 0.0, "finetune": 0.0}
    found = [("a", "", 0, changed(80.0, seconds=spared, recovery={"cut": 80.0})), ("b", "", 0, changed(81.0, seconds=spared))]
    header, rows = table(lines(found), ["a"])
    assert header == ["method", "n", "cut", "vs a", "MACs", "latency"]
    assert [row[2:4] for row in rows] == [["80.00", "baseline"], ["81.00", "+1.00"]]


def test_without_a_baseline_there_are_no_differences() -> None:
    assert table(three(), ["other"])[0] == ["method", "n", "cut", "end", "MACs", "latency", "search s", "fine-tune s"]
    assert "No differences, as no baseline has a result here (other; compare.baselines=[ROW] names others)." in caption(three(), ["other"])


def test_epochs_that_differ_are_a_column() -> None:
    learns, at_once = {"dense": 4, "search": 1, "finetune": 2}, {"dense": 4, "search": 0, "finetune": 3}
    scratch = {"dense": 4, "search": 0, "finetune": 7}
    equal = lines([("a", "", 0, changed(epochs=learns)), ("b", "", 0, changed(epochs=at_once))])
    assert "epochs" not in table(equal, [])[0]
    told = caption(equal, [])
    assert "Epochs of the dense parent: 4. Epochs of search and fine-tuning: 3, of which methods that learn search for 1." in told
    header, rows = table([*equal, *lines([("c", "", 0, changed(epochs=scratch))])], [])
    assert [row[header.index("epochs")] for row in rows] == ["3", "3", "7"]


def test_each_limit_has_its_cost() -> None:
    limits = [LIMIT, {"kind": "params", "target": 12.0, "achieved": 10, "dense": 20}]
    (line,) = lines([("a", "", 0, changed(limits=limits))])
    header, rows = table([line], [])
    assert rows[0][header.index("parameters")] == "50.0%"
    assert caption([line], []).startswith("MACs: at most 50.0% of dense, reached 49.0%. Parameters: at most 60.0% of dense, reached 50.0%.")


@pytest.mark.parametrize("width", [80, 200])
def test_no_number_is_cut_off(width: int) -> None:
    """The rows of a table are 110 columns wide."""
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    show(three(), ["uniform"], "", console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    (line,) = [line for line in text.splitlines() if line.startswith("pas ")]
    assert " ".join(line.split()) == "pas 3 83.00 ± 2.00 +2.00 -0.48 to +4.48 0.074 48.0% 50.0% 2.0 3.0"
    assert "…" not in text
    assert "never the best" in " ".join(text.split()), "the note"


# -- captions


def test_a_caption_by_hand() -> None:
    other = {"device": "cuda:0 (H100)", "commit": "0123456789", "dirty": True}
    found = [("a", "", 0, changed(80.0)), ("b", "", 0, changed(81.0, environment=other)), ("b", "", 2, changed(81.0, environment=other))]
    assert caption(lines(found), ["a"]) == (
        "MACs: at most 50.0% of dense, reached 49.0%. Seeds 0, 2. 2 devices: cpu, 2 threads; cuda:0 (H100), 2 threads. 2 commits: unknown; "
        "01234567 with changes. No test of a single pair of seeds."
    )
    assert "The p-values are of 2 tests, not corrected for their number." in caption(three(), ["uniform"])
    equal = [(row, "", seed, result(top1)) for row, top1 in (("a", 80.0), ("b", 81.0)) for seed in (0, 1)]
    assert "No test of differences that are all equal." in caption(lines(equal), ["a"])


def test_missing_runs_are_named_and_no_more_than_five() -> None:
    assert absent([], 9) == ""
    assert absent([("a, half", 1), ("b", 1), ("a, half", 2)], 63) == "3 of 63 runs are missing: a, half (seeds 1, 2); b (seed 1)"
    assert absent([(name, 0) for name in "abcdefg"], 9).endswith("e (seed 0); and 2 more")


# -- what can't be compared


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (changed(split="val"), "pas, half is of split val, uniform, half of test: no comparison"),
        (changed(model="resnet18"), "pas, half is of model resnet18, uniform, half of repvgg_nano: no comparison"),
        (changed(limits=[{**LIMIT, "target": 30.0}]), "pas, half has the budget macs 0.3, uniform, half macs 0.5: no comparison"),
        (changed(limits=[{**LIMIT, "kind": "params"}]), "pas, half has the budget params 0.5, uniform, half macs 0.5: no comparison"),
    ],
)
def test_unlike_results_in_a_cell_are_refused(other: dict, words: str) -> None:
    assert len(lines([("uniform", "half", 0, result(80.0)), ("pas", "other", 0, other)])) == 2
    with pytest.raises(PasError, match=words):
        lines([("uniform", "half", 0, result(80.0)), ("pas", "half", 0, other)])


@pytest.mark.parametrize(("relative", "differs"), [(False, False), (True, True)])
def test_a_latency_in_ms_is_the_same_budget_whatever_the_dense_network_took(relative: bool, differs: bool) -> None:
    limits = [[{"kind": "latency", "target": 1.0, "achieved": 0.9, "dense": dense, "relative": relative}] for dense in (2.0, 3.0)]
    found = [(row, "", 0, changed(limits=one)) for row, one in zip("ab", limits, strict=True)]
    if differs:
        with pytest.raises(PasError, match=r"b has the budget latency 0\.3333, a latency 0\.5: no comparison"):
            lines(found)
    else:
        assert len(lines(found)) == 2


# -- numbers


def test_a_latency_that_is_too_noisy_is_not_told_but_written() -> None:
    noisy = changed(latency={"share": 0.5, "share_low": 0.4, "share_high": 0.6})
    calm = changed(latency={"share": 0.5, "share_low": 0.48, "share_high": 0.52})
    (line,) = lines([("a", "", 0, noisy), ("a", "", 1, calm)])
    header, rows = table([line], [])
    assert rows[0][header.index("latency")] == "50.0% (1)"
    assert "latency" not in table(lines([("a", "", 0, noisy)]), [])[0]
    row = next(csv.DictReader(io.StringIO(as_csv([line]))))
    assert (row["latency"], row["latency_low"], row["latency_high"]) == ("0.5", "0.4", "0.6")


def test_the_csv_by_hand() -> None:
    found = changed(80.0, epochs={"dense": 4, "search": 1, "finetune": 2}, recovery={"cut": 12.5, "renorm": None})
    row = next(csv.DictReader(io.StringIO(as_csv(lines([("a", "half", 3, found)])))))
    assert row == {
        "row": "a", "cell": "half", "seed": "3", "run_key": "key", "model": "repvgg_nano", "data": "digits", "split": "test",
        "method": "pas", "budget": "macs", "target": "0.5", "achieved": "0.49", "dense_epochs": "4", "search_epochs": "1",
        "finetune_epochs": "2",
        "cut": "12.5", "renorm": "", "epoch": "", "end": "80", "dense_top1": "90", "macs": "0.5", "params": "0.5",
        "latency": "0.5", "latency_low": "", "latency_high": "", "dense_ms": "2", "searched_ms": "1",
        "prepare_s": "1", "search_s": "2", "finetune_s": "3", "measure_s": "",
        "device": "cpu", "threads": "2", "commit": "", "dirty": "",
    }  # fmt: skip


# -- figures


def budgets(**last: object) -> list[Line]:
    """Three cells at 50, 40 and 30 % of the MACs, of which the last one is changed."""
    found = []
    for cell in range(3):
        for row in ("uniform", "pas"):
            for seed in (0, 1):
                one = result(80.0 - 5 * cell + seed, 50 - 10 * cell, cut=20.0 + seed, renorm=40.0)
                found.append((row, str(cell), seed, one | (last if cell == 2 else {})))
    return lines(found)


@pytest.mark.parametrize(
    ("change", "curves"),
    [
        ({}, True),
        ({"data": "cifar10"}, False),
        ({"dense": {**RESULT["dense"], "top1": 91.0}}, False),
        ({"searched": {**RESULT["searched"], "macs": 50}}, False),
    ],
)
def test_a_figure_has_curves_where_only_the_cost_differs(change: dict, curves: bool, tmp_path: Path) -> None:
    found = budgets(**change)
    assert are_curves(found) == curves
    assert draw(found, tmp_path / "comparison.png").stat().st_size > 10_000


def test_the_end_has_a_scale_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """70 to 81 % are a fifth of the height where the cuts' 20 % are shown too."""
    drawn: list[Figure] = []
    monkeypatch.setattr("pas.report.comparison.figure.save", lambda figure, path: drawn.append(figure) or path)
    draw(budgets(), tmp_path / "comparison.png")
    cut, norms, end = (panel.get_ylim() for panel in drawn[0].axes)
    assert cut == norms
    assert cut[0] < 20 < 81 < cut[1]
    assert 60 < end[0] < 70 < 81 < end[1]


@pytest.mark.parametrize("rows", [1, 3, 21])
def test_a_panel_a_stage_with_nothing_cut_off(rows: int, tmp_path: Path) -> None:
    """The outermost pixels are the white of the paper."""
    found = lines([(f"a method with a long name, {row}", "", seed, result(60.0 + row + seed, cut=20.0, renorm=40.0 + seed))
                   for row in range(rows) for seed in (0, 1)])  # fmt: skip
    picture = matplotlib.image.imread(draw(found, tmp_path / "comparison.png"))[..., :3]
    for edge in (picture[0], picture[-1], picture[:, 0], picture[:, -1]):
        assert (edge == 1).all()


def test_a_parent_that_was_not_trained_does_not_count() -> None:
    """Of 12 epochs 88 and 90, so 89; of none, for a row that cuts before training, 10."""
    made = [Line(str(top1), "", {0: {**RESULT, "dense": {**RESULT["dense"], "top1": top1}, "epochs": {"dense": epochs}}})
            for top1, epochs in ((88.0, 12), (90.0, 12), (10.0, 0))]  # fmt: skip
    assert dense_top1(results_of(made)) == 89
    assert dense_top1(results_of(made[2:])) == 10, "given weights aren't trained either"
