"""Whether a sliced network's own code is still right: tried on noise, with random weights."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from pas.axes.capture import BATCH, Example, as_arguments, forget, rebatch

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


def with_random_weights(model: nn.Module, example: Example) -> nn.Module:
    """A copy in eval mode whose parameters are drawn anew, always alike, and whose batch norms have statistics that suit them: which form a
    slice has must depend on the network's code alone, not on weights that are zero, nor on numbers that drown what a branch adds.
    """
    probe = forget(copy.deepcopy(model)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in probe.parameters():
            noise = torch.randn(parameter.shape, generator=generator) / max(1, parameter[:1].numel()) ** 0.5
            parameter.copy_(noise if parameter.dim() > 1 else 1 + 0.3 * noise)
    norms = [m for m in probe.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches seen, here of one
        norm.train()
    if norms:
        _results(probe, _noise(rebatch(example, 4), next(probe.parameters()).device, _real(probe)))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
        variance: Any = norm.running_var
        variance.clamp_(min=0.1 * float(variance.mean()))  # of a dead channel, rounding would be all that is left
    return probe


def same(truth: nn.Module, small: nn.Module, example: Example) -> bool:
    """Does a network's own code, run on the sliced modules, compute what `truth` computes (its mask, or its graph)?

    Asked on noise rather than on the example, which may be zeros, in eval mode and at least fp32; for as many examples as it has, for three
    and for one, where `truth` takes these.
    """
    truth, small, draw = _prepared(truth, small)
    others = [rebatch(example, n) for n in (BATCH, 1) if set(_lengths(example)) != {n}]
    for number, one in enumerate((example, *others)):
        inputs = draw(one)
        expected = _results(truth, inputs)
        if expected is None and number:
            continue
        if expected is None or not _alike(expected, _results(small, inputs)):
            return False
    return True


def same_as_captured(truth: nn.Module, small: nn.Module, example: Example) -> bool:
    """The same of a graph that takes as many examples as were captured, and no other number: among more or fewer, as many as the example
    has, and alone, each has to give what it gives there. Not so where examples see each other, or where results have another first
    dimension; then only a graph for any number can tell.
    """
    truth, small, draw = _prepared(truth, small)
    given = next(iter(_lengths(example)), BATCH)
    many = draw(rebatch(example, max(BATCH, given)))
    first = lambda n: lambda value: value[:n] if isinstance(value, Tensor) and value.dim() else value  # noqa: E731
    captured = tree_map(first(BATCH), many)
    expected = _results(truth, captured)
    if expected is None or not _alike(expected, _results(small, captured)):
        return False
    for n in {1, given} - {BATCH}:
        found = _results(small, tree_map(first(n), many))
        if found is None or not _alike(list(map(first(n), expected)), list(map(first(BATCH), found))):
            return False
    return True


def _lengths(example: Example) -> list[int]:
    """How many examples each tensor has."""
    return [len(leaf) for leaf in tree_leaves(example) if isinstance(leaf, Tensor) and leaf.dim()]


def _prepared(truth: nn.Module, small: nn.Module) -> tuple[nn.Module, nn.Module, Callable[[Example], Inputs]]:
    """Copies of both in eval mode and at least fp32, and what draws noise for them."""
    dtype, device = torch.promote_types(_real(truth), torch.float32), next(small.parameters()).device
    return _cast(truth, dtype).eval(), _cast(small, dtype).eval(), lambda example: _noise(example, device, dtype)


def _alike(expected: list[Tensor], found: list[Tensor] | None) -> bool:
    kinds = lambda tensors: [(t.shape, t.dtype) for t in tensors]  # noqa: E731
    return found is not None and kinds(expected) == kinds(found) and all(map(_close, expected, found))


def _real(network: nn.Module) -> torch.dtype:
    """The format of its real numbers."""
    return next((parameter.dtype for parameter in network.parameters() if parameter.is_floating_point()), torch.float32)


def _cast(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy with real numbers in this format; `nn.Module.to` would make complex ones real."""
    network = forget(copy.deepcopy(network))
    for tensor in [*network.parameters(), *network.buffers()]:
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)
    return network


def _noise(example: Example, device: torch.device, dtype: torch.dtype) -> Inputs:
    """Arguments of a call like the example's, real numbers drawn at random, always alike."""
    generator = torch.Generator().manual_seed(0)

    def noise(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if not value.is_floating_point():
            return value.to(device)
        return torch.randn(value.shape, generator=generator, dtype=torch.float64).to(device, dtype)

    args, kwargs = as_arguments(example)
    return tuple(map(noise, args)), {name: noise(value) for name, value in kwargs.items()}


def _results(network: nn.Module, inputs: Inputs) -> list[Tensor] | None:
    """All tensors that the network returns; None where its code can't take these inputs. It may change its inputs, so it gets copies."""
    args, kwargs = tree_map(lambda value: value.clone() if isinstance(value, Tensor) else value, inputs)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("error")  # layers without weights warn of sizes that they only remember
            return [leaf for leaf in tree_leaves(network(*args, **kwargs)) if isinstance(leaf, Tensor)]
    except Exception:  # stale sizes in the code can raise anything
        return None


def _close(a: Tensor, b: Tensor) -> bool:
    if not a.is_floating_point() or not a.numel():
        return torch.equal(a, b)
    infinite = a.isinf()
    if not torch.equal(a[infinite], b[infinite]):
        return False
    a, b = a.where(~infinite, 0), b.where(~infinite, 0)
    return bool((a - b).abs().max() <= 50 * torch.finfo(a.dtype).eps ** 0.75 * a.abs().max())
