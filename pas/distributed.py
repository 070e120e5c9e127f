"""Several processes that work as one: who leads, what they agree on, sums over all of them.

`pas search` under torchrun opens a `session`; a loop of one's own may start its process group as it likes. Without a
group every function here is at once done and costs nothing. What travels is JSON and numbers in tensors, never pickle.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pas.errors import PasError

T = TypeVar("T")
PATIENCE = timedelta(seconds=10)
"""How long a process waits for the leader to say what was refused, before it says so itself."""


@contextmanager
def session() -> Iterator[Callable[[str], None]]:
    """The process group that torchrun's environment variables describe: gloo on the CPU, NCCL between CUDA devices.

    Yields a function that says a line on stderr once for all processes: the leader says it, the others wait until it
    has, so that none ends the job before. The group is taken down only when nothing was raised: after an error another
    process may still be waiting in it, and ends with this one.
    """
    store, this, processes = next(dist.rendezvous("env://"))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    dist.init_process_group(backend, store=dist.PrefixStore("group", store), rank=this, world_size=processes)

    def say(line: str) -> None:
        if this != 0:
            try:
                store.wait(["said"], PATIENCE)
                return
            except RuntimeError:  # the leader is stuck or gone: what this process knows must not be lost
                pass
        print(line, file=sys.stderr, flush=True)
        store.set("said", "1")

    yield say
    dist.destroy_process_group()


def several() -> bool:
    """Whether this process is one of a group."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if several() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if several() else 1


def leads() -> bool:
    """Whether this is the process that shows, logs and writes."""
    return rank() == 0


def device(name: str) -> torch.device:
    """The device that `hardware.device` means for this process; of several processes on a machine, each has its own GPU.

    Raises PasError when there is no such device, or fewer of them than processes.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise PasError(f"hardware.device={name}: torch finds no CUDA device here; use hardware=cpu")
    if not several():
        return torch.device("cuda" if name == "auto" else name)
    if ":" in name:
        raise PasError(f"hardware.device={name} is one device for {world()} processes: use hardware.device=cuda")
    local, there = int(os.environ.get("LOCAL_RANK", rank())), torch.cuda.device_count()
    if local >= there:
        raise PasError(f"more processes than the {there} CUDA devices of this machine: start {there} here, or use hardware=cpu")
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def total(tensor: Tensor) -> Tensor:
    """The sum over all processes, bit for bit the same on each; of the same shape, and a tensor of its own."""
    summed = tensor.detach().clone()
    if several():
        dist.all_reduce(summed)
    return summed


def mean(tensor: Tensor) -> Tensor:
    """The mean over all processes, bit for bit the same on each; of the same shape, and a tensor of its own."""
    return total(tensor) / world()


def gathered(tensor: Tensor) -> Tensor:
    """The tensors of all processes, which have one shape: (processes, *shape)."""
    if not several():
        return tensor.detach().clone().unsqueeze(0)
    parts = [torch.empty_like(tensor) for _ in range(world())]
    dist.all_gather(parts, tensor.detach().contiguous())
    return torch.stack(parts)


def broadcast(value: Any, source: int = 0) -> Any:
    """What JSON can say, from one process to all; the source gets its own value back."""
    if not several():
        return value
    where = _device()
    sent = torch.tensor(list(json.dumps(value).encode()) if rank() == source else [], dtype=torch.uint8, device=where)
    size = torch.tensor([len(sent)], device=where)
    dist.broadcast(size, source)
    if rank() == source:
        dist.broadcast(sent, source)
        return value
    received = torch.empty(int(size), dtype=torch.uint8, device=where)
    dist.broadcast(received, source)
    return json.loads(bytes(received.cpu().tolist()))


@contextmanager
def together() -> Iterator[None]:
    """Nobody leaves the block before all have come to its end, and what fails in one process fails in all of them.

    Those that didn't fail raise a PasError with the words of the first that did. The block itself must not communicate.
    """
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    if several():
        first = torch.tensor([world() if failure is None else rank()], device=_device())
        dist.all_reduce(first, dist.ReduceOp.MIN)
        if int(first) < world():
            words = broadcast(_words(failure), int(first))
            failure = failure or PasError(words)
    if failure is not None:
        raise failure


def from_leader(work: Callable[[], T]) -> T:
    """What the leader's `work` returns (JSON), or raises; the others don't work, they wait for it."""
    done: T | None = None
    with together():
        if leads():
            done = work()
    return broadcast(done)


def agree(value: Any, otherwise: str) -> None:
    """Raise PasError with `otherwise` unless all processes hold the same value (JSON)."""
    expected = broadcast(value)
    with together():
        if expected != value:
            raise PasError(otherwise)


def share_buffers(module: nn.Module) -> None:
    """Give every process the leader's buffers, such as running statistics that each has seen its own images for."""
    if several():
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)


def _device() -> torch.device:
    """Where small values travel: on the CPU unless the group knows CUDA alone."""
    if "cpu:" in dist.get_backend_config():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def _words(failure: Exception | None) -> str:
    if failure is None or isinstance(failure, PasError):
        return str(failure)
    return f"process {rank()} failed: {type(failure).__name__}: {failure}"
