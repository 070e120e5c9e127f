"""What runs need of each other, so that of several at a time none holds a place only to wait."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pas.config import Config
from pas.keys import dense_key, source_of
from pas.result import FILE
from pas.runs import run_folder

TRAINED = "dense.json"
"""In the folder of a dense parent once it is trained."""


@dataclass(frozen=True)
class Needs:
    """The folders of a run, of the dense parent that it trains or shares (None: its weights are given), and of the run whose widths it
    takes, as controls do.
    """

    run: Path
    parent: Path | None
    source: Path | None

    def wait_for(self, other: Needs) -> bool:
        """Whether the run `other`, under way, makes what this one needs and doesn't find yet: a dense parent, a source, or itself.

        Both may be started at once all the same: then one waits for the other's lock (`pas.runs.open_folder`).
        """
        if self.parent is not None and self.parent == other.parent and not (self.parent / TRAINED).exists():
            return True
        made = {self.run, self.source} & {other.run, other.source} - {None}
        return any(folder is not None and not (folder / FILE).exists() for folder in made)


def needs(config: Config) -> Needs:
    """What the run of a configuration needs."""
    source = source_of(config)
    return Needs(
        run=run_folder(config),
        parent=None if config.given else Path(config.paths.runs) / dense_key(config),
        source=None if source is None else run_folder(source),
    )
