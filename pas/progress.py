"""Progress of a stage: a bar on a terminal, a plain line every ten seconds elsewhere."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

REDRAW_SECONDS = 0.2
LINE_SECONDS = 10.0

Values = Mapping[str, str | float]


class Bar:
    """Shows step, remaining time, and what `update` is given. Silent without a console."""

    def __init__(self, stage: str, total: int, done: int, console: Console | None) -> None:
        self.stage, self.total, self.first, self.console = stage, total, done, console
        self.started = self.drawn = time.monotonic()
        self.interval = LINE_SECONDS
        self.progress: Progress | None = None
        if console is not None and console.is_terminal:
            self.interval = REDRAW_SECONDS
            columns = (TextColumn(stage), BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn(compact=True))
            self.progress = Progress(*columns, TextColumn("{task.fields[values]}"), console=console, auto_refresh=False)
            self.task = self.progress.add_task(stage, total=total, completed=done, values="")

    def __enter__(self) -> Self:
        if self.progress is not None:
            self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.progress is not None:
            self.progress.stop()

    def due(self) -> bool:
        """Whether it is time to draw again: values that cost something to read are read only then."""
        return self.console is not None and time.monotonic() - self.drawn >= self.interval

    def update(self, step: int, values: Values) -> None:
        if self.console is None:
            return
        self.drawn = time.monotonic()
        shown = "  ".join(f"{name} {shorten(value)}" for name, value in values.items())
        if self.progress is not None:
            self.progress.update(self.task, completed=step, values=shown, refresh=True)
        else:
            rest = (self.drawn - self.started) / max(step - self.first, 1) * (self.total - step)
            line = f"{self.stage} {step}/{self.total}  {rest:.0f} s left  {shown}"
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def shorten(value: str | float) -> str:
    """Numbers with four digits, text as it is."""
    return value if isinstance(value, str) else f"{value:.4g}"
