"""The searched result as data: per axis, the channels that stay."""

from __future__ import annotations

import difflib
import json
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pas.disk import parse_json
from pas.errors import PasError

FILE = "architecture.json"
SCHEMA = 1
WIDEST = 1 << 20  # channels; what a file says of its sizes is not believed without a limit


@dataclass(frozen=True)
class Architecture:
    """Which channels of every prunable axis stay, in ascending order.

    `sizes` holds the dense width of each axis, `kept` the indices that stay. Both have the axes in the order of the
    network.
    """

    sizes: dict[str, int]
    kept: dict[str, tuple[int, ...]]

    def __post_init__(self) -> None:
        if list(self.sizes) != list(self.kept):
            raise PasError("an architecture needs the kept channels of exactly the axes that it lists")
        for name, indices in self.kept.items():
            _check(name, indices, self.sizes[name])

    def keep(self, axis: str, indices: Iterable[int]) -> Architecture:
        """A new architecture in which only these channels of `axis` stay.

        Raises PasError for an unknown axis, no channels at all, or an index outside of the axis.
        """
        if axis not in self.sizes:
            near = difflib.get_close_matches(axis, self.sizes, n=3) or [name for name in self.sizes if axis in name][:3]
            more = ", ..." if len(self.sizes) > 5 else ""
            hint = f"; near: {', '.join(near)}" if near else f"; axes: {', '.join(list(self.sizes)[:5])}{more}"
            raise PasError(f"no prunable axis {axis!r}{hint} (a signature's axes say where each lives, and why one is frozen)")
        if isinstance(indices, int):
            raise PasError(f"axis {axis!r}: channels are listed, such as range({indices}) for the first {indices}")
        listed = _listed(axis, indices)
        if len(set(listed)) != len(listed):
            raise PasError(f"axis {axis!r}: an index is listed twice")
        return replace(self, kept={**self.kept, axis: tuple(sorted(listed))})

    def widths(self) -> dict[str, int]:
        """The number of channels that stay, per axis."""
        return {name: len(indices) for name, indices in self.kept.items()}

    def to_json(self) -> str:
        """Plain JSON: ``{"schema": 1, "axes": {name: {"size": n, "keep": [...]}}}``; an axis that stays whole has no
        "keep".
        """
        axes: dict[str, dict[str, object]] = {}
        for name, size in self.sizes.items():
            axes[name] = {"size": size}
            if len(self.kept[name]) < size:
                axes[name]["keep"] = list(self.kept[name])
        return json.dumps({"schema": SCHEMA, "axes": axes}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """Read what `to_json` wrote. Raises PasError when it is something else, or from a newer version."""
        try:
            data = parse_json(text.encode(errors="replace"))
        except ValueError as error:
            raise PasError(f"not an architecture: {error}") from error
        if (
            not isinstance(data, Mapping)
            or not isinstance(data.get("axes"), Mapping)
            or not isinstance(data.get("schema"), int)
        ):
            raise PasError('not an architecture: it needs "schema" and "axes"')
        if data["schema"] > SCHEMA:
            raise PasError(f"this architecture has schema {data['schema']}, newer than {SCHEMA}: update pas to read it")
        sizes, kept = {}, {}
        for name, axis in data["axes"].items():
            if (
                not isinstance(axis, Mapping)
                or not _whole(axis.get("size"))
                or not 1 <= axis["size"] <= WIDEST
                or not isinstance(axis.get("keep", []), list)
            ):
                raise PasError(f'architecture: axis {name!r} needs a "size" and, if it is sliced, a list "keep"')
            sizes[name] = axis["size"]
            indices = axis.get("keep", list(range(axis["size"])))
            if not all(_whole(i) for i in indices) or len(set(indices)) != len(indices):
                raise PasError(f'architecture: axis {name!r}: "keep" must list distinct whole numbers')
            kept[name] = tuple(sorted(indices))
        return cls(sizes, kept)


def architecture_file(path: Path) -> Path:
    """Where the architecture of a run's folder or of a bundle lies; a file is itself. Raises PasError when there is none."""
    if not path.exists():
        raise PasError(f"nothing at {path}: give an {FILE}, a run's folder or a bundle")
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise PasError(f"{path} holds no {FILE}: it is no bundle, or a run whose search hasn't ended")
    return file


def read_architecture(path: Path) -> Architecture:
    """The architecture in a file, a run's folder or a bundle. Raises PasError, naming the file, when it can't be read."""
    file = architecture_file(path)
    try:
        return Architecture.from_json(file.read_text(encoding="utf-8", errors="replace"))
    except PasError as error:
        raise PasError(f"{file}: {error}") from error


def _listed(axis: str, indices: Iterable[Any]) -> list[int]:
    """Whole numbers of any kind (of numpy, of torch). Raises PasError for a mask, or what is no number."""
    try:
        given = list(indices)
    except TypeError:
        raise PasError(f"axis {axis!r}: channels are listed, such as range(0, 8), not {indices!r}") from None
    if any(isinstance(i, bool) or str(getattr(i, "dtype", "")) in ("bool", "torch.bool") for i in given):
        raise PasError(f"axis {axis!r}: this is a mask; channels are listed: numpy.flatnonzero(mask)")
    try:
        return [operator.index(i) for i in given]
    except TypeError:
        raise PasError(f"axis {axis!r}: channels are whole numbers, not {given[0]!r}") from None


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check(name: str, indices: tuple[int, ...], size: int) -> None:
    if not indices:
        raise PasError(f"axis {name!r} would lose its last channel: keep at least one")
    if indices[0] < 0 or indices[-1] >= size:
        raise PasError(
            f"axis {name!r} has channels 0 to {size - 1}, not {indices[0] if indices[0] < 0 else indices[-1]}"
        )
