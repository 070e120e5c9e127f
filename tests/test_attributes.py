"""Attributes that count channels are told what stays, where that makes the module's own code right; else its graph comes back."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from networks import error, halves, randomised, run
from torch import Tensor, nn

import pas


def test_heads_of_a_vit_go_and_it_stays_a_vit() -> None:
    """12 blocks of 3 heads of 64: one head each stays, num_heads says so, and the scale is still that of 64."""
    model, x = randomised("vit_tiny_patch16_224", 224, seed=0)
    signature = pas.signature(model, x)
    heads = [axis for axis in signature.prunable if axis.size == 3]
    assert len(heads) == 12
    architecture = signature.dense()
    for number, axis in enumerate(heads):
        architecture = architecture.keep(axis.name, [number % 3])
    small = pas.slice(model, signature, architecture)
    assert type(small) is type(model)
    assert [block.attn.num_heads for block in small.blocks] == [1] * 12
    assert [block.attn.num_heads for block in model.blocks] == [3] * 12
    assert error(run(pas.mask(model, signature, architecture), x), run(small, x)) < 1e-12


@pytest.mark.parametrize("name", ["fasternet_t0", "inception_next_atto", "mixnet_s"])
def test_split_sizes_are_told(name: str) -> None:
    """Lists of sizes, and half of all axes."""
    model, x = randomised(name, 64, seed=0)
    signature = pas.signature(model, x)
    exact = tuple(axis for axis in signature.prunable if axis.exact)
    architecture = halves(signature, np.random.default_rng(0), exact)
    small = pas.slice(model, signature, architecture)
    assert type(small) is type(model)
    assert error(run(pas.mask(model, signature, architecture), x), run(small, x)) < 1e-12


class Coincidence(nn.Module):
    """`size` counts the channels of a head and is, by chance, what everything is divided by too."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 4
        self.a, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).reshape(*x.shape[:2], -1, self.size).relu() / self.size
        return self.head(y.flatten(2)).mean(1)


class InTraining(Coincidence):
    """The same in training only, which no trial in eval mode would notice."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).reshape(*x.shape[:2], -1, self.size).softmax(-1)
        return self.head((y / self.size if self.training else y).flatten(2)).mean(1)


class Pair(NamedTuple):
    left: int
    right: int


class Named(Coincidence):
    """A list of sizes of a type of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = Pair(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.a(x).unflatten(2, self.sizes).softmax(-1).flatten(2)).mean(1)


class Honest(Coincidence):
    """The same without the coincidence."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).reshape(*x.shape[:2], -1, self.size).softmax(-1)
        return self.head(y.flatten(2)).mean(1)


@pytest.mark.parametrize(("kind", "stays"), [(Coincidence, False), (InTraining, False), (Named, False), (Honest, True)])
def test_what_is_told_is_tried(kind: type[Coincidence], stays: bool) -> None:
    torch.manual_seed(0)
    network, x = kind().double().eval(), torch.randn(2, 5, 6, dtype=torch.float64)
    signature = pas.signature(network, x)
    axis = next(axis for axis in signature.prunable if axis.size == 4)
    architecture = signature.dense().keep(axis.name, [0, 2, 3])
    small = pas.slice(network, signature, architecture)
    assert isinstance(small, kind) is stays
    if axis.exact:
        assert error(run(pas.mask(network, signature, architecture), x), run(small, x)) < 1e-12
    assert network.size == 4
