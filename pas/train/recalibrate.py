"""Re-estimate the running statistics of batch norms, after channels were cut or weights changed without training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pas.axes.capture import Example, as_arguments, in_mode


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
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    tracked = [(norm.num_batches_tracked, norm.num_batches_tracked.clone()) for norm in norms if norm.num_batches_tracked is not None]
    seen = _Pooled()
    with torch.no_grad(), in_mode(model, training=False):
        for norm in norms:
            norm.training = True
        with seen:
            for batch in batches:
                args, kwargs = as_arguments(batch)
                model(*args, **kwargs)
        for count, before in tracked:
            count.copy_(before)
        for mean, variance, moments in seen.found.values():
            mean.copy_(moments[1])
            variance.copy_(moments[2] / max(moments[0] - 1, 1))


class _Pooled(TorchFunctionMode):
    """Inside of it, batch norms in training normalise by their batch and leave their running statistics alone. `found`: these, and the
    number of values a channel, their mean and their sum of squares about it, in fp64.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[int, tuple[Tensor, Tensor, tuple[int, Tensor, Tensor]]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return (self._batch_norm if func is F.batch_norm else func)(*args, **(kwargs or {}))

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
        self.found[id(running_mean)] = (running_mean, running_var, now if before is None else _together(before[2], now))
        return F.batch_norm(x, None, None, weight, bias, True, momentum, eps)


def _moments(x: Tensor) -> tuple[int, Tensor, Tensor]:
    """Number of values a channel of x (N, C, ...), their mean (C,) and their sum of squares about it (C,)."""
    flat = x.double().transpose(0, 1).flatten(1)
    mean = flat.mean(1)
    return flat.shape[1], mean, (flat - mean[:, None]).square().sum(1)


def _together(a: tuple[int, Tensor, Tensor], b: tuple[int, Tensor, Tensor]) -> tuple[int, Tensor, Tensor]:
    """The moments of two samples as one."""
    count, apart = a[0] + b[0], b[1] - a[1]
    return count, a[1] + apart * (b[0] / count), a[2] + b[2] + apart.square() * (a[0] * b[0] / count)
