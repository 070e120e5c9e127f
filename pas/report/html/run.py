"""The page of a run: what came out under which budget, how it got there, and how to get there again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from pas.command import command
from pas.environment import commit_of
from pas.errors import PasError
from pas.report.collect import Finished
from pas.report.comparison.figure import WORDS
from pas.report.comparison.lines import Line, stages_of
from pas.report.curves import MOST, STAGES, Curve, curve_of
from pas.report.html.document import document, node, row, section, table
from pas.report.html.svg import inline
from pas.report.latency import by_turns, noisy
from pas.report.table import comparison, optimal, reached

RUNGS = {
    "mask_slice": ("masked = sliced, fp64", 1e-10),
    "slice_fuse": ("sliced = fused, fp64", 1e-10),
    "fuse_onnx": ("fused = ONNX Runtime, fp32", 1e-4),
}
"""Of the ladder of equalities: the largest |a - b| / max |a| that counts as equal."""
LADDER = (
    "Error: the largest difference of the logits over the largest logit, on a few test images. Where an axis is normalised over itself, as "
    "by a layer norm, a mask is no slice."
)
PARTS = {"prepare": "dense parent, shared by runs", "search": "search", "finetune": "fine-tuning", "measure": "measuring"}
EPOCHS = {"prepare": "dense", "search": "search", "finetune": "finetune"}


def run_page(run: Finished, curves: Sequence[Curve]) -> str:
    """The whole page, from the files of the run alone."""
    result = run.result
    title = f"{result['model']} on {result['data']} ({result['split']}), method {result['method']}, seed {result['seed']}"
    body = [
        node("header", node("h1", result["run_key"]), node("p", title, class_="lead"), *_command(run)),
        section("Dense against searched", _result(result), *_budget(result), *_latency(result.get("latency"))),
        *_recovery(result),
        section("Widths", _widths(run)),
        section("Curves", *_curves(curves)),
        section("Exactness", _ladder(result["exactness"]), node("p", LADDER, class_="note")),
        section("Time", _time(result)),
        section("Environment", _environment(result["environment"])),
    ]
    return document(result["run_key"], body)


def _bar(dense: float, kept: float, whole: float) -> Element:
    """Two bars over each other, as shares of `whole`; for the eye only, as the numbers stand beside it."""
    rects = [
        node("rect", class_=name, width=f"{100 * value / whole:.4g}", height="10") for name, value in (("dense", dense), ("kept", kept))
    ]
    return node("svg", *rects, class_="bar", viewBox="0 0 100 10", preserveAspectRatio="none", aria_hidden="true")


def _command(run: Finished) -> list[Element]:
    commit = commit_of(run.result["environment"], 10)
    at = "an unknown commit" if commit is None else f"commit {commit}"
    try:
        words = command(run.folder / "config.yaml")
    except PasError as error:
        return [node("p", f"The command isn't known: {error}. It ran at {at}.")]
    return [node("p", f"This command makes it again ({at}):"), node("pre", node("code", words))]


def _result(result: Mapping[str, Any]) -> Element:
    caption = f"The fused form, top-1 on the {result['split']} split of {result['data']} after the last epoch"
    return table(caption, ["", "dense", "searched", "change"], [row(*words) for words in comparison(result)], class_="numbers words")


def _budget(result: Mapping[str, Any]) -> list[Element]:
    lines = [f"Budget: {reached(limit)}." for limit in result["limits"]]
    gap = result.get("optimality")
    return [node("p", line) for line in (*lines, *([f"Optimality: {optimal(gap)}."] if gap is not None else []))]


def _latency(measured: Mapping[str, Any] | None) -> list[Element]:
    """Conditions of the latencies and their intervals, as far as the result has them."""
    if not measured:
        return []
    known = [f"{name} {measured[key]}" for name, key in (("batch", "batch"), ("threads:", "threads")) if key in measured]
    words = [str(measured[name]) for name in ("runtime", "dtype", "layout", "device") if name in measured]
    parts = [f"Latency: {', '.join([*words, *known])}"]
    if {"median_ms", "low_ms", "high_ms", "runs"} <= measured.keys():
        interval = f"95 % interval {measured['low_ms']:.3g} to {measured['high_ms']:.3g}"
        parts.append(f"the median of {measured['runs']} runs of the searched network is {measured['median_ms']:.3g} ms ({interval})")
    ratio = by_turns(measured)
    if ratio is not None:
        parts.append(f"{ratio}, as the table says")
    if noisy(measured):
        parts.append("the machine was too noisy to tell")
    return [node("p", "; ".join(parts) + ".")]


def _recovery(result: Mapping[str, Any]) -> list[Element]:
    line = Line(result["method"], "", {result["seed"]: result})
    points = {WORDS[stage]: mean.mean for stage in stages_of([line]) if (mean := line.top1(stage)) is not None}
    if len(points) < 2:
        return []
    dense = result["dense"]["top1"]
    rows = [_barred(name, 0, value, 100, f"{value:.2f}", f"{value - dense:+.2f}") for name, value in points.items()]
    rows.insert(0, _barred("dense", dense, 0, 100, f"{dense:.2f}", ""))
    caption = f"Top-1 (%) on the {result['split']} split after the channels were cut"
    return [section("Recovery after the cut", table(caption, ["", "", "top-1", "from dense"], rows, class_="numbers bars"))]


def _barred(name: str, dense: float, kept: float, whole: float, *values: str) -> list[Element]:
    first, *others = row(name, *values)
    return [first, node("td", _bar(dense, kept, whole)), *others]


def _widths(run: Finished) -> Element:
    sizes, kept = run.architecture.sizes, run.architecture.widths()
    widest, all_of, stay = max(sizes.values(), default=1), sum(sizes.values()), sum(kept.values())
    rows = [
        _barred(name, size, kept[name], widest, str(kept[name]), str(size), f"{kept[name] / size:.0%}") for name, size in sizes.items()
    ]
    caption = f"Channels of every prunable axis, in the order of the network: {stay:,} of {all_of:,} stay"
    return table(caption, ["axis", "", "searched", "dense", "share"], rows, class_="numbers bars")


def _curves(curves: Sequence[Curve]) -> list[Element]:
    if not curves:
        return [node("p", "There is no metrics.jsonl with numbers beside the result, so there are no curves.")]
    figures = [
        node("figure", node("figcaption", curve.label[0].upper() + curve.label[1:]), inline(curve_of(curve), curve.name, _alt(curve)))
        for curve in curves
    ]
    words = "Loss and top-1 are means over the training images since the point before. Stages follow each other on one scale of steps."
    if any(curve.thinned for curve in curves):
        words += (
            f" Curves of over {MOST} points a stage are thinned: of each of {MOST // 2} equal pieces the lowest and the highest point are "
            "drawn; metrics.jsonl has all."
        )
    return [node("div", *figures, class_="panels"), node("p", words, class_="note")]


def _alt(curve: Curve) -> str:
    """What the curve shows, in words."""
    told = [
        f"{STAGES.get(stage, (stage, ''))[0]} from {points[0][1]:.4g} to {points[-1][1]:.4g} in {len(points)} points"
        for stage, points in curve.stages.items()
    ]
    return "; ".join([f"{curve.label} over steps: {', then '.join(told)}", *([f"target {curve.target:.4g}"] if curve.target else [])])


def _ladder(found: Mapping[str, float | None]) -> Element:
    rows = []
    for name, (words, bound) in RUNGS.items():
        error = found[name]
        verdict = "not measured" if error is None else "equal" if error <= bound else "not equal"
        rows.append(row(words, "" if error is None else f"{error:.1e}", f"{bound:.0e}", verdict))
    return table("The same network in its forms", ["", "error", "bound", "verdict"], rows, class_="numbers")


def _time(result: Mapping[str, Any]) -> Element:
    epochs = result.get("epochs", {})
    rows = [
        row(words, str(epochs.get(EPOCHS.get(name), "")), f"{result['seconds'][name]:.1f}")
        for name, words in PARTS.items() if name in result["seconds"]
    ]  # fmt: skip
    return table("Seconds and epochs of each part", ["", "epochs", "seconds"], rows, class_="numbers")


def _environment(found: Mapping[str, Any]) -> Element:
    return table("What the run ran on", ["what", "value"], [row(name, str(value)) for name, value in found.items()])
