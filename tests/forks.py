"""`pas` in processes that are forked from one that has imported everything: as a person runs it, but for the ten seconds of imports.

`Forks` starts this file as a program. A command is a line of JSON on its stdin: {"arguments": [...], "folder": FOLDER, "environment":
{...}, "out": FILE, "err": FILE}; the answer is a line with the number of the process, and at its end one with the exit code, negative for
a signal. Processes that are to die get more: with "watch": FOLDER, "match": REGEX, "number": N and "delay": SECONDS, the N-th
file-system operation under that folder whose line "EVENT PATH ..." matches is the last one, by SIGKILL, or by an alarm so much later (its
default action ends a process as abruptly, in the midst of whatever it does). "trace" names a file that gets all those lines,
"limit" is the most bytes that a file may have.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "fcntl.flock", "os.truncate", "os.fsync")


class Forks:
    """The program, seen from a test."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
        self.running: int | None = None
        program, pipe = [sys.executable, __file__], subprocess.PIPE
        self.process = subprocess.Popen(program, stdin=pipe, stdout=pipe, text=True, env=environment)

    def start(self, **command: object) -> int:
        """Start a command and return the number of its process."""
        if self.running is not None:  # a test failed in the meantime
            os.kill(self.running, signal.SIGKILL)
            self.end()
        print(json.dumps(command), file=self.process.stdin, flush=True)
        self.running = int(self.process.stdout.readline())
        return self.running

    def end(self) -> int:
        """Wait for its end; the exit code."""
        code, self.running = int(self.process.stdout.readline()), None
        return code

    def run(self, *arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """`pas` with these arguments in a folder, to its end."""
        with tempfile.TemporaryDirectory() as where:
            out, err = (Path(where) / name for name in ("out", "err"))
            self.start(arguments=arguments, folder=str(folder), environment=environment, out=str(out), err=str(err))
            code = self.end()
            return subprocess.CompletedProcess(arguments, code, out.read_text(), err.read_text())

    def close(self) -> None:
        """End the program."""
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def watch(runs: str, match: str, number: int | None, delay: float, trace: str | None) -> None:
    """Die at the operation. Audit hooks see an operation before it is done."""
    pattern, seen = re.compile(match), 0
    lines = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if trace else None

    def hook(event: str, arguments: tuple) -> None:
        nonlocal seen
        if event not in EVENTS:
            return
        paths = [os.fsdecode(one) for one in arguments[:2] if isinstance(one, str | bytes | os.PathLike)]
        inside = [path.removeprefix(runs) for path in paths if path.startswith(runs)]
        within_a_folder = event in ("os.remove", "os.rmdir") and arguments[-1] != -1  # shutil.rmtree's, by a folder's handle
        if not inside and not within_a_folder:
            return
        line = " ".join([event, *(inside or paths)])
        if lines is not None:
            os.write(lines, f"{line}\n".encode())
        seen += bool(pattern.search(line))
        if number is not None and seen == number:
            seen += 1
            if not delay:
                os.kill(os.getpid(), signal.SIGKILL)
            signal.setitimer(signal.ITIMER_REAL, delay)

    fsync = os.fsync

    def audited(handle: int) -> None:  # the interpreter has no event for it
        hook("os.fsync", (os.readlink(f"/proc/self/fd/{handle}"),))
        fsync(handle)

    os.fsync = audited
    sys.addaudithook(hook)


def child(command: dict) -> None:
    for handle, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(command[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND), handle)
    os.chdir(command["folder"])
    os.environ.update(command.get("environment", {}))
    sys.path[0] = command["folder"]  # as `python -m pas` has it
    if "limit" in command:
        resource.setrlimit(resource.RLIMIT_FSIZE, (command["limit"], command["limit"]))
    if "watch" in command:
        watch(command["watch"], command.get("match", ""), command.get("number"), command.get("delay", 0), command.get("trace"))
    from pas.cli import main

    try:
        main(command["arguments"])
    except SystemExit as left:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(left.code)  # a fork of a process that has imported torch can't be torn down


def keep_operators() -> None:
    """torch's exporter reads the source of its 500 operators for every file that it writes, which takes a second. Once will do."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    ONNXRegistry.from_torchlib = staticmethod(functools.cache(ONNXRegistry.from_torchlib))


def serve() -> None:
    for name in ("matplotlib.pyplot", "onnxruntime", "sklearn.datasets", "pas.launch", "pas.pipeline"):
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    keep_operators()
    torch.onnx.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),), verbose=False)  # the first one imports more, for seconds
    for line in sys.stdin:
        process = os.fork()
        if not process:
            child(json.loads(line))
        print(process, flush=True)
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
