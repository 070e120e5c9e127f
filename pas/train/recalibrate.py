"""The running statistics of batch norms after channels were cut, or weights changed, without training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pas.axes.capture import Example, as_arguments, in_mode
from pas.train.norm import NormsBy

Moments = tuple[int, Tensor, Tensor]
REACH = 10.0
"""By how much `transfer` scales a variance at most: of a channel that is dead on the examples nothing can be told."""


def recalibrate(model: nn.Module, batches: Iterable[Example]) -> None:
    """Set the running mean and variance of every batch norm of `model`, in place, to those of all values that it sees over `batches`.

    Plain averages over all examples: batches of unequal size count by their values, and the variance is that of all values together,
    between batches as well as within (torch's cumulative average, ``momentum=None``, leaves out what lies between batches and counts all
    batches alike), over their number less one, as torch has it. In these passes norms normalise by their batch, as in training: what is
    behind a norm sees statistics of its own batch, so batches should be large. Everything else is in eval mode.

    `batches`: inputs alone, a tensor (N, ...), a tuple or a dict of keywords. Parameters, other buffers (the number of batches tracked too)
    and the modes of all modules stay as they are; a norm that isn't reached keeps what it has. Several processes have to show the same
    batches.
    """
    for path, (mean, variance) in _seen(model, batches).items():
        _set(model, path, mean, variance)


def transfer(model: nn.Module, reference: nn.Module, batches: Iterable[Example]) -> None:
    """Give `model`, a changed copy of `reference` with the same names, the reference's statistics as the change has moved them, in place.

    On `batches`, both networks are measured as in `recalibrate`. What takes the reference's mean and variance there, m and v, to the
    model's, m' and v', is a scale and a shift a channel; it is applied to the reference's running statistics:

        mean <- m' + (running mean - m) sqrt(v' / v) ,    variance <- running variance * v' / v .

    On examples like those that the reference was trained on this is what `recalibrate` gives; on others, such as noise, the statistics stay
    those of the data. v' / v lies within `REACH`. The other arguments and what stays as it is: see `recalibrate`.
    """
    batches = list(batches)
    before = _seen(reference, batches)
    for path, (mean, variance) in _seen(model, batches).items():
        old: Any = reference.get_submodule(path)
        ratio = ((variance + old.eps) / (before[path][1] + old.eps)).clamp(1 / REACH, REACH)
        _set(model, path, mean + (old.running_mean - before[path][0]) * ratio.sqrt(), old.running_var * ratio)


def _set(model: nn.Module, path: str, mean: Tensor, variance: Tensor) -> None:
    norm = model.get_submodule(path)
    norm.get_buffer("running_mean").copy_(mean)
    norm.get_buffer("running_var").copy_(variance)


def _seen(model: nn.Module, batches: Iterable[Example]) -> dict[str, tuple[Tensor, Tensor]]:
    """The mean and the variance of all values that each batch norm sees, by path, in fp64; the network is left as it was."""
    norms = {path: module for path, module in model.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)}
    counts = [norm.num_batches_tracked for norm in norms.values() if norm.num_batches_tracked is not None]
    tracked = [count.clone() for count in counts]
    pooled = _Pooled()
    with torch.no_grad(), in_mode(model, training=False):
        for norm in norms.values():
            norm.training = True
        with pooled:
            for batch in batches:
                args, kwargs = as_arguments(batch)
                model(*args, **kwargs)
        for count, before in zip(counts, tracked, strict=True):
            count.copy_(before)
    reached = {path: pooled.found[id(norm.running_mean)] for path, norm in norms.items() if id(norm.running_mean) in pooled.found}
    return {path: (mean, squares / max(count - 1, 1)) for path, (count, mean, squares) in reached.items()}


class _Pooled(NormsBy):
    """Inside of it, batch norms in training normalise by their batch and leave their running statistics alone. `found`: by the identity of
    a running mean the number of values a channel, their mean and their sum of squares about it, in fp64.
    """

    def __init__(self) -> None:
        super().__init__(self._batch_norm)
        self.found: dict[int, Moments] = {}

    def _batch_norm(
        self,
        x: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training or running_mean is None or running_var is None:
            return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
        now = _moments(x)
        before = self.found.get(id(running_mean))
        self.found[id(running_mean)] = now if before is None else _together(before, now)
        return F.batch_norm(x, None, None, weight, bias, True, momentum, eps)


def _moments(x: Tensor) -> Moments:
    """Number of values a channel of x (N, C, ...), their mean (C,) and their sum of squares about it (C,)."""
    flat = x.double().transpose(0, 1).flatten(1)
    mean = flat.mean(1)
    return flat.shape[1], mean, (flat - mean[:, None]).square().sum(1)


def _together(a: Moments, b: Moments) -> Moments:
    """The moments of two samples as one."""
    count, apart = a[0] + b[0], b[1] - a[1]
    return count, a[1] + apart * (b[0] / count), a[2] + b[2] + apart.square() * (a[0] * b[0] / count)
