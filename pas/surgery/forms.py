"""A signature is read off the fused form; these functions say what it means for the form that is being trained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from pas.axes.capture import Example, arguments, packet
from pas.axes.ids import Dim, merge
from pas.axes.infer import infer
from pas.axes.signature import Signature, rows
from pas.errors import PasError
from pas.surgery.fuse import Block, IdentityNorm, blocks, fuse

aten = torch.ops.aten
LAYERS = (aten.conv1d, aten.conv2d, aten.conv3d, aten.linear)
"""What a norm may follow directly: the second argument is the weight."""


def signature(model: nn.Module, example: Example) -> Signature:
    """Infer the axes of a network (of its fused form, where it has re-parameterised blocks).

    `example`: a tensor (N, ...), a tuple of inputs, or a dict of keyword inputs; nothing depends on N. The model is
    left as it was. Raises PasError when torch.export can't capture the network, or the arguments changed places.
    """
    if not isinstance(model, nn.Module):
        raise PasError(f"the network comes first, then an example of its input; this is no network but a {type(model).__name__}")
    return infer(fuse(model), example)


@dataclass(frozen=True)
class TypedBlock:
    """A block of the training form with the types of its fused convolution: what it reads, what it writes, its
    groups.
    """

    block: Block
    reads: Dim
    writes: Dim
    groups: Dim


def typed_blocks(model: nn.Module, signature: Signature) -> dict[str, TypedBlock]:
    """Every block that is in its training form, by path."""
    found = {}
    for path, block in blocks(model):
        name = f"{path}.reparam_conv.weight" if path else "reparam_conv.weight"
        writes, reads, *_ = signature.dims[name]
        found[path] = TypedBlock(block, reads, writes, signature.groups.get(name))
    return found


@dataclass(frozen=True)
class Reader:
    """A parameter or buffer of the form at hand whose zeroed slices along `dim` switch channels off: it sums over the axis, or (queries
    and keys) makes it.
    """

    parameter: str
    dim: int
    table: Dim


@dataclass(frozen=True)
class Norm:
    """A batch norm: the names of its scale and shift, the type of its channels, and what the convolution or linear layer whose output it
    gets directly reads (None where it doesn't: the channel passes on, or something stands between them).
    """

    weight: str
    bias: str | None
    channels: Dim
    reads: Dim


def readers(model: nn.Module, signature: Signature) -> list[Reader]:
    """Every parameter that switches channels off, in the form at hand.

    In a block these are the kernels of all its branches and the scale of its identity norm: a scale of zero leaves the
    norm's bias, which is what a norm of zeros in training mode gives.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    typed = typed_blocks(model, signature)
    fused = {f"{path}.reparam_conv.weight" if path else "reparam_conv.weight" for path in typed}
    found = []
    for slot in signature.readers:
        if slot.parameter not in fused:
            found.append(Reader(slot.parameter, slot.dim, signature.dims[slot.parameter][slot.dim]))
    for item in typed.values():
        if item.reads is None:  # depth-wise: the channel passes on
            continue
        found += [Reader(names[id(conv.weight)], 1, item.reads) for conv, _ in item.block.branches]
        if item.block.identity is not None:
            found.append(Reader(names[id(item.block.identity.weight)], 0, identity_input(item)))
    return found + makers(model, signature)


def makers(model: nn.Module, signature: Signature) -> list[Reader]:
    """The parameters and buffers that make a channel which no parameter reads.

    What a block makes is off with the scales and shifts of its norms.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    typed = {f"{path}.reparam_conv" if path else "reparam_conv": item for path, item in typed_blocks(model, signature).items()}
    found = []
    for slot in signature.makers:
        item = typed.get(slot.parameter.rpartition(".")[0])
        if item is None:
            found.append(Reader(slot.parameter, slot.dim, signature.dims[slot.parameter][slot.dim]))
        elif slot.parameter.endswith("weight"):
            norms = [norm for _, norm in item.block.branches] + ([] if item.block.identity is None else [item.block.identity])
            found += [Reader(names[id(vector)], 0, item.writes) for norm in norms for vector in (norm.weight, norm.bias)]
    return found


def norms(model: nn.Module, signature: Signature) -> list[Norm]:
    """Every batch norm with a scale, in the form at hand; of a block those of its branches and of its identity."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    tensors, reads = signature.program.tensors, {slot.parameter: signature.dims[slot.parameter][slot.dim] for slot in signature.readers}
    found = []
    for node in signature.program.graph.nodes:
        if node.op != "call_function" or packet(node) is not aten.batch_norm:
            continue
        source, weight, bias = arguments(node, 3)
        if weight is None:
            continue
        name = tensors[weight]
        before = reads.get(tensors.get(arguments(source, 2)[1], "")) if packet(source) in LAYERS else None
        found.append(Norm(name, None if bias is None else tensors[bias], signature.dims.get(name, (None,))[0], before))
    for item in typed_blocks(model, signature).values():
        pairs = [(norm, item.reads) for _, norm in item.block.branches]
        pairs += [] if item.block.identity is None else [(item.block.identity, None)]
        found += [Norm(names[id(norm.weight)], names[id(norm.bias)], item.writes, before) for norm, before in pairs]
    return found


def identity_input(item: TypedBlock) -> Dim:
    """The type of what each channel of a block's identity norm reads; where its input was cut out, "always kept"."""
    table = flat_input(item)
    if table is None or not isinstance(item.block.identity, IdentityNorm):
        return table
    source = item.block.identity.source.cpu().numpy()
    return np.where((source >= 0)[:, None], table[source], 0)


def flat_input(item: TypedBlock) -> Dim:
    """The type of a block's whole input dimension, from its group index and its place in the group."""
    groups = item.block.main.groups
    return item.reads if groups == 1 else merge(item.groups, item.reads, groups, item.block.main.weight.shape[1])


def settle(model: nn.Module, signature: Signature, mask: np.ndarray) -> None:
    """A norm of an identity branch that reads dropped channels was trained as a norm of zeros, whose mean is zero."""
    with torch.no_grad():
        for item in typed_blocks(model, signature).values():
            if item.block.identity is not None and item.reads is not None:
                off = ~rows(identity_input(item), mask, item.block.identity.num_features)
                item.block.identity.get_buffer("running_mean")[torch.from_numpy(np.flatnonzero(off))] = 0
