"""Where a run's rows go: always to `metrics.jsonl`, and to wandb when `logger=wandb`.

The file is the record, wandb a mirror of it. An offline run can't be continued, so every start is a segment of its own,
gathered with the others of its experiment in a group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from pas import distributed
from pas.config import Config
from pas.errors import PasError
from pas.runs import Run

SUMMARY = ("top1", "params", "macs", "latency_ms", "form")


class Mirror(Protocol):
    """What is used of a wandb run."""

    summary: Any

    def log(self, data: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Tracker:
    """Takes the rows of a run, and its result at the end."""

    run: Run
    mirror: Mirror | None

    def log(self, row: Mapping[str, Any]) -> None:
        """One row {stage, epoch, step, loss, ...}. In the mirror each stage has curves of its own, over its own steps."""
        self.run.log(row)
        if self.mirror is not None:
            stage = row["stage"]
            self.mirror.log({f"{stage}/{name}": value for name, value in row.items() if isinstance(value, int | float)})

    def finish(self, result: Mapping[str, Any]) -> None:
        """The searched network's numbers, as the mirror's summary."""
        if self.mirror is not None:
            self.mirror.summary.update({name: result["searched"][name] for name in SUMMARY})
            self.mirror.summary.update({f"dense/{name}": result["dense"][name] for name in SUMMARY[:-1]})


@contextmanager
def track(run: Run, config: Config) -> Iterator[Tracker]:
    """A tracker of this run; what it mirrors to is closed whatever happens."""
    mirror = None
    with distributed.together():
        if config.logger.name is not None and run.writes:
            mirror = _wandb(run, config)
    if mirror is None:
        yield Tracker(run, None)
        return
    try:
        yield Tracker(run, mirror)
    except BaseException:
        mirror.finish(exit_code=1)
        raise
    mirror.finish()


def _wandb(run: Run, config: Config) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise PasError("logger=wandb needs the package wandb: pip install wandb") from error
    mirror = wandb.init(
        project=config.logger.project,
        mode=config.logger.mode,  # type: ignore[arg-type]  # one of its words, as the configuration has checked
        dir=run.folder,
        group=config.logger.group or run.key.rpartition("-s")[0],
        name=run.key,
        job_type="search",
        tags=[config.model.name, config.data.name, config.method.name],
        config=asdict(config),
        settings=wandb.Settings(console="off", quiet=True),
    )
    for stage in ("dense", "search", "finetune"):
        wandb.define_metric(f"{stage}/step")
        wandb.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
    return mirror
