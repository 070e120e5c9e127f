"""Searches with soft gates on small networks, step by step, so that they can be stopped and gone on with."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from searches import network
from torch import nn

import pas
from pas.data import Augment, load, make_loader
from pas.data.loader import Loader

STEPS = 20


def digits() -> Loader:
    data = load("digits", image_size=32)
    return make_loader(data, data.train, batch_size=16, train=True, augment=Augment(2, False, 0), seed=0, device="cpu", workers=0)


def searcher(method: str, model: nn.Module | None = None, budget: float = 0.5, steps: int = STEPS, **options) -> pas.Search:
    model = network() if model is None else model
    return pas.Search(model, torch.zeros(1, 1, 32, 32), budget=pas.Budget(macs=budget), method=method, steps=steps, **options)


def two_layers(method: str, budget: float = 0.5, steps: int = 100, **options) -> pas.Search:
    """1 -> 4 -> 2 -> 1 channels of 1x1 convolutions on one pixel: 4 + 8 + 2 = 14 MACs."""
    torch.manual_seed(0)
    chain = nn.Sequential(*(nn.Conv2d(a, b, 1, bias=False) for a, b in itertools.pairwise((1, 4, 2, 1))))
    return pas.Search(chain, torch.zeros(1, 1, 1, 1), budget=pas.Budget(macs=budget), method=method, steps=steps, **options)


def optimizer_of(search: pas.Search) -> torch.optim.Optimizer:
    return torch.optim.SGD(search.param_groups(lr=0.02, weight_decay=1e-4), lr=0.02, momentum=0.9, nesterov=True)


def train(search: pas.Search, loader: Loader, steps: int, first: int = 0, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Steps `first` to ``first + steps``. Random gates are drawn anew from a seed of the step's."""
    optimizer = optimizer or optimizer_of(search)
    search.model.train()
    for number, (x, y) in enumerate(itertools.islice(loader.epoch(0), first, first + steps), first):
        torch.manual_seed(number)
        (F.cross_entropy(search.model(x), y) + search.penalty()).backward()
        optimizer.step()
        optimizer.zero_grad()
        search.step()
