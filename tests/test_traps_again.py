"""More code that could be got wrong: attention with one key head, sums of weights, storage that buffers share, complex weights, names."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from networks import error, halves, holds, randomised, run
from torch import Tensor, nn

import pas
from pas.gates.gated import Gated, Gates
from pas.surgery.permute import permute


class OneKeyManyValues(nn.Module):
    """One key head, a value for each head."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.head = nn.Linear(6, 20), nn.Linear(6, 5), nn.Linear(6, 28), nn.Linear(28, 3)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, _ = x.shape
        q, v = (layer(x).view(n, tokens, 4, -1).transpose(1, 2) for layer in (self.q, self.v))
        y = nn.functional.scaled_dot_product_attention(q, self.k(x)[:, None], v)
        return self.head(y.transpose(1, 2).flatten(2)).mean(1)


class Sum(nn.Module):
    """A weight that is the sum of two, which get one gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Linear(6, 8), nn.Linear(5, 3)
        self.w, self.d = nn.Parameter(torch.randn(5, 8)), nn.Parameter(torch.randn(5, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(nn.functional.linear(self.a(x).relu(), self.w + self.d).relu()).mean(1)


class Views(nn.Module):
    """A buffer that is a part of another one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.register_buffer("t", torch.randn(10, 8))
        self.register_buffer("u", self.t[:5])

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.a(x) + self.t[:5] * self.u).relu()).mean(1)


class Named(nn.Module):
    """A shuffle beside a layer that is called as the order of a shuffle would be."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.order0, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=4), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        n, c, h, w = y.shape
        y = y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(self.order0(y).relu()).mean((2, 3))


CASES = {
    "one key, many values": (OneKeyManyValues, (3, 5, 6)),
    "a sum of weights": (Sum, (3, 5, 6)),
    "a view of a buffer": (Views, (3, 5, 6)),
    "a layer with the name of an order": (Named, (3, 3, 4, 4)),
}


@pytest.mark.parametrize("name", CASES)
def test_right(name: str) -> None:
    make, shape = CASES[name]
    torch.manual_seed(0)
    holds(make().double().eval(), (torch.randn(shape, dtype=torch.float64),))


def test_gates_of_a_sum_of_weights_get_their_own_gradients() -> None:
    """By hand: with W = w + d and gate g, dL/dg_i = sum_o W[o, i] dL/d(W g)[o, i]; here against plain multiplication."""
    torch.manual_seed(0)
    network, x = Sum().double(), torch.randn(3, 5, 6, dtype=torch.float64)
    signature = pas.signature(network, x)
    axis = signature.axis("a")
    gates = Gates(signature.channels, np.arange(axis.start, axis.start + axis.size)).double()
    with torch.no_grad():
        gates.value[[1, 4, 6]] = 0
    Gated(network, signature, gates)(x).square().sum().backward()
    b = torch.ones(8, dtype=torch.float64)
    b[[1, 4, 6]] = 0
    b.requires_grad_()
    hidden = nn.functional.linear(network.a(x).relu(), network.w * b + network.d * b).relu()
    (expected,) = torch.autograd.grad(network.head(hidden).mean(1).square().sum(), b)
    assert error(expected, gates.value.grad) < 1e-12


def test_three_of_anything_is_no_batch() -> None:
    """Three scales of a table of 50 places, projected from 6 to 12 and from 12 to 4 channels, are computed once for all examples, not once
    for each: 3 * 50 * (6 * 12 + 12 * 4) multiply-adds, and 5 * 4 * 2 for each example.
    """

    class Scales(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.place, self.more, self.a = nn.Linear(6, 12), nn.Linear(12, 4), nn.Linear(4, 2)
            self.register_buffer("table", torch.randn(1, 50, 6))
            self.register_buffer("scales", torch.randn(3, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            places = self.more(self.place(self.table.expand(3, -1, -1) * self.scales).relu()).mean((0, 1))
            return self.a(x + places)

    signature = pas.signature(Scales(), torch.randn(1, 5, 4))
    assert pas.cost.macs(signature, signature.dense()) == 3 * 50 * (6 * 12 + 12 * 4) + 5 * 4 * 2


def test_complex_weights_stay_complex() -> None:
    class Filter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f, self.a = nn.Parameter(torch.randn(8, 5, dtype=torch.cfloat)), nn.Conv2d(3, 6, 1)
            self.b, self.head = nn.Conv2d(6, 4, 1), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.fft.irfft2(torch.fft.rfft2(self.a(x)) * self.f, s=(8, 8))
            return self.head(self.b(y.relu()).relu().mean((2, 3)))

    torch.manual_seed(0)
    network, x = Filter().eval(), torch.randn(2, 3, 8, 8)
    signature = pas.signature(network, x)
    architecture = halves(signature, np.random.default_rng(0))
    small = pas.slice(network, signature, architecture)
    assert small.f.is_complex()
    assert error(run(pas.mask(network, signature, architecture), x), run(small, x)) < 1e-5


def test_an_output_may_be_a_number() -> None:
    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> dict[str, Tensor | int]:
            return {"y": self.b(self.a(x).relu()), "tokens": x.shape[1]}

    network, x = Counted().eval(), torch.randn(2, 5, 6)
    signature = pas.signature(network, x)
    small = pas.slice(network, signature, signature.dense().keep("a", [1, 2]))
    assert small(x)["y"].shape == (2, 5, 3)
    assert small(x)["tokens"] == 5


def test_permute_leaves_the_argument_as_it_is() -> None:
    network, x = Views().double().eval(), torch.randn(2, 5, 6, dtype=torch.float64)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    permute(network, pas.signature(network, x), {"a": list(reversed(range(8)))})
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in before.items())


@pytest.mark.parametrize("name", ["levit_128s", "tiny_vit_5m_224"])
def test_what_a_network_remembers_of_eval_mode_is_not_copied(name: str) -> None:
    """They keep attention biases in a dictionary from the first pass in eval mode on: of all heads, whatever is cut later."""
    model, x = randomised(name, 224, seed=0)
    whole = run(model, x)
    signature = pas.signature(model, x)
    exact = tuple(axis for axis in signature.prunable if axis.exact)
    architecture = halves(signature, np.random.default_rng(0), exact)
    run(model, x)
    masked, small = pas.mask(model, signature, architecture), pas.slice(model, signature, architecture)
    assert error(run(masked, x), run(small, x)) < 1e-10
    orders = {axis.name: np.random.default_rng(0).permutation(axis.size).tolist() for axis in signature.prunable}
    assert error(whole, run(permute(model, signature, orders), x)) < 1e-10
    assert torch.equal(run(model, x), whole)


def test_channels_that_noise_leaves_dead_don_t_drown_the_comparison() -> None:
    """ConvMixer's norms come after its activations: at random some channels are off everywhere. Divided by their own statistics, nothing
    but rounding would be left of them, in 32 layers on top of each other.
    """
    torch.manual_seed(0)
    model, x = timm.create_model("convmixer_768_32", num_classes=5).eval(), torch.randn(1, 3, 64, 64)
    signature = pas.signature(model, x)
    assert type(pas.slice(model, signature, halves(signature, np.random.default_rng(0)))) is type(model)
