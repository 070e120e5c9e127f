"""Cut the dropped channels out: a smaller network with the same names."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from pas.architecture import Architecture
from pas.axes.capture import BATCH, Example, as_arguments, forget, rebatch
from pas.axes.signature import Signature, rows
from pas.errors import PasError
from pas.surgery.attributes import retold
from pas.surgery.forms import TypedBlock, flat_input, typed_blocks
from pas.surgery.fuse import fuse, merged
from pas.surgery.graph import assemble, rebuild
from pas.surgery.mask import mask, rewired

GATES = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}
"""Rows of a recurrent layer's weights for each hidden channel."""


def slice(model: nn.Module, signature: Signature, architecture: Architecture) -> nn.Module:
    """A smaller network that computes what `mask` computes (exactly, for the axes that are `exact`).

    The modules and names of the argument stay; a re-parameterised block stays in its training form, its identity branch
    rewired. Where the network's own Python code holds numbers of channels that would now be stale, the captured graph
    of the fused form comes back instead, with its constants rewritten: a `torch.fx.GraphModule` that trains, saves and
    exports like any module. Blocks that only timm knows how to merge come back merged.

    Raises PasError when the architecture belongs to another network, or when the slice doesn't compute what the mask does.
    """
    keep = signature.mask(architecture)
    model = merged(model)
    small = _cut(model, signature, keep)
    if keep.all() or next(model.parameters()).is_meta:  # without values nothing can be compared
        return small
    exact = all(axis.exact for axis in signature.prunable if not keep[axis.start : axis.start + axis.size].all())
    probe = _with_random_weights(model, signature.example)
    plain = fuse(probe)
    truth = mask(probe, signature, architecture) if exact else assemble(plain, _cut(plain, signature, keep), signature, keep)
    cut = _cut(probe, signature, keep)
    if _same(truth, cut, signature.example, fixed=not exact):
        return small
    told = retold(cut, signature, keep)
    if told is not None and _same(truth, told, signature.example, fixed=not exact):
        return retold(small, signature, keep) or small
    fused = fuse(model)
    graph = rebuild(fused, _cut(fused, signature, keep), signature, architecture)
    if exact:
        probed = copy.deepcopy(graph)
        probed.load_state_dict(_cut(plain, signature, keep).state_dict())
        if not _same(truth, probed, signature.example, fixed=False):
            raise PasError(f"{type(model).__name__} can't be sliced like this: neither its code nor its graph computes what the mask does")
    return graph


def _with_random_weights(model: nn.Module, example: Example) -> nn.Module:
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
    return probe


def _cut(model: nn.Module, signature: Signature, keep: np.ndarray) -> nn.Module:
    """Index every parameter and buffer by the channels that stay, and tell the modules their new sizes."""
    model = forget(copy.deepcopy(model))
    typed = typed_blocks(model, signature)
    blocked = {f"{path}.reparam_conv" if path else "reparam_conv" for path in typed}
    for path, item in typed.items():
        _cut_block(model, path, item, keep)
    done: dict[int, nn.Parameter] = {}
    for path, module in list(model.named_modules()):
        if path in blocked:
            continue
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            full = f"{path}.{name}" if path else name
            dims = signature.dims.get(signature.program.tied.get(full, full))
            if tensor is not None and dims is not None and any(dim is not None for dim in dims):
                _take(module, name, [rows(dim, keep, size) for dim, size in zip(dims, tensor.shape, strict=True)], done)
        weight = f"{path}.weight" if path else "weight"
        group = signature.groups.get(signature.program.tied.get(weight, weight))
        _resize(module, None if group is None else int(rows(group, keep, 0).sum()))
    return model


def _cut_block(model: nn.Module, path: str, item: TypedBlock, keep: np.ndarray) -> None:
    main = item.block.main
    reads, writes = rows(item.reads, keep, main.weight.shape[1]), rows(item.writes, keep, main.out_channels)
    inputs = rows(flat_input(item), keep, main.in_channels)
    groups = None if item.groups is None else int(rows(item.groups, keep, 0).sum())
    done: dict[int, nn.Parameter] = {}
    if item.block.identity is not None:
        name = f"{path}.identity" if path else "identity"
        if item.reads is None:  # depth-wise: input and output keep the same channels
            _cut_norm(item.block.identity, writes, done)
        else:
            model.set_submodule(name, rewired(item, inputs, writes, compact=True))
    for conv, norm in item.block.branches:
        _take(conv, "weight", [writes, reads, *(np.ones(k, dtype=bool) for k in conv.kernel_size)], done)
        if conv.bias is not None:
            _take(conv, "bias", [writes], done)
        _resize(conv, groups)
        _cut_norm(norm, writes, done)


def _cut_norm(norm: nn.BatchNorm2d, writes: np.ndarray, done: dict[int, nn.Parameter]) -> None:
    for name in ("weight", "bias", "running_mean", "running_var"):
        _take(norm, name, [writes], done)
    _resize(norm, None)


def _take(module: nn.Module, name: str, keep: list[np.ndarray], done: dict[int, nn.Parameter]) -> None:
    """Replace a tensor of a module by its kept part. A shared parameter stays shared."""
    old = getattr(module, name)
    if id(old) in done:
        setattr(module, name, done[id(old)])
        return
    new: Tensor = old.detach()
    for dim, kept in enumerate(keep):
        if not kept.all():
            new = new.index_select(dim, torch.from_numpy(np.flatnonzero(kept)).to(new.device))
    new = new.clone(memory_format=torch.preserve_format)
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, requires_grad=old.requires_grad)
        done[id(old)] = new
        done[id(new)] = new  # also keeps `new` alive, so that its id is not given out again
        setattr(module, name, new)  # recurrent layers keep a list of their weights
    else:
        module.register_buffer(name, new, persistent=name not in module._non_persistent_buffers_set)


def _resize(module: nn.Module, groups: int | None) -> None:
    """The sizes that a module keeps beside its tensors."""
    if isinstance(module, nn.modules.conv._ConvNd):
        module.groups = module.groups if groups is None else groups
        first, second = module.weight.shape[:2]
        turned = isinstance(module, nn.modules.conv._ConvTransposeNd)
        module.out_channels = second * module.groups if turned else first
        module.in_channels = first if turned else second * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.modules.batchnorm._NormBase) and (module.running_mean is not None or module.weight is not None):
        module.num_features = len(module.weight if module.running_mean is None else module.running_mean)
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(module.weight)
    elif isinstance(module, nn.GroupNorm) and module.weight is not None:
        module.num_groups = module.num_groups if groups is None else groups
        module.num_channels = len(module.weight)
    elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)
    elif isinstance(module, nn.RNNBase):
        sizes = {name: parameter.shape for name, parameter in module.named_parameters(recurse=False)}
        module.input_size, module.hidden_size = sizes["weight_ih_l0"][1], sizes["weight_hh_l0"][0] // GATES[type(module)]
        module.proj_size = sizes["weight_hr_l0"][0] if module.proj_size else 0
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = module.weight.shape[1]


def _same(truth: nn.Module, small: nn.Module, example: Example, *, fixed: bool) -> bool:
    """Does a network's own code, run on the sliced modules, compute what `truth` computes (its mask, or its graph)?

    Asked on noise rather than on the example, which may be zeros, in eval mode and at least fp32; for as many examples as it has, for three
    and for one, where `truth` takes these. A `fixed` truth takes three; then one has to give what it gives among the others.
    """
    dtype = torch.promote_types(_real(truth), torch.float32)
    truth, small = _cast(truth, dtype).eval(), _cast(small, dtype).eval()
    device = next(small.parameters()).device
    several = _noise(rebatch(example, BATCH), device, dtype)
    tries = [several] if fixed else [_noise(example, device, dtype), several, _noise(rebatch(example, 1), device, dtype)]
    for number, inputs in enumerate(tries):
        expected = _results(truth, inputs)
        if expected is not None:
            found = _results(small, inputs)
            if found is None or not _alike(expected, found, dtype):
                return False
        elif number == 0:
            return False
    if fixed:
        first = lambda value: value[:1] if isinstance(value, Tensor) and value.dim() else value  # noqa: E731
        alone, among = _results(small, tree_map(first, several)), _results(truth, several)
        return alone is not None and among is not None and _alike(list(map(first, among)), alone, dtype)
    return True


def _alike(expected: list[Tensor], found: list[Tensor], dtype: torch.dtype) -> bool:
    tolerance = 50 * torch.finfo(dtype).eps ** 0.75
    same = [t.shape for t in expected] == [t.shape for t in found]
    return same and all(_close(a, b, tolerance) for a, b in zip(expected, found, strict=True))


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


def _noise(example: Example, device: torch.device, dtype: torch.dtype) -> tuple[tuple[Any, ...], dict[str, Any]]:
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


def _results(network: nn.Module, inputs: tuple[tuple[Any, ...], dict[str, Any]]) -> list[Tensor] | None:
    """All tensors that the network returns; None where its code can't take these inputs."""
    args, kwargs = inputs
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("error")  # layers without weights warn of sizes that they only remember
            return [leaf for leaf in tree_leaves(network(*args, **kwargs)) if isinstance(leaf, Tensor)]
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError, Warning):  # stale sizes in the code
        return None


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    if not a.is_floating_point() or not a.numel():
        return torch.equal(a, b)
    return bool((a - b).abs().max() <= tolerance * a.abs().max())
