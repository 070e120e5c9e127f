"""Which form a slice has: its own class wherever the class's code is right, whatever it does with its inputs and with examples."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import pas


class Base(nn.Module):
    """A norm over the channels of `a`, so that only a graph can tell what a slice has to compute."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b, self.tau = nn.Linear(6, 16), nn.LayerNorm(16), nn.Linear(16, 5), 1.0

    def body(self, x: Tensor) -> Tensor:
        return self.b(self.norm(self.a(x)).relu())

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Squeezed(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)[..., :1].squeeze()


class Flat(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).flatten(0, 1)


class WithLoss(Base):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.body(x)
        return z, z.square().mean()


class Pairs(Base):
    def forward(self, x: Tensor) -> Tensor:
        z = self.body(x).mean(1)
        return z @ z.T


class TimeFirst(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).transpose(0, 1)


class TwoAtLeast(Base):
    def forward(self, x: Tensor) -> Tensor:
        z = self.body(x)
        return (z - z.mean(0)) / z.std(0)


class Annealed(Base):
    def forward(self, x: Tensor) -> Tensor:
        return (self.body(x) / self.tau).softmax(-1)


class InPlace(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.sub_(0.5).div_(0.25))


class Masked(Base):
    def forward(self, x: Tensor) -> Tensor:
        z = self.body(x)
        return z.masked_fill(torch.ones_like(z, dtype=torch.bool).tril(1), float("-inf"))


class Counted(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) * (1 / (x.shape[0] - 1))


OWN = (Base, Squeezed, Flat, WithLoss, Pairs, TimeFirst, TwoAtLeast, Annealed, InPlace, Masked, Counted)


@pytest.mark.parametrize("kind", OWN)
@pytest.mark.parametrize("batch", [2, 5])
def test_code_that_is_right_is_kept(kind: type[Base], batch: int) -> None:
    torch.manual_seed(0)
    network, x = kind().eval(), torch.randn(batch, 4, 6)
    signature = pas.signature(network, x)
    network.tau = 0.1  # as a search that anneals would
    before = x.clone()
    small = pas.slice(network, signature, signature.dense().keep("a", range(8)))
    assert type(small) is kind
    assert torch.equal(x, before)


class Many(Base):
    """Another way for many examples, with a number of channels in it."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.a(x))
        y = y * (y.shape[-1] / 16) if x.shape[0] > 4 else y
        return self.b(y.relu())


def test_code_is_tried_on_as_many_examples_as_there_were() -> None:
    """With 8 of 16 channels `Many` would halve its activations, but only among more than four examples; the graph of three doesn't."""
    torch.manual_seed(0)
    network, x = Many().eval(), torch.randn(8, 4, 6)
    signature = pas.signature(network, x)
    small = pas.slice(network, signature, signature.dense().keep("a", range(0, 16, 2)))
    assert (small(x)[:3] - small(x[:3])).abs().max() < 1e-6


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.a, self.b = nn.Embedding(50, 16), nn.Linear(16, 12), nn.Linear(12, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens += 1
        return self.b(self.a(self.table(tokens)).relu())


def test_tokens_that_the_code_counts_up_stay_what_they_were() -> None:
    network, tokens = Tokens().eval(), torch.zeros(2, 4, dtype=torch.long)
    signature = pas.signature(network, tokens)
    assert type(pas.slice(network, signature, signature.dense().keep("a", range(4)))) is Tokens
    assert not tokens.any()


def test_another_network_than_the_signatures_is_refused() -> None:
    torch.manual_seed(0)
    network, x = Base().eval(), torch.randn(2, 4, 6)
    signature = pas.signature(network, x)
    architecture = signature.dense().keep("a", range(8))
    small = pas.slice(network, signature, architecture)
    with pytest.raises(pas.PasError, match=r"isn't the network that the signature was made of: it has a a.weight of \(8, 6\)"):
        pas.slice(small, signature, architecture)
    with pytest.raises(pas.PasError, match=r"it has no a.weight"):
        pas.slice(nn.Linear(6, 5), signature, architecture)
    with pytest.raises(pas.PasError, match="the network comes first, then an example of its input"):
        pas.signature(x, network)  # type: ignore[arg-type]
