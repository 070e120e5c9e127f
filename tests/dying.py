"""A server of runs that die. It imports what trains once, then forks a process for every command of `pas`.

A command is a line of JSON on stdin: {"arguments": [...], "log": FILE, "match": REGEX, "number": N, "delay": SECONDS}. The
process dies at its N-th file-system operation under the runs folder whose line "EVENT PATH ..." matches, by SIGKILL, or by an
alarm so much later (its default action ends a process as abruptly, in the midst of whatever it does). "trace" names a file that
gets all those lines, "limit" is the most bytes that a file may have. The answer is a line with the number of the process, and
at its end one with the exit code, negative for a signal.
"""

import json
import os
import re
import resource
import signal
import sys

EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "fcntl.flock", "os.truncate", "os.fsync")


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
    out = os.open(command["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    runs = next(word.removeprefix("paths.runs=") for word in command["arguments"] if word.startswith("paths.runs="))
    if "limit" in command:
        resource.setrlimit(resource.RLIMIT_FSIZE, (command["limit"], command["limit"]))
    watch(runs, command.get("match", ""), command.get("number"), command.get("delay", 0), command.get("trace"))
    from pas.cli import main

    try:
        main(command["arguments"])
    except SystemExit as left:
        sys.stdout.flush()
        os._exit(left.code)  # a fork of a process that has imported torch can't be torn down


def serve() -> None:
    import pas.launch
    import pas.pipeline  # noqa: F401

    for line in sys.stdin:
        process = os.fork()
        if not process:
            child(json.loads(line))
        print(process, flush=True)
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
