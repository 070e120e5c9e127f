"""Merge the branches of re-parameterised blocks into one convolution.

RepVGG (https://arxiv.org/abs/2101.03697, section 3.3) and MobileOne (https://arxiv.org/abs/2206.04040, section 3): a
block ``y = act(sum_b norm_b(W_b * x))`` is ``act(W * x + bias)``, because a convolution followed by a norm in eval mode
is a convolution, a 1x1 kernel is a larger kernel padded with zeros, and the identity is a kernel with ones on its
diagonal.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.byobnet import MobileOneBlock, RepVggBlock
from torch import Tensor, nn

from pas.axes.capture import forget


class IdentityNorm(nn.BatchNorm2d):
    """The identity branch of a block whose input and output keep different channels.

    Output channel o reads input channel ``source[o]``; where that was dropped (-1) it reads zeros, and the norm's bias
    stays: leaving it out is the classic error. Shapes: (N, C_in, H, W) -> (N, C_out, H, W).
    """

    source: Tensor

    def __init__(self, norm: nn.BatchNorm2d, source: Tensor) -> None:
        super().__init__(len(source), norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self.register_buffer("source", source, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, torch.zeros_like(x[:, :1])], dim=1)
        return super().forward(x.index_select(1, self.source % x.shape[1]))


@dataclass(frozen=True)
class Block:
    """A re-parameterised block in its training form: convolutions with their norms, and perhaps the norm of an
    identity.
    """

    module: nn.Module
    branches: tuple[tuple[nn.Conv2d, nn.BatchNorm2d], ...]
    identity: nn.BatchNorm2d | None

    @property
    def main(self) -> nn.Conv2d:
        """The branch with the largest kernel: stride, padding and groups of the fused convolution."""
        return self.branches[0][0]


def _repvgg(block: Any) -> Block:
    return Block(block, tuple((b.conv, b.bn) for b in (block.conv_kxk, block.conv_1x1)), block.identity)


def _mobileone(block: Any) -> Block:
    scale = [] if block.conv_scale is None else [block.conv_scale]
    return Block(block, tuple((b.conv, b.bn) for b in [*block.conv_kxk, *scale]), block.identity)


READERS: dict[type[nn.Module], Callable[..., Block]] = {RepVggBlock: _repvgg, MobileOneBlock: _mobileone}
"""How to read the branches of each kind of block."""


def blocks(model: nn.Module) -> Iterator[tuple[str, Block]]:
    """The path and the branches of every block that is in its training form."""
    for path, module in model.named_modules():
        if type(module) in READERS and module.reparam_conv is None:
            yield path, READERS[type(module)](module)


def equivalent_kernel(block: Block) -> tuple[Tensor, Tensor]:
    """Weight (C_out, C_in / groups, K, K) and bias (C_out) that compute what the branches compute in eval mode,
    differentiably.
    """
    size = block.main.kernel_size
    weight: Any = 0
    bias: Any = 0
    for conv, norm in block.branches:
        scale, shift = _affine(norm)
        pads = [p for big, small in zip(reversed(size), reversed(conv.kernel_size), strict=True) for p in [(big - small) // 2] * 2]
        weight = weight + F.pad(conv.weight * scale[:, None, None, None], pads)
        bias = bias + shift + (0 if conv.bias is None else conv.bias * scale)
    if block.identity is not None:
        scale, shift = _affine(block.identity)
        weight = weight + _identity_kernel(block) * scale[:, None, None, None]
        bias = bias + shift
    return weight, bias


def fuse(model: nn.Module) -> nn.Module:
    """A new network in which every block is one convolution with its activation, in plain torch modules.

    Ordinary convolutions keep their norms; a network without such blocks comes back as an equal copy. Other modules
    that bring timm's re-parameterisation hooks are merged by these. Mode, dtype and device stay.
    """
    model = forget(copy.deepcopy(model))
    for path, block in list(blocks(model)):
        fused = _fused(block)
        fused.train(block.module.training)
        if not path:
            return fused
        model.set_submodule(path, fused)
    return merged(model, copied=True)


HOOKS = ("fuse", "reparameterize", "switch_to_deploy")
"""What timm's re-parameterisation calls, the first one that a module has: `fuse` returns a module, the others change it in place."""


def merged(model: nn.Module, *, copied: bool = False) -> nn.Module:
    """The network with every module that brings timm's re-parameterisation hooks merged by these, except the blocks of `READERS`, whose
    branches are known here, and ordinary pairs of a convolution (or linear layer) and its norm. A copy, unless it is one already or
    there is nothing to merge.
    """
    if not any(_hook(module) for path, module in model.named_modules() if path):
        return model
    model = model if copied else forget(copy.deepcopy(model))
    before = torch.get_default_dtype()
    parameter = next(model.parameters())
    trained = {name: one.requires_grad for name, one in model.named_parameters()}
    torch.set_default_dtype(parameter.dtype)  # the hooks make their layers with the defaults
    try:
        with parameter.device, torch.no_grad():
            _merge_children(model)
    finally:
        torch.set_default_dtype(before)
    for name, one in model.named_parameters():  # timm's hooks also detach what they don't merge, such as squeeze-and-excite
        one.requires_grad_(_was_trained(name, trained))
    return model


def _was_trained(name: str, trained: dict[str, bool]) -> bool:
    """Whether a parameter was trained; of a new one, such as the bias that a norm leaves, whether any was in what it was merged from."""
    if name in trained:
        return trained[name]
    path = name
    while path:
        path = path.rpartition(".")[0]
        around = [flag for other, flag in trained.items() if other.startswith(f"{path}." if path else "")]
        if around:
            return any(around)
    return False


def _merge_children(parent: nn.Module) -> None:
    for name, child in list(parent.named_children()):
        hook = _hook(child)
        if hook is not None:
            training = child.training
            new = getattr(child, hook)()
            if hook == "fuse":
                setattr(parent, name, new)
            parent.get_submodule(name).train(training)
        if type(child) not in READERS:
            _merge_children(parent.get_submodule(name))


def _hook(module: nn.Module) -> str | None:
    """The hook that merges a module's branches, if it has one that is to be called."""
    if type(module) in READERS or getattr(module, "reparam_conv", None) is not None:
        return None
    hook = next((name for name in HOOKS if callable(getattr(module, name, None))), None)
    holders = [m for m in module.modules() if m._parameters]
    pair = len(holders) == 2 and sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in holders) == 1
    return None if pair else hook


def _fused(block: Block) -> nn.Sequential:
    main = block.main
    weight, bias = equivalent_kernel(block)
    # pairs, which torch declares as tuples of any length
    geometry: dict[str, Any] = {name: getattr(main, name) for name in ("kernel_size", "stride", "padding", "dilation")}
    conv = nn.Conv2d(
        main.in_channels,
        main.out_channels,
        **geometry,
        groups=main.groups,
        bias=True,
        padding_mode=main.padding_mode,
        device=weight.device,
        dtype=weight.dtype,
    )
    with torch.no_grad():
        conv.weight.copy_(weight)
        conv.get_parameter("bias").copy_(bias)
    training_form: Any = block.module
    layers: OrderedDict[str, nn.Module] = OrderedDict(reparam_conv=conv)
    if not isinstance(training_form.attn, nn.Identity):
        layers["attn"] = training_form.attn
    if not isinstance(training_form.act, nn.Identity):
        layers["act"] = training_form.act
    return nn.Sequential(layers)


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """A norm in eval mode as scale and shift."""
    scale = norm.weight * (norm.get_buffer("running_var") + norm.eps).rsqrt()
    return scale, norm.bias - norm.get_buffer("running_mean") * scale


def _identity_kernel(block: Block) -> Tensor:
    """Ones where output o reads input ``source[o]``, at the centre; zeros for an input that was dropped."""
    conv = block.main
    kernel = torch.zeros_like(conv.weight)
    out, per_group = kernel.shape[:2]
    inputs = torch.arange(per_group, device=kernel.device)
    source = block.identity.source if isinstance(block.identity, IdentityNorm) else torch.arange(out, device=kernel.device)
    diagonal = (inputs == source[:, None] % per_group) & (source[:, None] >= 0)
    kernel[:, :, conv.kernel_size[0] // 2, conv.kernel_size[1] // 2] = diagonal.to(kernel.dtype)
    return kernel
