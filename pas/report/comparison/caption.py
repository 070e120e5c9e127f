"""What is the same for all rows of a table, and what its columns mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pas.amount import UNITS, counted
from pas.environment import commit_of
from pas.report.collect import dense_top1
from pas.report.comparison.lines import Line, Result, results_of
from pas.report.comparison.pairs import best, paired

NOTE = (
    "Top-1 in percent, mean ± standard deviation (of a sample, n - 1) over n seeds; a number in brackets says of how many, where they are "
    "fewer. A method that learns is cut after the search's epochs, a one-shot method before any training; totals of epochs are equal "
    'unless a column says otherwise. "cut": right after it; "norms": with batch norms re-estimated from up to 2,048 augmented training '
    'images; "one epoch": after the first epoch that follows the cut; "end": after the last one, never the best. "vs": the mean difference '
    "to the best baseline at the end (at the cut, without fine-tuning), paired by seeds, with Student's interval and the two-sided p of a "
    "paired t-test. That baseline is chosen by the same test results; with given weights, seeds differ only in the fine-tuning and in the "
    "images that channels are judged by. Costs are shares of the dense network's; latency is measured by turns with it in one process, and "
    "left out where that was too noisy to tell. Seconds are without training the dense parent and measuring; runs beside each other "
    "(compare.processes) slow each other."
)
LISTED = 5


def title(cell: str, group: Sequence[Line]) -> str:
    """Network, data, split, top-1 of the dense parent, and the cell."""
    found = results_of(group)
    words = f"{found[0]['model']} on {found[0]['data']} ({found[0]['split']}), dense {dense_top1(found):.2f} %"
    return f"{words}: {cell}" if cell else words


def caption(group: Sequence[Line], baselines: Sequence[str]) -> str:
    """Limits with what was reached, epochs, seeds, devices and commits, and how many tests the table holds."""
    found = results_of(group)
    seeds = sorted({seed for line in group for seed in line.results})
    environments = [result["environment"] for result in found]
    devices = _distinct(f"{one['device']}, {counted(one['threads'], 'thread')}" for one in environments)
    commits = _distinct(commit_of(one, 8) or "unknown" for one in environments)
    words = [*_limits(found), *_epochs(found), _seeds(seeds).capitalize()]
    words.append(f"Device: {devices[0]}" if len(devices) == 1 else f"{len(devices)} devices: {_listed(devices)}")
    words.append(f"Commit: {commits[0]}" if len(commits) == 1 else f"{len(commits)} commits: {_listed(commits)}")
    return ". ".join([*words, *_tests(group, baselines)]) + "."


def epochs(line: Line) -> str:
    """Of search and fine-tuning together; empty where it isn't known."""
    return ", ".join(_distinct(str(total) for total in _totals(line.results.values())))


def absent(missing: Sequence[tuple[str, int]], total: int) -> str:
    """Which runs (place in the table, seed) have no result; empty if all have."""
    seeds: dict[str, list[int]] = {}
    for place, seed in missing:
        seeds.setdefault(place, []).append(seed)
    named = [f"{place} ({_seeds(of)})" for place, of in seeds.items()]
    verb = "is" if len(missing) == 1 else "are"
    return f"{len(missing)} of {total} runs {verb} missing: {_listed(named)}" if missing else ""


def _limits(found: Sequence[Result]) -> list[str]:
    """Of every limit the target and what was reached, as shares of the dense cost."""
    words = []
    for limits in zip(*(result["limits"] for result in found), strict=True):
        name = {"params": "Parameters", "latency": "Latency"}.get(limits[0]["kind"], UNITS["macs"])
        target, reached = (_range([limit[which] / limit["dense"] for limit in limits]) for which in ("target", "achieved"))
        words.append(f"{name}: at most {target} of dense, reached {reached}")
    return words


def _range(shares: Sequence[float]) -> str:
    low, high = f"{min(shares):.1%}", f"{max(shares):.1%}"
    return low if low == high else f"{low} to {high}"


def _totals(found: Iterable[Result]) -> list[int]:
    """Epochs of search and fine-tuning of the results that say them."""
    return [result["epochs"]["search"] + result["epochs"]["finetune"] for result in found if "epochs" in result]


def _epochs(found: Sequence[Result]) -> list[str]:
    totals = set(_totals(found))
    known = [result["epochs"] for result in found if "epochs" in result]
    searched = _distinct(str(one["search"]) for one in known if one["search"])
    dense = _distinct(str(one["dense"]) for one in known if one["dense"])
    words = [f"Epochs of the dense parent: {', '.join(dense)}"] if dense else []
    if totals == {0}:
        words.append("No fine-tuning")
    elif len(totals) == 1:
        among = f", of which methods that learn search for {' or '.join(searched)}" if searched else ""
        words.append(f"Epochs of search and fine-tuning: {totals.pop()}{among}")
    return words


def _tests(group: Sequence[Line], baselines: Sequence[str]) -> list[str]:
    """What the differences are of, or why there are none."""
    if len(group) == 1:
        return []
    base = best(group, baselines)
    if base is None:
        return [f"No differences, as no baseline has a result here ({', '.join(baselines)}; compare.baselines=[ROW] names others)"]
    gaps = [gap for line in group if (gap := paired(line, base)) is not None]
    tests = sum(gap.test is not None for gap in gaps)
    words = [f"The p-values are of {counted(tests, 'test')}, not corrected for their number"] if tests else []
    if any(len(gap.gaps) == 1 for gap in gaps):
        words.append("No test of a single pair of seeds")
    if any(len(gap.gaps) > 1 and gap.test is None for gap in gaps):
        words.append("No test of differences that are all equal")
    return words


def _seeds(seeds: Sequence[int]) -> str:
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"


def _distinct(words: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(words))


def _listed(words: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    return "; ".join(words[:LISTED]) + (f"; and {len(words) - LISTED} more" if len(words) > LISTED else "")
