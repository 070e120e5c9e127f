"""`table.yaml`: what a table shows. Rows, columns, where results lie, and what others have published."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from pas.errors import PasError
from pas.refusal import near, refusal
from pas.report.tables.quantities import GAPS, QUANTITIES
from pas.result import BEFORE, FIELDS

FILE = "table.yaml"
TAGS = {
    "stated": "by those whose result it is, in their text or repository",
    "restated": "by others",
    "digitised": "read off a published plot",
    "inferred": "computed from published code or numbers",
}
"""What a published number rests on. One that is only remembered has no place in a table."""

SHARE = "share"
"""Of the budget in the dense cost; no field of a result, but what budgets are told apart by."""
KNOWN = (SHARE, *FIELDS, *BEFORE, "limits", "latency", "epochs", "recovery", "optimality")
"""What results are chosen by: fields of `result.json`, those inside others with a dot between."""


def listed(wanted: Any) -> list[Any]:
    """The values that a field may have: one, or a list of them."""
    return wanted if isinstance(wanted, list) else [wanted]


def _check(where: dict[str, Any]) -> None:
    for name, wanted in where.items():
        first = name.split(".")[0]
        if first not in KNOWN:
            raise PasError(f"results have no field {name!r}; {near(first, KNOWN)}")
        allowed: tuple[type, ...] = (int, float) if name == SHARE else (str, int, float, type(None))
        if not all(isinstance(value, allowed) for value in listed(wanted)):
            raise PasError(f"{name}: {wanted}: must be {'a number' if name == SHARE else 'a text or a number'}, or a list of them")


@dataclass
class Column:
    """`of`: a quantity of the results, or null for what only published rows have. `where`: fields of the results that it is limited to.

    `over`: shares of the dense cost; of every seed that has all of them, the mean over them is its value.
    """

    of: str | None = None
    where: dict[str, Any] = field(default_factory=dict)
    over: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.of is not None and self.of not in QUANTITIES:
            raise PasError(f"there is no quantity {self.of!r}; {near(self.of, list(QUANTITIES))}")
        _check(self.where)
        if self.over and SHARE in self.where:
            raise PasError(f"over: {self.over} says which shares a column is of, so where can't say it too")
        if len({*self.over}) < len(self.over) or any(share <= 0 for share in self.over):
            raise PasError(f"over: {self.over}: must be different shares above 0")


@dataclass
class Row:
    """A row of this project, which has `runs`, or one of somebody else, which has `published` or `unknown`.

    `runs`: fields of `result.json` and their values (or lists of values), such as ``{method: pas, epochs.dense: 8}``, or the share
    of the budget. `command`: what follows the table's. `missing`: why there is no result, instead of the table's reason. `source`: the
    program that made them, where it is another one; `command` is then the whole command.

    `published`: column -> value. `source`: where it stands; `tag`: one of TAGS. `unknown`: why cells are empty.
    """

    runs: dict[str, Any] | None = None
    command: str = ""
    missing: str | None = None
    published: dict[str, Any] = field(default_factory=dict)
    source: str | None = None
    tag: str | None = None
    unknown: str | None = None

    def __post_init__(self) -> None:
        _check(self.runs or {})
        others = bool(self.published) or self.unknown is not None
        if (self.runs is not None) == others:
            raise PasError("a row has runs, or else published values or the reason why these are unknown")
        if self.published and self.source is None:
            raise PasError("published values need a source")
        if self.published and self.tag not in TAGS:
            raise PasError(f"published values need a tag: {', '.join(TAGS)}")


@dataclass
class Figure:
    """`y`: columns that are drawn, over the column `x`, or, without one, a point a row."""

    y: list[str]
    x: str | None = None


@dataclass
class Table:
    """What a `table.yaml` says. `results`: folders of runs, from that of the file. `command`: what makes them; `missing`: why some aren't
    made. `against`: the row that the quantities "gap" and "gap, 95 %" are the distance to.
    """

    title: str
    columns: dict[str, Column]
    rows: dict[str, Row]
    about: str = ""
    results: list[str] = field(default_factory=lambda: ["results"])
    command: str = ""
    missing: str = ""
    against: str | None = None
    figure: Figure | None = None

    def __post_init__(self) -> None:
        for label, row in self.rows.items():
            for name in row.published:
                self._column(name, f"row {label!r}")
        for name in [*self.figure.y, *([self.figure.x] if self.figure.x else [])] if self.figure else []:
            self._column(name, "figure")
        gap = next((column.of for column in self.columns.values() if column.of in GAPS), None)
        if gap is not None and self.rows.get(self.against or "", Row(unknown="")).runs is None:
            raise PasError(f"the quantity {gap!r} needs against, a row of this table that has runs")

    def _column(self, name: str, where: str) -> None:
        if name not in self.columns:
            raise PasError(f"{where}: there is no column {name!r}; {near(name, list(self.columns))}")

    def command_of(self, row: Row) -> str:
        """What makes the results of a row."""
        return row.command if row.source is not None else f"{self.command} {row.command}".strip()


def read(folder: Path) -> Table:
    """The table of a folder. Raises PasError, in one line that names the file, for whatever doesn't fit."""
    file = folder / FILE
    try:
        given = OmegaConf.load(file)
        if not isinstance(given, DictConfig):
            raise PasError("a table has a title, columns and rows")
        found = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Table), given))
    except OmegaConfBaseException as error:
        raise PasError(f"{file}: {refusal(error, lambda _: [])}") from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise PasError(f"{file} is no YAML: {' '.join(str(error).split())}") from error
    except PasError as error:
        raise PasError(f"{file}: {error}") from error
    assert isinstance(found, Table)
    return found
