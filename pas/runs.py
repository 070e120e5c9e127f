"""A run's folder: one process at a time, every file whole or absent, `result.json` last.

runs/<run_key>/  config.yaml  metrics.jsonl  checkpoint/  architecture.json  bundle/  figures/  result.json
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import yaml

from pas.config import Config
from pas.disk import ASIDE, parse_json, write_text, writing
from pas.errors import PasError
from pas.keys import run_key
from pas.result import FILE, check_result, read_result

METRICS = "metrics.jsonl"
LOCK = ".lock"


@dataclass(frozen=True)
class Run:
    """A folder that this process may write to. Made by `open_run`; closed with it."""

    folder: Path
    key: str
    metrics: FileIO | None

    @property
    def result_path(self) -> Path:
        return self.folder / FILE

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint"

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"

    @property
    def figures(self) -> Path:
        return self.folder / "figures"

    @property
    def writes(self) -> bool:
        """False in the other processes of a distributed run, whose writing does nothing."""
        return self.metrics is not None

    def finished(self) -> dict[str, Any] | None:
        """The result, if the run has come to its end."""
        return read_result(self.folder)

    def write_text(self, name: str, text: str) -> None:
        """Write a file of this folder so that it is either the old one or the new one, whatever happens."""
        if self.writes:
            write_text(self.folder / name, text)

    def write_json(self, name: str, data: Mapping[str, Any]) -> None:
        """The same, of JSON. `result.json` is checked against its schema first (PasError)."""
        if name == FILE:
            check_result(data)
        self.write_text(name, json.dumps(data, indent=1, allow_nan=False) + "\n")

    def read_json(self, name: str) -> Any:
        """The content of a JSON file of the run; None when there is none. Raises PasError for a damaged one."""
        try:
            return parse_json((self.folder / name).read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise PasError(f"{self.folder / name} is damaged ({error}): delete it to do that step again") from error

    def log(self, row: Mapping[str, Any]) -> None:
        """Append a line to `metrics.jsonl`; it is on its way to the disk when this returns."""
        if self.metrics is not None:
            line = (json.dumps(row) + "\n").encode()
            with writing(self.folder / METRICS):
                if self.metrics.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def run_folder(config: Config) -> Path:
    """Where the run of this configuration is, or will be."""
    return Path(config.paths.runs) / run_key(config)


@contextmanager
def open_run(config: Config, wait: Callable[[str], None] | None = None) -> Iterator[Run]:
    """The run of this configuration, with its folder locked (`open_folder`) and `config.yaml` written."""
    from pas import distributed  # loads torch

    with open_folder(run_folder(config), wait) as run:
        with distributed.together():
            run.write_text("config.yaml", yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True))
        yield run


@contextmanager
def open_folder(folder: Path, wait: Callable[[str], None] | None = None) -> Iterator[Run]:
    """Lock a folder of runs/, for a run or for the dense training that runs share.

    Of several processes only the leader locks and writes. `wait`: takes a line that says whom it waits for while another
    process has the folder; without it that is refused.

    The lock is the system's own (`flock`), which frees it when a process dies, however that happens. Between machines it holds where their
    shared file system passes it on: NFS does so on Linux, unless it is mounted with `nolock` or `local_lock`, Lustre when mounted with
    `flock`. One that knows no locks is refused. Of a machine that died the file server keeps the lock until it has missed it for a while.

    Raises PasError (in all of them) when another process has it, or nothing can be written there.
    """
    from pas import distributed  # loads torch

    with ExitStack() as stack:
        metrics = None
        with distributed.together():
            if distributed.leads():
                with writing(folder):
                    folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(_locked(folder, wait))
                metrics = stack.enter_context(_append(folder / METRICS))
                for half in folder.rglob(f".*{ASIDE}"):  # of a process that was killed: this one alone writes here now
                    half.unlink(missing_ok=True)
        yield Run(folder, folder.name, metrics)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl` in order, each with its stage and step, without those that a resumed run wrote again, and without a line
    cut off by a crash.
    """
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    try:
        lines = (folder / METRICS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict) and isinstance(row.get("stage"), str) and isinstance(row.get("step"), int):
            rows[(row["stage"], row["step"])] = row
    return list(rows.values())


@contextmanager
def _locked(folder: Path, wait: Callable[[str], None] | None) -> Iterator[None]:
    # Opened without truncation: the text inside is the holder's. The kernel frees the lock when a process dies.
    with writing(folder / LOCK):
        lock = (folder / LOCK).open("a+b", buffering=0)
    with lock:
        with writing(folder / LOCK):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                holder = f"{folder} is in use by process {lock.read().decode(errors='replace').strip() or '?'}"
                if wait is None:
                    raise PasError(f"{holder}: wait for it, or stop it and start again") from None
                wait(f"{holder}: waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            lock.truncate(0)
            lock.write(f"{os.getpid()} on {socket.gethostname()}".encode())
        yield


@contextmanager
def _append(path: Path) -> Iterator[FileIO]:
    # Not buffered: a row is a line with the system when `log` returns, and nothing is left to be written at the end.
    with writing(path):
        file = path.open("a+b", buffering=0)
    with file:
        # a crash may have left half a line: what follows must not be glued to it
        with writing(path):
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(size - 1)
                if file.read(1) != b"\n":
                    file.write(b"\n")
        yield file
