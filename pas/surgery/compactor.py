"""The compactor of ResRep: a 1x1 convolution after a layer's norm, and how it is folded away.

Ding et al., ICCV 2021, https://arxiv.org/abs/2007.03260, section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from pas.axes.capture import arguments, norm_behind, packet
from pas.axes.ids import Dim
from pas.axes.signature import Axis, Signature
from pas.surgery.forms import typed_blocks
from pas.surgery.fuse import IdentityNorm, blocks
from pas.surgery.groups import slices


class Compactor(nn.Module):
    """``z = Q y`` at every position, the identity at first. (N, C, H, W) -> (N, C, H, W).

    Gradient resetting: the gradient that reaches row j of Q through the forward pass is multiplied by ``mask[j]``.
    """

    mask: Tensor

    def __init__(self, like: Tensor) -> None:
        """`like` (C,): a parameter of the norm, whose device and dtype it takes."""
        super().__init__()
        self.weight = nn.Parameter(torch.eye(len(like), device=like.device, dtype=like.dtype))
        self.register_buffer("mask", torch.ones_like(like, requires_grad=False))

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = _Reset.apply(self.weight, self.mask)
        return F.conv2d(x, weight[:, :, None, None])

    def norms(self) -> Tensor:
        """||Q_j|| of each row (C,)."""
        return torch.linalg.vector_norm(self.weight, dim=1)


class _Reset(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(mask)
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return gradient * mask[:, None], None


class CompactedNorm(nn.BatchNorm2d):
    """A batch norm with its compactor; the norm's parameters keep their names."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        self.compactor = Compactor(norm.weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.compactor(super().forward(x))
        return found


@dataclass(frozen=True)
class Place:
    """Where a compactor can act: after the norm at `path` (of the convolution at `conv`), or in the block at `path` (then `conv` is empty).
    Its rows are the channels of `axis`, in order.
    """

    path: str
    conv: str
    axis: Axis


def places(model: nn.Module, signature: Signature, axes: tuple[Axis, ...]) -> list[Place]:
    """A place for each of these axes that one ungrouped convolution with its batch norm, or one block in its training form, alone makes.

    Depth-wise convolutions may follow. An axis that an addition ties has several makers, and no place.
    """
    makers = _makers(model, signature)
    by_weights: dict[frozenset[int], tuple[str, str, Dim]] = {}
    for path, item in typed_blocks(model, signature).items():
        module: Any = item.block.module
        plain = not isinstance(item.block.identity, IdentityNorm) and type(module.attn) is nn.Identity
        if item.reads is not None and item.block.main.groups == 1 and plain:
            by_weights[frozenset(id(conv.weight) for conv, _ in item.block.branches)] = (path, "", item.writes)
    for weight, path in _pairs(signature).items():
        before = weight.rpartition(".")[0]
        conv, norm = model.get_submodule(before), model.get_submodule(path)
        plain = type(norm) is nn.BatchNorm2d or (isinstance(norm, BatchNormAct2d) and type(norm.drop) is nn.Identity)
        if type(conv) is nn.Conv2d and conv.groups == 1 and plain and norm.affine and norm.track_running_stats:
            by_weights[frozenset([id(conv.weight)])] = (path, before, signature.dims[weight][0])
    found = []
    for axis in axes:
        place, behind, table = by_weights.get(frozenset(makers.get(axis.start, ())), ("", "", None))
        if table is not None and np.array_equal(table[:, 0], np.arange(axis.start, axis.start + axis.size)) and table.shape[1] == 1:
            found.append(Place(place, behind, axis))
    return found


def _makers(model: nn.Module, signature: Signature) -> dict[int, set[int]]:
    """The kernels (their ids) that make each axis, by its start; depth-wise ones pass it on."""
    tensors = dict(model.named_parameters())
    starts = {position: axis.start for axis in signature.axes for position in range(axis.start, axis.start + axis.size)}
    found: dict[int, set[int]] = {}
    for part in slices(model, signature):
        kernel = tensors[part.parameter]
        if part.reads or kernel.dim() < 2 or _depthwise(model.get_submodule(part.parameter.rpartition(".")[0])):
            continue
        for start in {starts[position] for position in part.channels.tolist() if position in starts}:
            found.setdefault(start, set()).add(id(kernel))
    return found


def _depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and 1 < module.groups == module.out_channels == module.in_channels


def _pairs(signature: Signature) -> dict[str, str]:
    """The kernel of each convolution whose output goes to a batch norm and nowhere else, with that norm's path."""
    program = signature.program
    uses = program.uses()
    found = {}
    for node in program.graph.nodes:
        norm = norm_behind(node) if packet(node) is torch.ops.aten.conv2d else None
        if norm is not None:
            kernel, scale = (program.tensors.get(arguments(one, 2)[1], "") for one in (node, norm))
            if uses[kernel] == uses[scale] == 1:
                found[kernel] = scale.rpartition(".")[0]
    return found


def insert(model: nn.Module, place: Place) -> Compactor:
    """Put a compactor at a place; what the network computes stays the same."""
    site: Any = model.get_submodule(place.path)
    if isinstance(site, BatchNormAct2d):
        compactor = site.drop = Compactor(site.weight.detach())
    elif isinstance(site, nn.BatchNorm2d):
        norm = CompactedNorm(site)
        _take_over(norm, site)
        model.set_submodule(place.path, norm)
        compactor = norm.compactor
    else:
        compactor = Compactor(dict(blocks(model))[place.path].branches[0][1].weight.detach())
        site.attn = compactor
    return compactor


def fold(model: nn.Module, place: Place) -> None:
    """Take the compactor at a place out again, in place.

    A norm with s = gamma / sqrt(v + eps) after a convolution W with bias b, and the compactor Q, put out in eval mode
    ``Q (s (W x + b - mu) + beta)``. So do, for any r_j other than 0 and any variance v', a convolution and a norm with

        W'_j = r_j sum_i Q_ji s_i W_i,                      b'_j = b_j,
        mu'_j = r_j sum_i Q_ji s_i (mu_i - b_i) + b_j,      gamma'_j = sqrt(v'_j + eps) / r_j,      beta' = Q beta.

    r_j keeps the row's norm, ``||W'_j|| = ||W_j||``, as the effective learning rate of a kernel before a norm depends on it; its sign is
    that of ``Q_jj s_j``. Where either norm is zero, |r_j| = 1. v' is a guess at the variance of W' x: that of each W_i x is known, and for
    the correlation of two of them stands the cosine of their kernels, which is what white x would give:

        v'_j = r_j^2 || sum_i Q_ji s_i sqrt(v_i) W_i / ||W_i|| ||^2.

    In a block each convolution takes Q in. Of the identity's ``Q diag(s) x`` the diagonal stays in its norm, whose scale becomes
    ``Q_jj gamma_j`` and its shift ``Q beta``. What is beside the diagonal goes to the centre of the last convolution's kernel: there each
    channel of x counts as one more W_i, with its mean and variance.

    Exact but for rounding: what is computed in eval mode, for every Q; and mu', as far as mu is the mean. A diagonal Q keeps kernels, means
    and variances and gives ``Q_jj gamma_j`` and ``Q_jj beta_j``, which is exact in training mode too, whatever the batch; Q = I gives the
    network back. (Rows whose kernel, scale or Q_jj is zero compute the same, with a kernel of zeros.) Approximate: v' of a row that mixes.
    In training mode such a channel of a convolution comes out scaled by sqrt((v' + eps) / (its variance + eps)).
    """
    site: Any = model.get_submodule(place.path)
    with torch.no_grad():
        if isinstance(site, CompactedNorm):
            norm = nn.BatchNorm2d(site.num_features, site.eps, site.momentum)
            _take_over(norm, site)
            model.set_submodule(place.path, norm)
            _fold_pair(model.get_submodule(place.conv), norm, site.compactor.weight)
        elif isinstance(site, BatchNormAct2d):
            q, site.drop = site.drop.get_parameter("weight"), nn.Identity()
            _fold_pair(model.get_submodule(place.conv), site, q)
        else:
            block = dict(blocks(model))[place.path]
            q, site.attn = site.attn.weight, nn.Identity()
            *others, (conv, norm) = block.branches
            for layer, behind in others:
                _fold_pair(layer, behind, q)
            _fold_pair(conv, norm, q, block.identity)
            if block.identity is not None:
                block.identity.weight.mul_(q.diagonal())
                block.identity.bias.copy_(q @ block.identity.bias)


def _fold_pair(conv: Any, norm: Any, q: Tensor, identity: Any = None) -> None:
    """A convolution and its norm take in Q, and what Q mixes of an identity beside them."""
    bias = torch.zeros_like(norm.bias) if conv.bias is None else conv.bias
    weights, kernels, means, variances = q * _scale(norm), conv.weight, norm.running_mean - bias, norm.running_var
    if identity is not None:
        passes = torch.zeros_like(kernels)
        passes[:, :, conv.kernel_size[0] // 2, conv.kernel_size[1] // 2].fill_diagonal_(1)
        weights = torch.cat([weights, (q - q.diagonal().diag()) * _scale(identity)], dim=1)
        kernels = torch.cat([kernels, passes])
        means, variances = torch.cat([means, identity.running_mean]), torch.cat([variances, identity.running_var])
    kernel = torch.einsum("ij,jklm->iklm", weights, kernels)
    before, after = (torch.linalg.vector_norm(rows.flatten(1), dim=1) for rows in (conv.weight, kernel))
    ratio = torch.where((before > 0) & (after > 0), before / after, 1.0).copysign(weights.diagonal())
    weights = ratio[:, None] * weights  # first of all: squares of a ratio could overflow
    variance = ((weights * variances.sqrt()) @ F.normalize(kernels.flatten(1), dim=1)).square().sum(dim=1)
    conv.weight.copy_(ratio[:, None, None, None] * kernel)
    norm.running_mean.copy_(weights @ means + bias)
    norm.running_var.copy_(variance)
    norm.weight.copy_((norm.running_var + norm.eps).sqrt() / ratio)
    norm.bias.copy_(q @ norm.bias)


def _scale(norm: Any) -> Tensor:
    scale: Tensor = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return scale


def _take_over(norm: nn.BatchNorm2d, old: nn.BatchNorm2d) -> None:
    """Parameters, statistics, device and mode of another norm."""
    norm.to(old.weight).train(old.training)
    with torch.no_grad():
        for name, tensor in chain(old.named_parameters(recurse=False), old.named_buffers(recurse=False)):
            dict(chain(norm.named_parameters(), norm.named_buffers()))[name].copy_(tensor)
    norm.weight.requires_grad_(old.weight.requires_grad)
    norm.bias.requires_grad_(old.bias.requires_grad)
