"""Gates: exactly binary, straight-through, folded into the readers without changing what is computed."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from networks import error, halves, randomised, run
from torch import nn

import pas
from pas.cost.macs import build
from pas.gates.binary import binary
from pas.gates.gated import Gated, Gates, fold, scale, through
from pas.surgery.forms import settle

pytestmark = pytest.mark.no_cover  # counting lines would take a third of the time, and others run them too


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_exactly_zero_or_one(dtype: torch.dtype) -> None:
    value = torch.cat([torch.linspace(-20, 20, 2001), torch.tensor([0.5])]).to(dtype)
    gates = binary(value)
    assert gates.dtype is dtype
    assert set(gates.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(gates.bool(), value > 0.5), "strictly above the threshold"


def test_the_gradient_passes_straight_through() -> None:
    value = torch.tensor([-3.0, 0.4, 0.6, 7.0], requires_grad=True)
    slope = torch.tensor([1.0, -2.0, 3.0, 4.0])
    (binary(value) * slope).sum().backward()
    assert torch.equal(value.grad, slope), "closed gates too, and no window"


def gated(name: str, seed: int = 0) -> tuple[nn.Module, torch.Tensor, pas.search.Signature, Gates, Gated]:
    model, x = randomised(name, 32, seed)
    signature = pas.signature(model, x)
    free = np.concatenate([np.arange(a.start, a.start + a.size) for a in signature.prunable])
    gates = Gates(signature.channels, free).double()
    return model, x, signature, gates, Gated(copy.deepcopy(model), signature, gates)


@pytest.mark.parametrize("name", ["repvgg_a0", "resnext50_32x4d", "cifar_resnet20", "mobilenetv2_100"])
def test_closed_gates_compute_what_the_mask_computes(name: str) -> None:
    """In eval mode, after settling: the identity norm of a closed channel saw zeros, so its mean is zero."""
    model, x, signature, gates, network = gated(name)
    mask = signature.mask(halves(signature, np.random.default_rng(1)))
    with torch.no_grad():
        gates.value.copy_(torch.from_numpy(mask[gates.free.numpy()]))
    settle(model, signature, mask)
    assert error(run(pas.mask(model, signature, signature.architecture(mask)), x), run(network, x)) < 1e-12


def test_train_mode_is_that_of_the_sliced_network() -> None:
    """Batch statistics of a closed channel never reach an open one: one training forward is that of the slice."""
    model, x, signature, gates, network = gated("repvgg_a0")
    architecture = halves(signature, np.random.default_rng(2))
    with torch.no_grad():
        gates.value.copy_(torch.from_numpy(signature.mask(architecture)[gates.free.numpy()]))
    small = pas.slice(model, signature, architecture).train()
    assert error(run(network.train(), x), run(small, x)) < 1e-10


def test_gate_gradients_by_finite_differences() -> None:
    """With an identity instead of the threshold, the folded gates' gradient is the slope of the loss, closed ones
    included.
    """
    _model, x, signature, gates, network = gated("cifar_resnet20")
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(len(gates.free), generator=generator, dtype=torch.float64)
    soft = torch.ones(signature.channels, dtype=torch.float64)

    def loss(v: torch.Tensor) -> torch.Tensor:
        every = soft.index_copy(0, gates.free, v)
        network.gates.forward = lambda: every  # type: ignore[method-assign]
        return network(x).square().sum()

    leaf = values.clone().requires_grad_()
    loss(leaf).backward()
    for i in range(0, len(values), 37):
        step = torch.zeros_like(values)
        step[i] = 1e-6
        with torch.no_grad():
            slope = (loss(values + step) - loss(values - step)) / 2e-6
        assert leaf.grad[i].item() == pytest.approx(slope.item(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("shape", [(96, 80, 3, 3), (300, 257), (70000,), (8, 6, 3, 3), (5,)])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_weights_fold_as_the_product_does(shape: tuple[int, ...], share: float) -> None:
    """Those of more elements than `CHUNK` have a way of their own on a CPU; slope by hand: sum over the rest of weight * gradient."""
    generator = torch.Generator().manual_seed(0)
    for dim in range(min(len(shape), 2)):
        weight = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
        gates = (torch.rand(shape[dim], generator=generator, dtype=torch.float64) < share).double().requires_grad_()
        slope = torch.randn(shape, generator=generator, dtype=torch.float64)
        sides = (1,) * dim + (-1,) + (1,) * (len(shape) - dim - 1)
        folded = fold(weight, gates, dim)
        folded.backward(slope)
        assert torch.equal(folded, weight * gates.view(sides))
        assert (folded.data_ptr() == weight.data_ptr()) == (share == 1.0)  # open gates copy nothing
        assert torch.equal(weight.grad, slope * gates.view(sides))
        expected = (slope * weight).sum([d for d in range(len(shape)) if d != dim]) if len(shape) > 1 else slope * weight
        assert torch.allclose(gates.grad, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["cifar_resnet20", "mobilenetv2_100"])
def test_compiled_it_is_one_graph_with_the_same_gradients(name: str) -> None:
    """No operator that looks at a gate's value breaks the graph; closed gates and the weights behind them get what they get without."""
    _, x, signature, gates, network = gated(name)
    mask = signature.mask(halves(signature, np.random.default_rng(1)))
    with torch.no_grad():
        gates.value.copy_(torch.from_numpy(mask[gates.free.numpy()]))
    found = []
    for call in (network, torch.compile(network, backend="aot_eager", fullgraph=True)):
        network.zero_grad()
        call(x).square().sum().backward()
        found.append({key: p.grad.clone() for key, p in network.named_parameters() if p.grad is not None})
    eager, compiled = found
    assert eager["gates.value"].any()
    assert compiled.keys() == eager.keys()
    assert all(torch.allclose(compiled[key], its, rtol=1e-10, atol=1e-12 * float(its.abs().max())) for key, its in eager.items())


@pytest.mark.parametrize("kind", ["macs", "params"])
def test_cost_gradient_by_finite_differences(kind: str) -> None:
    """Exact at 0/1 and differentiable between: both what makes and what reads a channel."""
    model, x = randomised("resnext50_32x4d", 32, 0)
    cost = build(pas.signature(model, x), kind)
    signature = pas.signature(model, x)
    gates = torch.rand(signature.channels, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    gates[0] = 1
    leaf = gates.clone().requires_grad_()
    cost(leaf).backward()
    for axis in signature.prunable[::5]:
        step = torch.zeros_like(gates)
        step[axis.start] = 1e-4
        slope = (cost(gates + step) - cost(gates - step)) / 2e-4
        assert leaf.grad[axis.start].item() == pytest.approx(slope.item(), rel=1e-6)


def test_cost_gradient_by_hand() -> None:
    """conv(3 -> 4, 3x3) then conv(4 -> 5, 1x1) on 6x6: a gate of the first saves 3 * 9 * 16 as maker and 5 * 16 as
    reader.
    """
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 5, 1, bias=False))
    signature = pas.signature(net, torch.randn(1, 3, 6, 6))
    leaf = torch.ones(signature.channels, dtype=torch.float64, requires_grad=True)
    build(signature, "macs")(leaf).backward()
    axis = signature.axis("0")
    assert leaf.grad[axis.start : axis.start + 4].tolist() == [3 * 9 * 16 + 5 * 16] * 4


def test_folds_by_hand() -> None:
    """w = [[1, 2], [3, 4]] along dimension 1, incoming gradient [[1, 10], [100, 1000]]: gate gradients are 1 + 300 and 20 + 4000."""
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    incoming = torch.tensor([[1.0, 10.0], [100.0, 1000.0]], dtype=torch.float64)
    gates = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    whole, masked = incoming.tolist(), [[1.0, 0.0], [100.0, 0.0]]
    for folded, of_weight in ((fold, masked), (scale, masked), (through, whole)):
        found = folded(weight, gates, 1)
        assert found.tolist() == [[1.0, 0.0], [3.0, 0.0]]
        one, two = torch.autograd.grad(found, (weight, gates), incoming)
        assert (one.tolist(), two.tolist()) == (of_weight, [301.0, 4020.0])
    soft = torch.tensor([0.3, 0.7], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w, g: scale(w, g, 1), (weight, soft))
