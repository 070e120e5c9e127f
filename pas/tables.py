"""`pas table`: a table of the project's experiments, made again from the results that lie beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pas.comparison.beside import read as read_beside
from pas.disk import write_text
from pas.errors import PasError
from pas.refusal import near
from pas.report.tables.cells import Cell, cells
from pas.report.tables.quantities import Result
from pas.report.tables.spec import FILE, Table, read
from pas.report.tables.text import as_csv, markdown
from pas.result import FILE as RESULT
from pas.result import read_result

FOLDER = "experiments"
MARKDOWN, CSV, FIGURE = "table.md", "table.csv", "table.png"


@dataclass(frozen=True)
class Made:
    """A table: where it lies, what it shows, and its cells by row and column."""

    folder: Path
    table: Table
    cells: dict[tuple[str, str], Cell]

    @property
    def filled(self) -> tuple[int, int]:
        """How many of the rows that this project can fill have results, and how many there are."""
        ours = [name for name, row in self.table.rows.items() if row.runs is not None]
        return sum(any(self.cells[name, label].results for label in self.table.columns) for name in ours), len(ours)


def experiments(given: Path | None) -> Path:
    """The folder of the experiments: the one that is given, or `experiments` in the current directory or above it.

    Raises PasError when there is none with a table in it.
    """
    here = Path.cwd()
    for folder in [given] if given is not None else [one / FOLDER for one in (here, *here.parents)]:
        if names(folder):
            return folder
    where = f"{given} holds no {FILE}" if given is not None else f"no folder {FOLDER} with tables here or above"
    raise PasError(f"{where}: go to a checkout of the project, or give its folder with --folder {FOLDER}")


def names(folder: Path) -> list[str]:
    """The tables of a folder of experiments, such as "search_cost" or "cifar10_resnet20/methods"."""
    return sorted(path.parent.relative_to(folder).as_posix() for path in folder.rglob(FILE)) if folder.is_dir() else []


def make(folder: Path, name: str, runs: Sequence[Path] = ()) -> Made:
    """The table of this name. `runs`: folders with results beside those that it names, such as `runs/` of `pas search`.

    Raises PasError when there is none, for a file that doesn't fit, and for a folder that isn't there.
    """
    known = names(folder)
    if name not in known:
        raise PasError(f"no table {name!r} in {folder}; {near(name, known)}")
    place = folder / name
    table = read(place)
    try:
        return Made(place, table, cells(table, results_of(table, place, runs)))
    except PasError as error:
        raise PasError(f"{place / FILE}: {error}") from error


def results_of(table: Table, folder: Path, runs: Sequence[Path] = ()) -> list[Result]:
    """All results that lie where the table looks, in the order of their names: those of runs in folders of their own, and those of other
    programs as in the folder `beside` of a comparison. Raises PasError for a damaged one, and for a folder that can't be meant.
    """
    found: list[Result] = []
    for place in [*(folder / one for one in table.results), *runs]:
        if not place.is_dir() and (place in runs or not place.parent.is_dir()):  # an experiment's own comes with its first result
            raise PasError(f"there is no folder {place} to look for results in")
        for path in sorted(place.glob(f"*/{RESULT}")):
            result = read_result(path)
            assert result is not None  # the file was just found
            found.append(result)
        found += [read_beside(path) for path in sorted(place.glob("*.json"))]
    return found


def write(made: Made) -> tuple[str, list[Path]]:
    """Write a table as Markdown, as CSV, and as a figure where it asks for one and there are numbers; the Markdown, and the files."""
    figure = None
    if made.table.figure is not None:
        from pas.report.tables.figure import draw

        figure = draw(made.table, made.cells, made.folder / FIGURE)
    text = markdown(made.table, made.cells, FIGURE if figure else None)
    write_text(made.folder / MARKDOWN, text)
    write_text(made.folder / CSV, as_csv(made.table, made.cells))
    return text, [made.folder / MARKDOWN, made.folder / CSV, *([figure] if figure else [])]
