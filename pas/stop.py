"""Stopping when asked: Ctrl-C (SIGINT), and the SIGTERM and SIGUSR2 that schedulers send, end a training between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
"""The last one is what Slurm sends a while before a job's time is over, when it was asked to (`sbatch --signal=USR2@120`)."""
Handler = Callable[[int, FrameType | None], None]


class Stopped(KeyboardInterrupt):
    """Somebody asked the process to end. Not an Exception: it stops a sweep, not only the job at hand."""

    def __init__(self, number: int, where: str = "") -> None:
        super().__init__(where)
        self.number = number
        self.where = where

    @property
    def exit_code(self) -> int:
        """What a shell expects: 130 after SIGINT, 143 after SIGTERM, 140 after SIGUSR2."""
        return 128 + self.number


@contextmanager
def stoppable() -> Iterator[None]:
    """These signals raise `Stopped` inside, wherever the program is."""

    def handler(number: int, _: FrameType | None) -> None:
        raise Stopped(number)

    with _handling(handler):
        yield


@contextmanager
def asked() -> Iterator[Callable[[], int | None]]:
    """Inside, a first signal is only noted: the function that this gives returns its number. A second one raises `Stopped`.

    So does the end when a first one came after the last question, and a failure after it: data workers get the same signal,
    and a torn-down one is a RuntimeError here.
    """
    noted: list[int] = []

    def handler(number: int, _: FrameType | None) -> None:
        if noted:
            raise Stopped(number)
        noted.append(number)

    with _handling(handler):
        try:
            yield lambda: noted[0] if noted else None
        except RuntimeError as error:
            if noted:
                raise Stopped(noted[0]) from error
            raise
    if noted:  # it came after the last look
        raise Stopped(noted[0])


@contextmanager
def _handling(handler: Handler) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only the main thread may say what signals do
        yield
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old if old is not None else signal.SIG_DFL)
