"""Networks that an equality test can fail on: real architectures with norms that matter."""

from __future__ import annotations

import numpy as np
import timm
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import pas
import pas.models
from pas.axes.signature import Axis, Signature
from pas.gates.gated import Gated, Gates
from pas.surgery.permute import permute

LADDER = (
    "repvgg_a0", "repvgg_b1g4", "mobileone_s0", "mobilenetv1_100", "mobilenetv2_100", "mobilenetv3_small_100",
    "mobilenetv4_conv_small", "resnet18", "resnet50", "resnext50_32x4d", "densenet121", "vgg11_bn", "cifar_resnet20", "cifar_resnet56",
)  # fmt: skip


def randomised(name: str, size: int, seed: int, num_classes: int = 10, **arguments: object) -> tuple[nn.Module, Tensor]:
    """A network in fp64 and eval mode with randomised norms, and images (2, 3, size, size)."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = timm.create_model(name, num_classes=num_classes, **arguments).double()
    images = torch.randn(8, 3, size, size, generator=generator, dtype=torch.float64)
    images += torch.randn(
        8, 3, 1, 1, generator=generator, dtype=torch.float64
    )  # images differ in colour, as real ones do
    randomise(model, images, generator)
    return model.eval(), images[:2]


def randomise(model: nn.Module, images: Tensor, generator: torch.Generator) -> None:
    """A fresh network can't fail an equality test: norm weights come from U(0.5, 1.5), biases from N(0, 0.1), the
    statistics from one pass in train mode, jittered by 20 %.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.weight.uniform_(0.5, 1.5, generator=generator)
            norm.bias.normal_(0, 0.1, generator=generator)
        model.train()(images)
        for norm in norms:
            for statistic in (norm.running_mean, norm.running_var):
                statistic *= 1 + 0.2 * (2 * torch.rand(len(statistic), generator=generator, dtype=statistic.dtype) - 1)


def error(expected: Tensor, found: Tensor) -> float:
    """max |a - b| / max |a|."""
    assert expected.shape == found.shape
    assert expected.any(), "an output of zeros can't tell anything"
    return float((expected - found).abs().max() / expected.abs().max())


def run(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)


def halves(signature: Signature, rng: np.random.Generator, axes: tuple[Axis, ...] | None = None) -> pas.Architecture:
    """A random half of each axis (odd subsets for odd sizes), or of the given ones only."""
    architecture = signature.dense()
    for axis in axes or signature.prunable:
        architecture = architecture.keep(axis.name, rng.choice(axis.size, max(1, axis.size // 2), replace=False))
    return architecture


def moved_by_each_axis(model: nn.Module, signature: Signature, x: Tensor, rng: np.random.Generator) -> dict[str, float]:
    """How much the output moves when a half of one exact axis alone is switched off; on one small image, which is as telling."""
    x = x[:1, :, ::2, ::2]
    whole = run(model, x)
    moved = {}
    for axis in (a for a in signature.prunable if a.exact):
        gates = Gates(signature.channels, np.arange(axis.start, axis.start + axis.size)).double()
        off = rng.choice(axis.size, max(1, axis.size // 2), replace=False)
        with torch.no_grad():
            gates.value[torch.from_numpy(off)] = 0
        moved[axis.name] = error(whole, run(Gated(model, signature, gates), x))
    return moved


def holds(model: nn.Module, example: tuple[Tensor, ...] | dict[str, Tensor], tolerance: float = 1e-12, dead: float = 0) -> Signature:
    """Everything that a slice promises: channels in another order compute the same; each exact axis matters (but for a share `dead` of
    them, such as pieces of three channels behind a ReLU), and with half of them all masked = sliced; with half of all axes cost =
    counter, parameters counted, it trains, and a state dict brings it back.
    """
    signature = pas.signature(model, example)
    rng = np.random.default_rng(0)
    exact = tuple(axis for axis in signature.prunable if axis.exact)
    assert signature.prunable
    whole = outputs(model, example)
    moved = {a.name: error(whole, outputs(pas.mask(model, signature, halves(signature, rng, (a,))), example)) for a in exact}
    still = [name for name, by in moved.items() if not by >= 1e-6]
    assert len(still) <= dead * len(moved), f"{still} don't matter"
    orders = {axis.name: rng.permutation(axis.size).tolist() for axis in signature.prunable}
    assert error(whole, outputs(permute(model, signature, orders), example)) < 1e-10
    if exact:
        architecture = halves(signature, rng, exact)
        masked, small = pas.mask(model, signature, architecture), pas.slice(model, signature, architecture)
        assert error(outputs(masked, example), outputs(small, example)) < tolerance
        gates = Gates(signature.channels, np.arange(1, signature.channels)).double()
        gated = Gated(model, signature, gates)
        assert torch.equal(outputs(gated, example), whole)
        with torch.no_grad():
            gates.value.copy_(torch.from_numpy(signature.mask(architecture)[1:]))
        assert error(outputs(masked, example), outputs(gated, example)) < tolerance
    architecture = halves(signature, rng)
    small = pas.slice(model, signature, architecture)
    plain = pas.fuse(small)
    with FlopCounterMode(display=False) as counter:
        outputs(plain, example)
    batch = len(next(iter(example.values())) if isinstance(example, dict) else example[0])
    assert pas.cost.macs(signature, architecture) * batch == counter.get_total_flops() // 2
    assert pas.cost.params(signature, architecture) == sum(p.numel() for p in plain.parameters())
    again = pas.slice(model, signature, architecture)
    small.train()
    for _ in range(2):
        loss = sum(leaf.square().mean() for leaf in leaves(small, example))
        assert isinstance(loss, Tensor)
        trained = [parameter for parameter in small.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(loss, trained, allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(trained, gradients, strict=True):
                assert gradient is not None
                parameter -= 0.01 * gradient
    again.load_state_dict(small.state_dict())
    assert torch.equal(outputs(small.eval(), example), outputs(again.eval(), example))
    return signature


def outputs(model: nn.Module, example: tuple[Tensor, ...] | dict[str, Tensor]) -> Tensor:
    """All results of a network in one vector."""
    with torch.no_grad():
        return torch.cat([leaf.flatten() for leaf in leaves(model, example)])


def leaves(model: nn.Module, example: tuple[Tensor, ...] | dict[str, Tensor]) -> list[Tensor]:
    found = model(**example) if isinstance(example, dict) else model(*example)
    return [leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor)]
