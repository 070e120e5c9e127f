"""The cells of a table: which results belong to each, and what they say."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from pas.errors import PasError
from pas.report.tables.quantities import GAPS, QUANTITIES, Result
from pas.report.tables.spec import SHARE, Row, Table, listed
from pas.result import FILE

NUMBER = re.compile(r"([+-]?\d+(?:\.\d+)?)x?")
"""What a published value has to be to be drawn: 93.77, +0.24, 2.13x."""
NEAR = 5e-4
"""Shares of a budget that differ by less are equal: they are given in three digits."""


@dataclass(frozen=True)
class Cell:
    """What stands in a cell. `values`: the numbers behind it by seed; a published one has none of these. `results`: what they are of."""

    words: str
    values: Mapping[int, float]
    results: Sequence[Result]
    number: float | None = None

    @property
    def mean(self) -> float | None:
        """The number of the cell, if it is one."""
        return sum(self.values.values()) / len(self.values) if self.values else self.number


def cells(table: Table, results: Sequence[Result]) -> dict[tuple[str, str], Cell]:
    """(row, column) -> cell. Raises PasError where two results of one seed fit in a cell."""
    made = {}
    for name, row in table.rows.items():
        for label, column in table.columns.items():
            if row.runs is None:
                made[name, label] = _published(row, label)
            else:
                made[name, label] = _cell(table, results, name, label, column.of)
    return made


def _published(row: Row, label: str) -> Cell:
    words = str(row.published.get(label, ""))
    number = NUMBER.fullmatch(words)
    return Cell(words, {}, (), float(number[1]) if number else None)


def _cell(table: Table, results: Sequence[Result], name: str, label: str, of: str | None) -> Cell:
    column = table.columns[label]
    places = [{**column.where, SHARE: share} for share in column.over] or [column.where]
    if of is None or not all(_meet(table.rows[name].runs or {}, where) for where in places):
        return Cell("", {}, ())
    found = [_matching(table, results, name, label, where) for where in places]
    common = set.intersection(*map(set, found))  # seeds that have them all
    if not common:
        why = table.rows[name].missing or table.missing
        return Cell(f"not run: {why}" if why else "not run", {}, ())
    parts = [_values(table, results, one, name, label, of, where) for one, where in zip(found, places, strict=True)]
    values = {seed: fmean(part[seed] for part in parts) for seed in parts[0] if all(seed in part for part in parts)}
    behind = [result for one in found for seed, result in one.items() if seed in common]
    return Cell(QUANTITIES[of].words(list(values.values())) if values else "", values, behind)


def _values(
    table: Table, results: Sequence[Result], found: Mapping[int, Result], name: str, label: str, of: str, where: Mapping[str, Any]
) -> dict[int, float]:
    """The quantity of these results of a row, by their seeds."""
    numbers = {seed: QUANTITIES[of].of(result) for seed, result in found.items()}
    values = {seed: value for seed, value in numbers.items() if value is not None}
    if of not in GAPS:
        return values
    assert table.against is not None
    other = {} if name == table.against else _matching(table, results, table.against, label, where)
    return {seed: other[seed]["searched"]["top1"] - value for seed, value in values.items() if seed in other}


def _matching(table: Table, results: Sequence[Result], name: str, label: str, where: Mapping[str, Any]) -> dict[int, Result]:
    """The results of a row in a column by their seeds. `where`: the column's fields, with one share where it is over several."""
    fields = [*(table.rows[name].runs or {}).items(), *where.items()]
    found: dict[int, Result] = {}
    for result in results:
        if all(_fits(result, field, wanted) for field, wanted in fields):
            twin = found.setdefault(result["seed"], result)
            if twin is not result and twin["run_key"] != result["run_key"]:
                raise PasError(
                    f"row {name!r}, column {label!r}: {twin['run_key']} and {result['run_key']} are both of seed {result['seed']}; "
                    f"say which, by share or a field of {FILE}, such as settings: {json.dumps(result.get('settings'))}"
                )
    return dict(sorted(found.items()))


def _meet(row: Mapping[str, Any], column: Mapping[str, Any]) -> bool:
    """Whether a result can be of both: a row of one data set has nothing to say in the column of another."""
    return all({*listed(row[field])} & {*listed(column[field])} for field in row.keys() & column.keys())


def _fits(result: Result, field: str, wanted: Any) -> bool:
    if field == SHARE:
        share = result["budget"]["target"] / result["budget"]["dense"]
        return any(abs(share - one) < NEAR for one in listed(wanted))
    value: Any = result
    for name in field.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value in listed(wanted)
