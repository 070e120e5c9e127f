"""The equality ladder: gates open = backbone; masked = sliced = fused; cost = counter; nothing handed in is changed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from networks import LADDER, error, halves, moved_by_each_axis, randomised, run
from torch.utils.flop_counter import FlopCounterMode

import pas
from pas.gates.gated import Gated, Gates

pytestmark = pytest.mark.no_cover  # thousands of small steps: counting lines would take longer than running them


TWINS = ("repvgg_b1g4", "resnet50", "cifar_resnet56")
"""What they have that others lack is groups in RepVGG, tested below; else they repeat repvgg_a0, resnext50_32x4d, cifar_resnet20."""


def climb(name: str, size: int, seed: int, **arguments: object) -> None:
    model, x = randomised(name, size, seed, **arguments)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    whole = run(model, x)
    assert error(whole, run(model, x.flip(0))) > 1e-2, "the output must depend on the image"

    signature = pas.signature(model, x[:1])
    rng = np.random.default_rng(seed)
    moved = moved_by_each_axis(model, signature, x, rng)
    assert min(moved.values()) > 1e-6, "every exact axis must matter"
    gates = Gates(signature.channels, np.arange(1, signature.channels)).double()
    assert torch.equal(run(Gated(model, signature, gates), x), whole), "open gates are the backbone, exactly"

    architecture = halves(signature, rng)
    masked, small = pas.mask(model, signature, architecture), pas.slice(model, signature, architecture)
    plain = pas.fuse(small)
    with FlopCounterMode(display=False) as counter:
        fused = run(plain, x[:1])
    assert error(whole, run(masked, x)) > 1e-3
    assert error(run(masked, x), run(small, x)) < 1e-10
    assert error(run(small, x), run(plain, x)) < 1e-10
    assert error(run(small.float(), x.float()), run(plain.float(), x.float())) < 1e-5
    assert fused.shape == (1, 10)
    assert pas.cost.macs(signature, architecture) == counter.get_total_flops() // 2
    assert pas.cost.params(signature, architecture) == sum(p.numel() for p in plain.parameters())
    assert not model.training
    assert not small.training
    assert not plain.training
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before), "arguments stay as they were"


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in TWINS else name for name in LADDER])
def test_ladder(name: str) -> None:
    climb(name, 64, seed=0, **({"mlp_ratio": 1 / 64} if name == "vgg11_bn" else {}))  # else it has a layer of 100 M weights


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])  # with 1, cifar_resnet56 hardly depends on its image
@pytest.mark.parametrize("name", LADDER)
def test_ladder_at_full_size(name: str, seed: int) -> None:
    climb(name, 32 if name.startswith("cifar") else 224, seed)


@pytest.mark.parametrize(
    "name", ["repvgg_a0", "repvgg_b1g4", "mobileone_s0", "resnext50_32x4d", "densenet121", "cifar_resnet20"]
)
def test_any_subset_is_legal(name: str) -> None:
    """Single channels, all but one, odd numbers; groups too."""
    model, x = randomised(name, 32, seed=3)
    signature = pas.signature(model, x)
    rng = np.random.default_rng(4)
    architecture = signature.dense()
    for number, axis in enumerate(signature.prunable):
        count = (axis.size - 1, rng.integers(axis.size // 2, axis.size) + 1, 1 if number % 6 == 2 else axis.size)[number % 3]
        architecture = architecture.keep(axis.name, rng.choice(axis.size, max(1, int(count)), replace=False))
    small = pas.slice(model, signature, architecture)
    masked = run(pas.mask(model, signature, architecture), x)
    assert masked.abs().max() > 0
    assert error(masked, run(small, x)) < 1e-10
    assert error(masked, run(pas.fuse(small), x)) < 1e-10
    assert pas.cost.params(signature, architecture) == sum(p.numel() for p in pas.fuse(small).parameters())


@pytest.mark.parametrize("name", ["repvgg_a0", "mobileone_s0", "cifar_resnet20", "mobilenetv2_100"])
def test_sliced_networks_train_in_both_modes(name: str) -> None:
    """Every parameter gets a gradient, norms move their statistics, the mode switches, and any batch size runs."""
    model, x = randomised(name, 32, seed=0)
    signature = pas.signature(model, x)
    small = pas.slice(model.train(), signature, halves(signature, np.random.default_rng(0)))
    assert small.training
    assert model.training
    norm = next(module for module in small.modules() if isinstance(module, torch.nn.BatchNorm2d))
    before = norm.running_mean.clone()
    small(torch.cat([x, x.flip(3), x.flip(2)])).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in small.parameters())
    assert not torch.equal(before, norm.running_mean)
    small.eval()
    assert torch.equal(run(small, x), run(small, x))
    assert error(run(small, x)[:1], run(small, x[:1])) < 1e-12


def test_slicing_a_slice() -> None:
    """A sliced network has a signature of its own, also when its identity branches are rewired."""
    model, x = randomised("repvgg_a0", 32, seed=0)
    first = pas.signature(model, x)
    rng = np.random.default_rng(1)
    small = pas.slice(model, first, halves(first, rng))
    second = pas.signature(small, x)
    assert [axis.size for axis in second.prunable] == [axis.size // 2 for axis in first.prunable]
    architecture = halves(second, rng)
    smaller = pas.slice(small, second, architecture)
    masked = run(pas.mask(small, second, architecture), x)
    assert error(masked, run(smaller, x)) < 1e-10
    assert error(masked, run(pas.fuse(smaller), x)) < 1e-10


def test_dropped_input_keeps_the_bias_of_the_identity_norm() -> None:
    """By hand: block stages.0.1 of RepVGG-A0 reads channel 7, which goes; its output 7 stays.

    The identity norm of a zero is beta - mean * gamma / sqrt(var + eps), and that must be in the fused bias, with both
    kernels' norms.
    """
    model, x = randomised("repvgg_a0", 32, seed=0)
    signature = pas.signature(model, x)
    block = model.stages[0][1]
    expected = 0.0
    for norm in (block.identity, block.conv_kxk.bn, block.conv_1x1.bn):
        scale = norm.weight[7] / (norm.running_var[7] + norm.eps).sqrt()
        expected = expected + norm.bias[7] - norm.running_mean[7] * scale
    architecture = signature.dense().keep("stages.0.0", [c for c in range(48) if c != 7])
    plain = pas.fuse(pas.slice(model, signature, architecture))
    conv = plain.stages[0][1].reparam_conv
    assert conv.weight.shape == (48, 47, 3, 3)
    assert conv.bias[7].item() == pytest.approx(expected.item(), rel=1e-12)


def test_fusing_a_network_without_branches_is_an_equal_copy() -> None:
    model, x = randomised("resnet18", 32, seed=0)
    copy = pas.fuse(model)
    assert copy is not model
    assert list(copy.state_dict()) == list(model.state_dict())
    assert torch.equal(run(copy, x), run(model, x))


def test_fused_names_are_timms() -> None:
    """The fused state dict is the one that timm's own re-parameterisation makes."""
    from timm.utils import reparameterize_model

    model, x = randomised("mobileone_s0", 32, seed=0)
    theirs = reparameterize_model(model)
    ours = pas.fuse(model)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert error(run(theirs, x), run(ours, x)) < 1e-12
