"""Cut the dropped channels out: a smaller network with the same names."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from pas.architecture import Architecture
from pas.axes.capture import forget
from pas.axes.signature import Signature, rows
from pas.errors import PasError
from pas.surgery.attributes import retold
from pas.surgery.compare import same, same_as_captured, with_random_weights
from pas.surgery.forms import TypedBlock, flat_input, typed_blocks
from pas.surgery.fuse import blocks, fuse, merged
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

    Raises PasError when the architecture or the signature belongs to another network, or when the slice doesn't compute what the mask
    does.
    """
    keep = signature.mask(architecture)
    model = merged(model)
    _check(model, signature)
    small = _cut(model, signature, keep)
    if keep.all() or next(model.parameters()).is_meta:  # without values nothing can be compared
        return small
    exact = all(axis.exact for axis in signature.prunable if not keep[axis.start : axis.start + axis.size].all())
    probe, example = with_random_weights(model, signature.example), signature.example
    plain, cut = fuse(probe), _cut(probe, signature, keep)
    if exact:
        truth = mask(probe, signature, architecture)
        own = _own(small, cut, signature, keep, lambda one: same(truth, one, example))
    else:
        truth = assemble(plain, _cut(plain, signature, keep), signature, keep)
        own = _own(small, cut, signature, keep, lambda one: same_as_captured(truth, one, example))
    if own is not None:
        return own
    fused = fuse(model)
    graph = rebuild(fused, _cut(fused, signature, keep), signature, architecture)
    probed = copy.deepcopy(graph)
    probed.load_state_dict(_cut(plain, signature, keep).state_dict())
    if not exact:
        own = _own(small, cut, signature, keep, lambda one: same(probed, one, example))
    elif not same(truth, probed, example):
        raise PasError(f"{type(model).__name__} can't be sliced like this: neither its code nor its graph computes what the mask does")
    return graph if own is None else own


def _check(model: nn.Module, signature: Signature) -> None:
    """Raises PasError when a network isn't the one that a signature was made of."""
    found = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    merges = tuple(f"{path}.reparam_conv." if path else "reparam_conv." for path, _ in blocks(model))
    for name, sizes in signature.shapes.items():
        if found.get(name) != sizes and not name.startswith(merges):
            has = f"a {name} of {found[name]}, not {sizes}" if name in found else f"no {name}"
            raise PasError(f"this {type(model).__name__} isn't the network that the signature was made of: it has {has}")


def _own(
    small: nn.Module, cut: nn.Module, signature: Signature, keep: np.ndarray, agrees: Callable[[nn.Module], bool]
) -> nn.Module | None:
    """`small`, its attributes told what stays if need be, where that makes its own code right: tried on `cut`, the same with random
    weights. None where its code is stale.
    """
    if agrees(cut):
        return small
    told = retold(cut, signature, keep)
    return retold(small, signature, keep) if told is not None and agrees(told) else None


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
